# mypy: allow-untyped-calls
"""Policy arithmetic: log pi_S = log pi_0 + sum_i c_i(S) (log pi_i - log pi_0) + const.

Sequential DPO multiplies policies (arXiv 2512.15765), of whole completions: `normalise="sequence"`. The
constant depends on the prompt alone and cancels between two completions of it, so n + 1 forward passes score
every coalition.

`normalise="token"` is the policy that can be sampled from (model arithmetic, Dekoninck et al., theorem 1,
arXiv 2311.14479): the same sum at every token, normalised over the vocabulary,

    pi_S(y_t | y_<t) = softmax(log pi_0 + sum_i c_i (log pi_i - log pi_0))(y_t).

It approximates the product over sequences: its normaliser depends on the prefix y_<t, and does not cancel.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patronage_protocol.errors import UsageError
from patronage_protocol.policy import TokenizedPair
from patronage_protocol.policy.scoring import (
    Batch,
    check_finite,
    default_batch_tokens,
    enough_memory,
    prediction_logits,
    scoring_batches,
)
from patronage_server.composition.adapter_set import AdapterSet
from patronage_server.composition.decoding import Mixture
from patronage_server.composition.rules import CoalitionScorer, CompositionRule, weighting_of
from patronage_server.composition.scoring import Progress, stacked_logprobs
from patronage_server.composition.stack import StackSlot, stacked
from patronage_server.composition.weighting import Weighting, check_coalitions
from patronage_server.composition.weights import stack_of

__all__ = ["PolicyArithmetic", "policy_rows"]

Normalise = Literal["sequence", "token"]

LOGITS = 1 << 27
"""Numbers that the logits of all models for one batch may hold: half a gigabyte in float32."""

_PIECE = 128
"""Predictions whose logits are worked on at one time."""


class PolicyArithmetic(CompositionRule):
    """The product of the members' policies, relative to the base model.

    Args:
        adapters: of the n owners.
        weights: `sum`, `mean`, `size`, or a function of one's own.
        normalise: how pairs are scored; generation always normalises tokens.
        batch_tokens: tokens in a batch, padding included; None is what suits the device.

    Raises:
        UsageError: no such weights or normalisation, or `size` and the sizes are not known.
    """

    def __init__(
        self,
        adapters: AdapterSet,
        weights: str | Weighting = "sum",
        *,
        normalise: Normalise = "sequence",
        batch_tokens: int | None = None,
    ) -> None:
        if normalise not in {"sequence", "token"}:
            raise UsageError("normalise sequence or token", got=repr(normalise), do="choose one of them")
        self.adapters = adapters
        name, self.weighting = weighting_of(weights, adapters)
        self.name = f"policy:{name}" if normalise == "sequence" else f"policy-tokens:{name}"
        self.normalise = normalise
        self.batch_tokens = batch_tokens
        self.stack = stack_of(adapters)

    def scorer(self, pairs: Sequence[TokenizedPair]) -> CoalitionScorer:
        """A scorer that takes one forward pass for each owner concerned, and one for the base model.

        With tokens normalised it takes them anew at every call, so ask for all coalitions at once.
        """
        return SequenceScorer(self, pairs) if self.normalise == "sequence" else TokenScorer(self, pairs)

    def mixture(self, members: NDArray[np.bool_]) -> Mixture:
        """The base model and every member alone, mixed by c_i."""
        rows, mixing = policy_rows(self.weighting(members[None]))
        return Mixture(self.stack, rows, mixing[0])


class SequenceScorer(CoalitionScorer):
    """Sums of log-ratios of whole completions; an owner is scored when a coalition first needs it."""

    def __init__(self, rule: PolicyArithmetic, pairs: Sequence[TokenizedPair]) -> None:
        self.owners, self.passes = len(rule.adapters), 0
        self._rule, self._pairs = rule, pairs
        self._reference: NDArray[np.float64] | None = None
        self._ratios = np.zeros((self.owners, len(pairs), 2))
        self._known = np.zeros(self.owners, dtype=np.bool_)

    def logratios(
        self, coalitions: NDArray[np.bool_], progress: Progress | None = None
    ) -> NDArray[np.float64]:
        matrix = check_coalitions(coalitions, self.owners)
        self._score(matrix.any(axis=0) & ~self._known, progress)
        return np.tensordot(self._rule.weighting(matrix), self._ratios, axes=1)

    def _score(self, wanted: NDArray[np.bool_], progress: Progress | None) -> None:
        rows = np.eye(self.owners)[wanted]
        if self._reference is None:
            rows = np.concatenate([np.zeros((1, self.owners)), rows])
        if not len(rows):
            return
        rule = self._rule
        values = stacked_logprobs(
            rule.adapters.base.model,
            rule.stack,
            rows,
            self._pairs,
            batch_tokens=rule.batch_tokens,
            progress=progress,
        )
        self.passes += len(rows)
        if self._reference is None:
            self._reference, values = values[0], values[1:]
        self._ratios[wanted] = values - self._reference
        self._known |= wanted


class TokenScorer(CoalitionScorer):
    """log pi_S with every token normalised over the vocabulary, less log pi_0."""

    def __init__(self, rule: PolicyArithmetic, pairs: Sequence[TokenizedPair]) -> None:
        self.owners, self.passes = len(rule.adapters), 0
        self._rule, self._pairs = rule, pairs

    def logratios(
        self, coalitions: NDArray[np.bool_], progress: Progress | None = None
    ) -> NDArray[np.float64]:
        matrix = check_coalitions(coalitions, self.owners)
        coefficients = self._rule.weighting(matrix)
        rows, mixing = policy_rows(coefficients)
        model = self._rule.adapters.base.model
        batches = scoring_batches(model, self._pairs, self._batch_tokens(len(rows)))
        sums = np.zeros((len(matrix) + 1, 2 * len(self._pairs)))
        mixing = np.concatenate([np.eye(1, len(rows)), mixing])  # the base model, for the ratio
        with stacked(model, self._rule.stack) as slot:
            for done, batch in enumerate(batches, start=1):
                sums[:, list(batch.slots)] = self._sums(slot, batch, rows, mixing)
                if progress is not None:
                    progress(done, len(batches))
        self.passes += len(rows)
        check_finite(sums)
        return np.asarray((sums[1:] - sums[0]).reshape(len(matrix), len(self._pairs), 2))

    def _sums(
        self, slot: StackSlot, batch: Batch, rows: NDArray[np.float64], mixing: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        model = self._rule.adapters.base.model
        with torch.inference_mode(), enough_memory(model.device, batch):
            logits = []
            for row in rows:
                slot.use(row[None])
                logits.append(prediction_logits(model, batch).float())
            tokens = _target_logprobs(torch.stack(logits), batch.targets.to(model.device), mixing)
            parts = tokens.double().split(batch.lengths, dim=1)
            return np.asarray(torch.stack([part.sum(dim=1) for part in parts], dim=1).cpu().numpy())

    def _batch_tokens(self, models: int) -> int:
        model = self._rule.adapters.base.model
        vocabulary = int(model.config.get_text_config().vocab_size)
        most = self._rule.batch_tokens or default_batch_tokens(model.device)
        return max(1, min(most, LOGITS // (models * vocabulary)))


def policy_rows(coefficients: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Which models policy arithmetic needs, and how it mixes their log-probabilities.

    Args:
        coefficients: (k, n), c_i(S).

    Returns:
        Rows (m, n) of stack coefficients: the base model, then each owner that some coalition uses, alone;
        and the mixing (k, m), which is 1 - sum_i c_i for the base model and c_i for owner i.
    """
    used = (coefficients != 0).any(axis=0)
    rows = np.concatenate([np.zeros((1, coefficients.shape[1])), np.eye(coefficients.shape[1])[used]])
    members = coefficients[:, used]
    return rows, np.concatenate([1.0 - members.sum(axis=1, keepdims=True), members], axis=1)


def _target_logprobs(logits: Tensor, targets: Tensor, mixing: NDArray[np.float64]) -> Tensor:
    """log pi_S of every target (k, predictions) from the logits (m, predictions, vocabulary) of m models."""
    weights = torch.as_tensor(mixing, dtype=logits.dtype, device=logits.device)
    result = torch.empty(len(weights), len(targets), device=logits.device)
    for start in range(0, len(targets), _PIECE):
        piece = slice(start, start + _PIECE)
        wanted = targets[piece, None]
        logprobs = logits[:, piece].log_softmax(dim=-1)
        for number, row in enumerate(weights):
            mixed = torch.tensordot(row, logprobs, dims=1)
            result[number, piece] = mixed.gather(1, wanted)[:, 0] - mixed.logsumexp(1)
    return result
