"""How much a study measures; light, so that a slip of the pen is told at once."""

from dataclasses import dataclass
from typing import Literal, get_args

from patronage_protocol.errors import UsageError

__all__ = ["RULES", "STAGES", "Extent", "Stage"]

Stage = Literal["union", "rules", "sequences", "longer"]
STAGES: tuple[Stage, ...] = get_args(Stage)
RULES = ("weights:sum", "policy-tokens:sum", "weights:mean", "weights:size", "ties:sum", "dare_linear:sum")


@dataclass(frozen=True)
class Extent:
    """How much is measured.

    Attributes:
        stages: which of `STAGES`; `union` always is.
        rules: names of `patronage_server.composition.catalogue`, beside those that need no forward passes.
        sequence_seeds: for how many of the seeds coalitions are trained in sequence.
        epochs: of longer training, for the first seed; 0 for none.

    Raises:
        UsageError: a stage that there is not, or a number that cannot be.
    """

    stages: tuple[str, ...] = STAGES
    rules: tuple[str, ...] = RULES
    sequence_seeds: int = 3
    epochs: int = 0

    def __post_init__(self) -> None:
        for stage in self.stages:
            if stage not in STAGES:
                raise UsageError(
                    f"stages out of {', '.join(STAGES)}", got=repr(stage), do="name some of them"
                )
        if self.sequence_seeds < 0 or self.epochs < 0:
            raise UsageError(
                "numbers that are not negative",
                got=f"{self.sequence_seeds} seeds, {self.epochs} epochs",
                do="give 0 for none",
            )
