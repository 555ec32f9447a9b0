"""log pi(y | x) under many rows of coefficients: coalitions in turn, and several a batch where pairs are few.

A batch that fills the memory allowed for it holds one coalition; where all pairs together take less,
coalitions fill it up. The base model is in memory once.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from patronage_protocol.policy import TokenizedPair
from patronage_protocol.policy.scoring import (
    Batch,
    batch_logprobs,
    check_finite,
    default_batch_tokens,
    scoring_batches,
)
from patronage_server.composition.stack import Stack, stacked

__all__ = ["Progress", "stacked_logprobs"]

Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all)."""


def stacked_logprobs(
    model: PreTrainedModel,
    stack: Stack,
    coefficients: NDArray[np.float64],
    pairs: Sequence[TokenizedPair],
    *,
    batch_tokens: int | None = None,
    progress: Progress | None = None,
) -> NDArray[np.float64]:
    """The log-probability of both completions of M pairs under k rows of coefficients.

    Args:
        model: the base model; it is left as it was.
        stack: n adapters.
        coefficients: (k, n); a row of zeros is the base model.
        pairs: M pairs.
        batch_tokens: the size of a batch, padding included; None is what suits the device.
        progress: called after each batch.

    Returns:
        Shape (k, M, 2), in nats.

    Raises:
        UnavailableError: the device has not enough memory for a batch.
        UsageError: a completion has no finite log-probability under a composed model.
    """
    size = batch_tokens or default_batch_tokens(model.device)
    batches = scoring_batches(model, pairs, size)
    together = max(1, size // max(batch.input_ids.numel() for batch in batches))
    sums = np.zeros((len(coefficients), 2 * len(pairs)))
    done, total = 0, len(coefficients) * len(batches)
    with stacked(model, stack) as slot:
        for start in range(0, len(coefficients), together):
            rows = coefficients[start : start + together]
            if len(rows) == 1:
                slot.use(rows)
            for batch in batches:
                if len(rows) > 1:
                    slot.use(np.repeat(rows, len(batch.input_ids), axis=0))
                values = batch_logprobs(model, _repeated(batch, len(rows)))
                sums[start : start + len(rows), batch.slots] = values.reshape(len(rows), -1)
                done += len(rows)
                if progress is not None:
                    progress(done, total)
    check_finite(sums)
    return sums.reshape(len(coefficients), len(pairs), 2)


def _repeated(batch: Batch, times: int) -> Batch:
    """The rows of a batch `times` over, one copy after the other."""
    if times == 1:
        return batch
    offsets = torch.arange(times).repeat_interleave(len(batch.rows)) * len(batch.input_ids)
    return Batch(
        input_ids=batch.input_ids.repeat(times, 1),
        positions=batch.positions.repeat(times, 1),
        segments=batch.segments.repeat(times, 1),
        rows=batch.rows.repeat(times) + offsets,
        columns=batch.columns.repeat(times),
        targets=batch.targets.repeat(times),
        lengths=batch.lengths * times,
        slots=batch.slots * times,
    )
