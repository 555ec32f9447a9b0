"""What every composition rule offers: a scorer for many coalitions, and the model of one coalition.

    rule = WeightArithmetic(adapters)                      # or PolicyArithmetic, PeftMerging
    scorer = rule.scorer(pairs)
    scorer.margins(coalitions, beta)                       # (k, n) booleans to (k, M)
    model = rule.coalition(adapters.members("ann", "bob"))
    model.margins(pairs, beta)                             # (M,)
    model.generate("What is a cooperative?")

A margin is beta times the difference of log pi_S - log pi_0 between chosen and rejected completion, so
the empty coalition has margin 0 under every rule.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patronage_protocol.policy import TokenizedPair
from patronage_protocol.policy.tokenising import prompt_tokens
from patronage_protocol.preferences import ChatMessage
from patronage_server.composition.adapter_set import AdapterSet
from patronage_server.composition.decoding import Decoding, Generation, Mixture, generate
from patronage_server.composition.scoring import Progress
from patronage_server.composition.weighting import Weighting, check_coalitions, weighting

__all__ = ["CoalitionModel", "CoalitionScorer", "CompositionRule"]


class CoalitionScorer(ABC):
    """Scores coalitions on the pairs that it was made for. What can be used again is kept.

    Attributes:
        owners: n.
        passes: forward passes over all pairs so far, the base model's included.
    """

    owners: int
    passes: int

    @abstractmethod
    def logratios(
        self, coalitions: NDArray[np.bool_], progress: Progress | None = None
    ) -> NDArray[np.float64]:
        """log pi_S(y | x) - log pi_0(y | x), up to a number that depends on S and x alone.

        Args:
            coalitions: (k, n).
            progress: called with (steps done, steps in all).

        Returns:
            Shape (k, M, 2), in nats: chosen, rejected.

        Raises:
            UsageError: coalitions of another shape, or a composed model without finite log-probabilities.
            UnavailableError: the device has not enough memory.
        """

    def margins(
        self, coalitions: NDArray[np.bool_], beta: float, progress: Progress | None = None
    ) -> NDArray[np.float64]:
        """The margins (k, M) of coalitions (k, n); raises as `logratios`."""
        ratios = self.logratios(coalitions, progress)
        return np.asarray(beta * (ratios[:, :, 0] - ratios[:, :, 1]))


class CompositionRule(ABC):
    """A way of putting the adapters of a coalition together.

    Attributes:
        adapters: of the n owners.
        name: what reports call the rule.
    """

    adapters: AdapterSet
    name: str

    @abstractmethod
    def scorer(self, pairs: Sequence[TokenizedPair]) -> CoalitionScorer:
        """A scorer of coalitions on M pairs. Making it costs no forward pass."""

    @abstractmethod
    def mixture(self, members: NDArray[np.bool_]) -> Mixture:
        """The models of a coalition (n,) and how they are mixed at every token, for generation."""

    def coalition(self, members: NDArray[np.bool_]) -> "CoalitionModel":
        """The model of the coalition (n,).

        Raises:
            UsageError: `members` has another shape or type.
        """
        check_coalitions(np.asarray(members)[None], len(self.adapters))
        return CoalitionModel(self, members)


@dataclass(frozen=True, eq=False)
class CoalitionModel:
    """The language model that the owners of one coalition make together."""

    rule: CompositionRule
    members: NDArray[np.bool_]

    @property
    def owners(self) -> tuple[str, ...]:
        """The names of the members."""
        return tuple(
            owner for owner, there in zip(self.rule.adapters.owners, self.members, strict=True) if there
        )

    def logratios(self, pairs: Sequence[TokenizedPair]) -> NDArray[np.float64]:
        """log pi_S - log pi_0 of both completions (M, 2), as `CoalitionScorer.logratios`."""
        return np.asarray(self.rule.scorer(pairs).logratios(self.members[None])[0])

    def margins(self, pairs: Sequence[TokenizedPair], beta: float) -> NDArray[np.float64]:
        """The margins (M,) of the coalition on M pairs; raises as `CoalitionScorer.logratios`."""
        return np.asarray(self.rule.scorer(pairs).margins(self.members[None], beta)[0])

    def generate(
        self,
        prompt: str | tuple[ChatMessage, ...],
        decoding: Decoding = Decoding(),  # noqa: B008 - frozen
        progress: Progress | None = None,
    ) -> tuple[Generation, ...]:
        """Completions of a prompt: plain text, or messages that go through the chat template.

        Raises:
            UsageError: an empty prompt, or one that with the completion is longer than the model can read.
            DataError: messages, and the model has no chat template.
        """
        base = self.rule.adapters.base
        tokens = prompt_tokens(base, prompt)
        return generate(base, self.rule.mixture(self.members), tokens, decoding, progress)


def weighting_of(weights: str | Weighting, adapters: AdapterSet) -> tuple[str, Weighting]:
    """A weighting and what it is called, from a name or from somebody's own function."""
    if isinstance(weights, str):
        return weights, weighting(weights, adapters)
    return getattr(weights, "__name__", type(weights).__name__), weights
