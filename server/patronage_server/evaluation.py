"""Margins: n + 1 forward passes over the held-out pairs, and no coalition is ever run through the model.

    a[i, j] = beta ((log pi_i(y+|x) - log pi_0(y+|x)) - (log pi_i(y-|x) - log pi_0(y-|x)))

One model is in memory; adapters take turns in it. Several adapters in one pass would share only the layers
before the first adapted one, and that is the first layer: there is nothing to gain. The passes know nothing
of each other, so they can be done on several machines: see `ray_scoring`.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from patronage_protocol.adapters import Tensors
from patronage_protocol.errors import PatronageError, UsageError
from patronage_protocol.manifest import LoraTerms
from patronage_protocol.policy import BaseModel, TokenizedPair, adapted, completion_logprobs

__all__ = ["margins_of", "score_adapters", "scoring_problem"]


def score_adapters(
    base: BaseModel,
    adapters: Mapping[str, Tensors],
    pairs: Sequence[TokenizedPair],
    *,
    lora: LoraTerms,
    beta: float,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float64]:
    """The margin of every adapter on every pair.

    Args:
        base: the base model; it is left as it was.
        adapters: n adapters by the name of their owner.
        pairs: M held-out pairs.
        lora: the terms of the adapters.
        beta: of the round's DPO.
        progress: called with (steps done, steps in all).

    Returns:
        Shape (n, M), dimensionless, rows in the order of `adapters`.

    Raises:
        UsageError: a model gives a completion no finite log-probability; names the owner.
        UnavailableError: the device has not enough memory.
    """
    margins = np.zeros((len(adapters), len(pairs)))
    passes = len(adapters) + 1

    def step(number: int) -> Callable[[int, int], None] | None:
        if progress is None:
            return None
        return lambda done, total: progress(number * total + done, passes * total)

    with adapted(base.model, lora) as slot:
        reference = completion_logprobs(base.model, pairs, progress=step(0))
        for row, (owner, tensors) in enumerate(adapters.items()):
            slot.load(tensors)
            try:
                logprobs = completion_logprobs(base.model, pairs, progress=step(row + 1))
            except UsageError as error:
                raise scoring_problem(error, owner) from error
            margins[row] = margins_of(logprobs, reference, beta=beta)
    return margins


def margins_of(
    logprobs: NDArray[np.float64], reference: NDArray[np.float64], *, beta: float
) -> NDArray[np.float64]:
    """Margins of one adapter, shape (M,), from its log-probabilities and the base model's, each (M, 2)."""
    ratios = logprobs - reference
    margins: NDArray[np.float64] = beta * (ratios[:, 0] - ratios[:, 1])
    return margins


def scoring_problem(error: PatronageError, owner: str) -> UsageError:
    """What to say when the adapter of `owner` cannot be scored."""
    return UsageError(error.expected, got=error.got, do=error.do, where=f"the adapter of {owner}")
