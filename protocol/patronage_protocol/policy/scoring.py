# mypy: allow-untyped-calls
"""log pi(y | x): the summed log-probability of a completion's tokens, for both completions of many pairs.

The two completions of a pair share their prompt, so a pair is one row, prompt + chosen + rejected, where the
rejected completion does not see the chosen one and its positions continue from the prompt: the prompt is
computed once. A pool of candidates is in the same way one row, or a few. Rows are sorted by length and put
in batches of at most `batch_tokens` with their padding. The output head runs only where a completion token is
predicted. Sums are in double precision, in a fixed order.

A result depends on which rows share a batch only through rounding: with float32 weights by less than 1e-4
nats a token. Models whose attention is not plain (sliding windows, recurrent layers, no rotary positions) get
one row for each completion instead.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from patronage_protocol.errors import UnavailableError, UsageError
from patronage_protocol.policy.tokenising import TokenizedPair

__all__ = [
    "Batch",
    "batch_inputs",
    "batch_logprobs",
    "candidate_logprobs",
    "check_finite",
    "completion_logprobs",
    "default_batch_tokens",
    "enough_memory",
    "pair_batch",
    "pair_batches",
    "prediction_logits",
    "scoring_batches",
    "sequence_logprobs",
    "shares_prompts",
]

# Rows of logits that are in float32 at one time; in larger pieces the sums leave the processor's cache.
_PIECE = 128
# Candidates that share one row: attention costs the square of a row's length.
_MOST_IN_ROW = 4


@dataclass(frozen=True)
class _Row:
    """Prompt and one or more completions. `slots` says where their sums belong in the flat result."""

    prompt: tuple[int, ...]
    completions: tuple[tuple[int, ...], ...]
    slots: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt) + sum(len(completion) for completion in self.completions)


@dataclass(frozen=True)
class Batch:
    """Rows as tensors. The k-th prediction is made at (rows[k], columns[k]) and is right with targets[k].

    Predictions stand completion after completion, as long as `lengths` says, for the entries `slots` of a
    flat result.
    """

    input_ids: Tensor
    positions: Tensor
    segments: Tensor
    rows: Tensor
    columns: Tensor
    targets: Tensor
    lengths: tuple[int, ...]
    slots: tuple[int, ...]


def completion_logprobs(
    model: PreTrainedModel,
    pairs: Sequence[TokenizedPair],
    *,
    batch_tokens: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float64]:
    """The log-probability of the chosen and of the rejected completion of each pair, given its prompt.

    Args:
        model: a causal language model, with or without an adapter in place.
        pairs: M pairs.
        batch_tokens: the size of a batch, padding included; None is what suits the device.
        progress: called with (rows done, rows in all) after each batch.

    Returns:
        Shape (M, 2), in nats, in the order of `pairs`.

    Raises:
        UnavailableError: the device has not enough memory for a batch.
        UsageError: a completion has no finite log-probability under this model.
    """
    batches = scoring_batches(model, pairs, batch_tokens)
    return _all_logprobs(model, batches, 2 * len(pairs), progress).reshape(-1, 2)


def candidate_logprobs(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    candidates: Sequence[Sequence[Sequence[int]]],
    *,
    batch_tokens: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float64]:
    """The log-probability of each of K candidates for each of M prompts.

    Args:
        model: a causal language model, with or without an adapter in place.
        prompts: M prompts as token ids, none empty.
        candidates: for each prompt K completions as token ids, none empty.
        batch_tokens: the size of a batch, padding included; None is what suits the device.
        progress: called with (rows done, rows in all) after each batch.

    Returns:
        Shape (M, K), in nats.

    Raises:
        UnavailableError, UsageError: as `completion_logprobs`.
    """
    size = len(candidates[0]) if candidates else 0
    together = _MOST_IN_ROW if shares_prompts(model) else 1
    rows = [
        _Row(
            tuple(prompt),
            tuple(map(tuple, pool[start : start + together])),
            tuple(range(size * index + start, size * index + min(start + together, size))),
        )
        for index, (prompt, pool) in enumerate(zip(prompts, candidates, strict=True))
        for start in range(0, size, together)
    ]
    batches = [_batch(part) for part in _batches(rows, batch_tokens or default_batch_tokens(model.device))]
    return _all_logprobs(model, batches, size * len(prompts), progress).reshape(len(prompts), size)


def _all_logprobs(
    model: PreTrainedModel,
    batches: Sequence[Batch],
    count: int,
    progress: Callable[[int, int], None] | None,
) -> NDArray[np.float64]:
    """The log-probability of every completion of the batches, at its slot; (count,), all finite."""
    sums = np.zeros(count)
    done, total = 0, sum(len(batch.input_ids) for batch in batches)
    for batch in batches:
        sums[list(batch.slots)] = batch_logprobs(model, batch)
        done += len(batch.input_ids)
        if progress is not None:
            progress(done, total)
    check_finite(sums)
    return sums


def scoring_batches(
    model: PreTrainedModel, pairs: Sequence[TokenizedPair], batch_tokens: int | None = None
) -> tuple[Batch, ...]:
    """The batches in which `completion_logprobs` scores M pairs: slots 2 i and 2 i + 1 belong to the i-th."""
    rows = _rows(pairs, share=shares_prompts(model))
    return tuple(
        _batch(members) for members in _batches(rows, batch_tokens or default_batch_tokens(model.device))
    )


def batch_logprobs(model: PreTrainedModel, batch: Batch) -> NDArray[np.float64]:
    """The summed log-probability of every completion of a batch, in the order of its slots.

    Raises:
        UnavailableError: the device has not enough memory.
    """
    with torch.inference_mode(), enough_memory(model.device, batch):
        return np.asarray(sequence_logprobs(model, batch).cpu().numpy())


@contextmanager
def enough_memory(device: torch.device, batch: Batch) -> Iterator[None]:
    """Turn torch's error about memory into one that says what to do."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UnavailableError(
            f"memory on {device} for a batch of {batch.input_ids.numel()} tokens",
            got=str(error).splitlines()[0],
            do="lower batch_tokens, or use another device",
        ) from error


