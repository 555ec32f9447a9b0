"""Preference pairs as token ids, the same ids that TRL's DPOTrainer trains on.

The rules are TRL's (`DPOTrainer._prepare_dataset` and `DataCollatorForPreference` of trl 1.16; a test
compares): conversations go through the chat template, the prompt with a generation prompt; plain completions
end with the end-of-text token; a completion starts where prompt and prompt + completion stop agreeing; what
is longer than `max_length` is cut at its end. What TRL would drop or learn nothing from is refused here.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, TypeAlias

from transformers import PreTrainedTokenizerBase

from patronage_protocol.errors import DataError
from patronage_protocol.policy.base import BaseModel
from patronage_protocol.preferences import ChatMessage, PreferencePair

__all__ = ["TokenizedPair", "end_tokens", "length_check", "prompt_tokens", "tokenize_pairs"]

_Part: TypeAlias = str | tuple[ChatMessage, ...]


@dataclass(frozen=True)
class TokenizedPair:
    """Token ids of a prompt and its two completions; none of them is empty."""

    prompt: tuple[int, ...]
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]


def tokenize_pairs(
    base: BaseModel, pairs: Iterable[PreferencePair], *, max_length: int
) -> tuple[TokenizedPair, ...]:
    """The token ids of `pairs`, each prompt with a completion cut to `max_length` tokens.

    Raises:
        DataError: a pair that cannot be trained on or scored; names its position, from 1.
    """
    result = []
    for number, pair in enumerate(pairs, start=1):
        tokens = _tokens(base.tokenizer, pair)
        problem = _problem(tokens, max_length)
        if problem is not None:
            raise DataError(
                f"a pair that fits {max_length} tokens",
                got=problem,
                do="leave it out, or raise max_length",
                where=f"pair {number}",
            )
        result.append(_cut(tokens, max_length))
    return tuple(result)


def length_check(base: BaseModel, max_length: int) -> Callable[[PreferencePair], str | None]:
    """A function that says why a pair cannot be used with this model and length, or None where it can."""

    def check(pair: PreferencePair) -> str | None:
        return _problem(_tokens(base.tokenizer, pair), max_length)

    return check


def prompt_tokens(base: BaseModel, prompt: _Part) -> tuple[int, ...]:
    """The token ids after which a completion of `prompt` begins; messages with a generation prompt.

    Raises:
        DataError: messages, and the model has no chat template.
    """
    return tuple(_ids(base.tokenizer, prompt, (), generate=True))


def end_tokens(base: BaseModel) -> frozenset[int]:
    """The tokens that end a text: the tokenizer's, and those that the model was published with."""
    published = getattr(base.model.generation_config, "eos_token_id", None)
    listed = published if isinstance(published, list) else [published]
    return frozenset(int(token) for token in (*listed, base.tokenizer.eos_token_id) if token is not None)


def _tokens(tokenizer: PreTrainedTokenizerBase, pair: PreferencePair) -> TokenizedPair:
    prompt = _ids(tokenizer, pair.prompt, (), generate=True)
    chosen = _ids(tokenizer, pair.prompt, pair.chosen)
    rejected = _ids(tokenizer, pair.prompt, pair.rejected)
    start = min(_common_prefix(prompt, chosen), _common_prefix(prompt, rejected))
    return TokenizedPair(tuple(prompt[:start]), tuple(chosen[start:]), tuple(rejected[start:]))


def _ids(
    tokenizer: PreTrainedTokenizerBase, prompt: _Part, completion: _Part, *, generate: bool = False
) -> list[int]:
    """The ids of a prompt, alone (an empty tuple as completion) or with a completion."""
    if isinstance(prompt, str):
        text = prompt + _ended(tokenizer, completion) if isinstance(completion, str) else prompt
        return list(tokenizer(text=text).input_ids)
    if tokenizer.chat_template is None:
        raise DataError(
            "a model with a chat template, for pairs made of messages",
            got="a tokenizer without one",
            do="use an instruction-tuned model, or plain text pairs",
        )
    messages = [
        message.model_dump() for message in (*prompt, *completion) if isinstance(message, ChatMessage)
    ]
    encoded: Any = tokenizer.apply_chat_template(
        messages, tokenize=True, return_dict=True, add_generation_prompt=generate
    )
    return list(encoded.input_ids)


def _ended(tokenizer: PreTrainedTokenizerBase, completion: str) -> str:
    end = tokenizer.eos_token or ""
    return completion if completion.endswith(end) else completion + end


def _common_prefix(left: list[int], right: list[int]) -> int:
    return sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(left, right, strict=False)))


def _cut(tokens: TokenizedPair, max_length: int) -> TokenizedPair:
    room = max_length - len(tokens.prompt)
    return TokenizedPair(tokens.prompt, tokens.chosen[:room], tokens.rejected[:room])


def _problem(tokens: TokenizedPair, max_length: int) -> str | None:
    if len(tokens.prompt) >= max_length:
        return (
            f"a prompt of {len(tokens.prompt)} tokens, which leaves no room for a completion in {max_length}"
        )
    if not tokens.prompt:
        return "a prompt of which no token comes before the completions"
    cut = _cut(tokens, max_length)
    if not cut.chosen or not cut.rejected:
        return "a completion without tokens"
    if cut.chosen == cut.rejected:
        return f"completions that are identical within {max_length} tokens"
    return None
