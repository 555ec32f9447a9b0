# mypy: allow-untyped-calls
"""Answers drawn from a model: batched, with caches, at temperature one and nothing cut off but the length.

Only then is what is drawn distributed as pi(y | x) says, which importance weights need. Every answer has its
own stream of uniform numbers, one a token, and takes the token at which the distribution function passes it;
so an answer depends on the seed, its prompt and its number, and not on what shares its batch, but for
rounding. An answer ends with the end-of-text token, which belongs to it, or at the length.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from patronage_protocol.errors import UnavailableError, UsageError
from patronage_protocol.policy import BaseModel, end_tokens
from patronage_protocol.valuation.streams import Stream

__all__ = ["Order", "sample"]

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class Order:
    """One answer that is wanted: to this prompt, with this number among those to the same prompt."""

    prompt: Tokens
    number: int


def sample(
    base: BaseModel,
    orders: Sequence[Order],
    *,
    max_new_tokens: int,
    seed: int,
    batch_rows: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Tokens]:
    """An answer to every order, as token ids, from the model as it is now (an adapter in place counts).

    Args:
        base: the model and its tokenizer.
        orders: what is wanted.
        max_new_tokens: the length at which answers are cut.
        seed: of the draws.
        batch_rows: answers that are drawn at one time; None is what suits the device.
        progress: called with (answers done, answers in all).

    Raises:
        UsageError: a prompt and its answer exceed the positions of the model.
        UnavailableError: the device has not enough memory for a batch.
    """
    _check_room(base, orders, max_new_tokens)
    rows = batch_rows or (128 if base.device.type == "cuda" else 16)
    order = sorted(range(len(orders)), key=lambda place: (len(orders[place].prompt), place))
    answers: list[Tokens] = [()] * len(orders)
    for start in range(0, len(order), rows):
        places = order[start : start + rows]
        batch = [orders[place] for place in places]
        try:
            drawn = _batch(base, batch, max_new_tokens, seed)
        except torch.OutOfMemoryError as error:
            raise UnavailableError(
                f"memory on {base.device} for {len(batch)} answers at a time",
                got=str(error).splitlines()[0],
                do="use another device, or ask for shorter answers",
            ) from error
        for place, answer in zip(places, drawn, strict=True):
            answers[place] = answer
        if progress is not None:
            progress(start + len(places), len(orders))
    return answers


def _check_room(base: BaseModel, orders: Sequence[Order], max_new_tokens: int) -> None:
    room = getattr(base.model.config.get_text_config(), "max_position_embeddings", None)
    longest = max((len(order.prompt) for order in orders), default=0) + max_new_tokens
    if room is not None and longest > room:
        raise UsageError(
            f"prompts and answers within the {room} positions of {base.name}",
            got=f"{longest} tokens",
            do="ask for fewer max_new_tokens, or hold out shorter prompts",
        )


@torch.inference_mode()
def _batch(base: BaseModel, orders: Sequence[Order], length: int, seed: int) -> list[Tokens]:
    """Prompts are padded on their left, where nothing sees the padding."""
    device, width = base.device, max(len(order.prompt) for order in orders)
    padded = [(base.pad_id,) * (width - len(order.prompt)) + order.prompt for order in orders]
    mask = torch.tensor(
        [[int(i >= width - len(o.prompt)) for i in range(width)] for o in orders], device=device
    )
    uniforms = torch.tensor(
        [_uniforms(order, seed, length) for order in orders], dtype=torch.float64, device=device
    )
    ends = end_tokens(base)
    drawn: list[Tensor] = []
    done = torch.zeros(len(orders), dtype=torch.bool, device=device)
    for step, tokens in enumerate(
        _next_tokens(base.model, torch.tensor(padded, device=device), mask, uniforms)
    ):
        drawn.append(tokens)
        done |= torch.isin(tokens, torch.tensor(sorted(ends), device=device))
        if step + 1 == length or bool(done.all()):
            break
    table = torch.stack(drawn, dim=1).tolist()
    return [_ended(row, ends) for row in table]


def _next_tokens(model: PreTrainedModel, ids: Tensor, mask: Tensor, uniforms: Tensor) -> Iterator[Tensor]:
    """Token after token of every row, for as long as there are uniform numbers."""
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    cache: Any = None

    def only_last(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (inputs[0][:, -1:], *inputs[1:])

    handle = model.get_output_embeddings().register_forward_pre_hook(only_last)
    try:
        for step in range(uniforms.shape[1]):
            found: Any = model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
            )
            cache = found.past_key_values
            tokens = _inverse(found.logits[:, -1], uniforms[:, step])
            yield tokens
            ids, positions = tokens[:, None], positions[:, -1:] + 1
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
    finally:
        handle.remove()


def _inverse(logits: Tensor, uniforms: Tensor) -> Tensor:
    """The first token at which the distribution function exceeds the uniform number, in double precision."""
    reached = torch.softmax(logits.double(), dim=-1).cumsum(-1)
    wanted = uniforms[:, None] * reached[:, -1:]
    return torch.searchsorted(reached, wanted, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)


def _uniforms(order: Order, seed: int, length: int) -> list[float]:
    text = f"patronage answer v1\n{seed}\n{order.number}\n{' '.join(map(str, order.prompt))}\n"
    key = int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big")
    return [float(number) for number in Stream(key).uniforms(length)]


def _ended(row: list[int], ends: frozenset[int]) -> Tokens:
    stop = next((place + 1 for place, token in enumerate(row) if token in ends), len(row))
    return tuple(row[:stop])
