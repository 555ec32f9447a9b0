# mypy: allow-untyped-calls
"""What a model makes of a completion before it chooses words: the mean hidden state over its tokens.

The state is the input of the output head, the penultimate layer of the network. Every token of a completion
counts, the last one too, which has seen the whole of it. A pair is represented by the difference
h(x, y+) - h(x, y-): what the two completions share cancels, and exchanging the labels changes the sign.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from patronage_protocol.policy.scoring import (
    Batch,
    batch_inputs,
    check_finite,
    enough_memory,
    scoring_batches,
)
from patronage_protocol.policy.tokenising import TokenizedPair

__all__ = ["completion_representations"]


def completion_representations(
    model: PreTrainedModel,
    pairs: Sequence[TokenizedPair],
    *,
    batch_tokens: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float64]:
    """The mean hidden states of the chosen and of the rejected completion of each pair.

    Args:
        model: a causal language model of hidden width d, with or without an adapter in place.
        pairs: M pairs.
        batch_tokens: the size of a batch, padding included; None is what suits the device.
        progress: called with (rows done, rows in all) after each batch.

    Returns:
        Shape (M, 2, d), in the order of `pairs`.

    Raises:
        UnavailableError: the device has not enough memory for a batch.
        UsageError: a state is not finite.
    """
    batches = scoring_batches(model, pairs, batch_tokens)
    done, total = 0, sum(len(batch.input_ids) for batch in batches)
    states: NDArray[np.float64] | None = None
    for batch in batches:
        with torch.inference_mode(), enough_memory(model.device, batch):
            means = _means(_hidden(model, batch), batch).cpu().numpy()
        if states is None:
            states = np.zeros((2 * len(pairs), means.shape[1]))
        states[list(batch.slots)] = means
        done += len(batch.input_ids)
        if progress is not None:
            progress(done, total)
    assert states is not None, "there is at least one pair"
    check_finite(states)
    return states.reshape(len(pairs), 2, -1)


def _hidden(model: PreTrainedModel, batch: Batch) -> Tensor:
    """The input of the output head, (rows, width, d); the head itself gets one token only."""
    caught: list[Tensor] = []

    def catch(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        caught.append(inputs[0])
        return (inputs[0][:1, :1], *inputs[1:])

    handle = model.get_output_embeddings().register_forward_pre_hook(catch)
    try:
        model(**batch_inputs(batch, model.device))
    finally:
        handle.remove()
    return caught[0]


def _means(hidden: Tensor, batch: Batch) -> Tensor:
    """(completions, d), row after row and completion after completion, as the slots are."""
    segments = batch.segments.to(hidden.device)
    each = len(batch.lengths) // len(batch.input_ids)
    masks = torch.stack([segments == number for number in range(1, each + 1)], dim=1).double()
    sums = torch.einsum("rct,rtd->rcd", masks, hidden.double())
    return (sums / masks.sum(2, keepdim=True)).flatten(0, 1)
