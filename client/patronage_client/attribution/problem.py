"""What a valuation starts from and what it returns: the interface between methods and the command."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patronage_protocol.errors import UsageError
from patronage_protocol.manifest import DpoTerms, LoraTerms
from patronage_protocol.policy import BaseModel
from patronage_protocol.preferences import PreferencePair, overlap

__all__ = ["Problem", "Progress", "Valuation", "check_problem", "no_progress"]

Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all)."""


def no_progress(done: int, total: int) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True)
class Problem:
    """Pairs to value, and what their values are measured on.

    Attributes:
        base: the base model of the round.
        lora: what would be trained, and from where.
        dpo: how it would be trained.
        pairs: the owner's pairs, n of them.
        validation: the preferences that training is meant to improve: a round's public development pairs,
            or pairs that the owner holds out. None of them is among `pairs`.
        workdir: a folder for what a method keeps between interruptions; it exists.
        seed: of whatever a method draws.
        progress: to be called as work goes on.
    """

    base: BaseModel
    lora: LoraTerms
    dpo: DpoTerms
    pairs: tuple[PreferencePair, ...]
    validation: tuple[PreferencePair, ...]
    workdir: Path
    seed: int = 0
    progress: Progress = field(default=no_progress, compare=False)


@dataclass(frozen=True)
class Valuation:
    """One value a pair, in the order of the problem's pairs. Higher = helps.

    Attributes:
        method: the method's name in the registry.
        units: what the numbers count, such as "nats of validation loss".
        values: shape (n,), finite.
        notes: lines for a person: checks that the method made, choices, warnings.
    """

    method: str
    units: str
    values: NDArray[np.float64]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.values.ndim != 1 or not np.isfinite(self.values).all():
            raise UsageError(
                "one finite value a pair",
                got=f"{int((~np.isfinite(self.values)).sum())} values that are not finite, "
                f"shape {self.values.shape}",
                do="lower the learning rate, or use float32",
                where=self.method,
            )


def check_problem(pairs: Sequence[PreferencePair], validation: Sequence[PreferencePair]) -> None:
    """Refuse what no method can value.

    Raises:
        UsageError: no pairs, no validation pairs, or validation prompts that are trained on.
    """
    if not pairs:
        raise UsageError("at least one pair to value", got="none", do="check the file")
    if not validation:
        raise UsageError(
            "at least one validation pair",
            got="none",
            do="name a file with --validation, or keep a part of the pairs with --hold-out 0.2",
        )
    shared = overlap(validation, pairs).prompts
    if shared:
        raise UsageError(
            "validation pairs whose prompts are not among the pairs to value",
            got=f"{len(shared)} of {len(validation)} that are (the first is number {shared[0] + 1})",
            do="take them out of one of the two: a pair that is measured on itself always seems to help",
        )