def check_finite(sums: NDArray[np.float64]) -> None:
    """Refuse log-probabilities that are no numbers.

    Raises:
        UsageError: NaN or infinity; says for how many completions.
    """
    if not np.isfinite(sums).all():
        raise UsageError(
            "finite log-probabilities",
            got=f"NaN or infinity for {int((~np.isfinite(sums)).sum())} completions",
            do="use float32, or check the model and the adapter",
        )


def sequence_logprobs(model: PreTrainedModel, batch: Batch) -> Tensor:
    """The summed log-probability of every completion of a batch, in float64; can be differentiated.

    The output head gets only the hidden states that predict a token of a completion.
    """
    targets = batch.targets.to(model.device)
    logits = prediction_logits(model, batch)
    exact = torch.promote_types(logits.dtype, torch.float32)
    tokens = [
        piece.gather(1, wanted[:, None])[:, 0] - piece.logsumexp(1)
        for piece, wanted in zip(
            (part.to(exact) for part in logits.split(_PIECE)), targets.split(_PIECE), strict=True
        )
    ]
    return torch.stack([part.sum() for part in torch.cat(tokens).double().split(batch.lengths)])


def prediction_logits(model: PreTrainedModel, batch: Batch) -> Tensor:
    """The logits (predictions, vocabulary) at the places of a batch that predict a token of a completion."""
    rows, columns = batch.rows.to(model.device), batch.columns.to(model.device)

    def only_predictions(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (inputs[0][rows, columns][None], *inputs[1:])

    handle = model.get_output_embeddings().register_forward_pre_hook(only_predictions)
    try:
        logits: Tensor = model(**batch_inputs(batch, model.device)).logits[0]
    finally:
        handle.remove()
    return logits


def batch_inputs(batch: Batch, device: torch.device) -> dict[str, Any]:
    """What a model is called with for a batch."""
    shared = len(batch.lengths) > len(batch.input_ids)
    return {
        "input_ids": batch.input_ids.to(device),
        "position_ids": batch.positions.to(device),
        "attention_mask": _sees(batch.segments.to(device)) if shared else None,
        "use_cache": False,
    }


def pair_batch(pairs: Sequence[TokenizedPair], *, share: bool = True) -> Batch:
    """Pairs as one batch, slots 2 i and 2 i + 1 for the completions of the i-th: in one row, or in two."""
    return _batch(_rows(pairs, share=share))


def pair_batches(pairs: Sequence[TokenizedPair], batch_tokens: int) -> Iterator[Batch]:
    """Pairs with shared prompts in the batches in which they are scored."""
    return (_batch(members) for members in _batches(_rows(pairs, share=True), batch_tokens))


def default_batch_tokens(device: torch.device) -> int:
    """Enough to keep the device busy; more costs memory for logits and gains nothing."""
    return 16384 if device.type == "cuda" else 1024


def shares_prompts(model: PreTrainedModel) -> bool:
    """Whether a mask and positions of our own are all that this model needs to share a prompt."""
    config = model.config.get_text_config()
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    return (
        getattr(config, "rope_parameters", None) is not None
        and getattr(config, "sliding_window", None) is None
        and layers == {"full_attention"}
        and config._attn_implementation == "sdpa"
        and not getattr(model, "_is_stateful", False)
    )


def _rows(pairs: Sequence[TokenizedPair], *, share: bool) -> list[_Row]:
    rows = []
    for index, pair in enumerate(pairs):
        completions, slots = (pair.chosen, pair.rejected), (2 * index, 2 * index + 1)
        if share:
            rows.append(_Row(pair.prompt, completions, slots))
        else:
            rows += [_Row(pair.prompt, (y,), (slot,)) for y, slot in zip(completions, slots, strict=True)]
    return rows


def _batches(rows: list[_Row], batch_tokens: int) -> Iterator[list[_Row]]:
    """Rows of like length together; `sorted` is stable, so the batches follow from the input alone."""
    batch: list[_Row] = []
    for row in sorted(rows, key=len):
        if batch and (len(batch) + 1) * len(row) > batch_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _batch(members: list[_Row]) -> Batch:
    width = max(len(row) for row in members)
    tokens, segments = (np.zeros((len(members), width), dtype=np.int64) for _ in range(2))
    positions = np.tile(np.arange(width), (len(members), 1))
    predictions: list[NDArray[np.int64]] = []
    for index, row in enumerate(members):
        start = prompt = len(row.prompt)
        tokens[index, :prompt] = row.prompt
        for number, completion in enumerate(row.completions, start=1):
            end = start + len(completion)
            tokens[index, start:end] = completion
            positions[index, start:end] = np.arange(prompt, prompt + len(completion))
            segments[index, start:end] = number
            seen_from = np.concatenate([[prompt - 1], np.arange(start, end - 1)])
            predictions.append(np.stack([np.full(len(completion), index), seen_from, completion]))
            start = end
    rows, columns, targets = torch.from_numpy(np.concatenate(predictions, axis=1))
    return Batch(
        input_ids=torch.from_numpy(tokens),
        positions=torch.from_numpy(positions),
        segments=torch.from_numpy(segments),
        rows=rows,
        columns=columns,
        targets=targets,
        lengths=tuple(len(completion) for row in members for completion in row.completions),
        slots=tuple(slot for row in members for slot in row.slots),
    )


def _sees(segments: Tensor) -> Tensor:
    """(batch, 1, width, width): a token sees itself and what is before it, but not another completion.

    Padding comes last, so nothing that counts sees it.
    """
    width = segments.shape[1]
    causal = torch.ones(width, width, dtype=torch.bool, device=segments.device).tril()
    theirs = segments[:, None, :]
    apart = (theirs > 0) & (segments[:, :, None] != theirs)
    return (causal & ~apart)[:, None]
