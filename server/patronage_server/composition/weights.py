"""Weight arithmetic: dW_S = sum_i c_i(S) dW_i, one forward pass a coalition, exact by rank concatenation.

Where the loss is close to quadratic around pi_0, the sum of the dW is what training one after the other gives
(task arithmetic, Ilharco et al., arXiv 2212.04089). dW is never formed: the factors stand side by side, and a
coalition is a row of coefficients.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from patronage_protocol.policy import TokenizedPair
from patronage_server.composition.adapter_set import AdapterSet
from patronage_server.composition.decoding import Mixture
from patronage_server.composition.rules import CoalitionScorer, CompositionRule, weighting_of
from patronage_server.composition.scoring import Progress, stacked_logprobs
from patronage_server.composition.stack import Stack, factors_of
from patronage_server.composition.weighting import Weighting, check_coalitions

__all__ = ["WeightArithmetic", "stack_of"]


class WeightArithmetic(CompositionRule):
    """The sum of the members' dW, weighted.

    Args:
        adapters: of the n owners.
        weights: `sum`, `mean`, `size`, or a function of one's own.
        batch_tokens: tokens in a batch, padding included; None is what suits the device.

    Raises:
        UsageError: no such weights, or `size` and the sizes are not known.
    """

    def __init__(
        self, adapters: AdapterSet, weights: str | Weighting = "sum", *, batch_tokens: int | None = None
    ) -> None:
        self.adapters = adapters
        name, self.weighting = weighting_of(weights, adapters)
        self.name = f"weights:{name}"
        self.batch_tokens = batch_tokens
        self.stack = stack_of(adapters)

    def scorer(self, pairs: Sequence[TokenizedPair]) -> "WeightScorer":
        """A scorer that takes one forward pass a coalition, and one for the base model."""
        return WeightScorer(self, pairs)

    def mixture(self, members: NDArray[np.bool_]) -> Mixture:
        """One model, with the members' updates added."""
        return Mixture(self.stack, self.weighting(members[None]), np.ones(1))


class WeightScorer(CoalitionScorer):
    """Coalitions of merged weights on M pairs; the base model is scored once."""

    def __init__(self, rule: WeightArithmetic, pairs: Sequence[TokenizedPair]) -> None:
        self.owners, self.passes = len(rule.adapters), 0
        self._rule, self._pairs = rule, pairs
        self._reference: NDArray[np.float64] | None = None

    def logratios(
        self, coalitions: NDArray[np.bool_], progress: Progress | None = None
    ) -> NDArray[np.float64]:
        rows = self._rule.weighting(check_coalitions(coalitions, self.owners))
        reference = self._reference
        if reference is None:
            rows = np.concatenate([np.zeros((1, self.owners)), rows])
        values = stacked_logprobs(
            self._rule.adapters.base.model,
            self._rule.stack,
            rows,
            self._pairs,
            batch_tokens=self._rule.batch_tokens,
            progress=progress,
        )
        self.passes += len(rows)
        if reference is None:
            reference, values = values[0], values[1:]
            self._reference = reference
        return np.asarray(values - reference)


def stack_of(adapters: AdapterSet) -> Stack:
    """All adapters of a set, side by side on the device of its base model."""
    lora, device = adapters.lora, adapters.base.device
    return Stack.of(
        [factors_of(tensors, lora.modules(), lora.scaling, device) for tensors in adapters.adapters.values()]
    )
