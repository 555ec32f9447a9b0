"""Preference pairs: a prompt, the completion that was chosen and the one that was rejected.

The format is TRL's preference format (TRL documentation, "Dataset formats and types"), plain (strings) or
conversational (messages). The prompt is explicit here; `pair_from_row` makes TRL's implicit prompt explicit
where that can be told exactly. Files are read by `pair_files`; nothing here tokenises.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from pydantic import ValidationError, model_validator

from patronage_protocol.canonical import Canonical, canonical_bytes, sha256
from patronage_protocol.errors import DataError

__all__ = ["ChatMessage", "Overlap", "PreferencePair", "overlap", "pair_from_row", "training_order"]


class ChatMessage(Canonical):
    """One turn of a conversation."""

    role: str
    content: str


Text = str | tuple[ChatMessage, ...]
_SURROGATE = re.compile(r"[\ud800-\udfff]")


class PreferencePair(Canonical):
    """One judgement: of two completions of `prompt`, `chosen` was preferred to `rejected`.

    All three are strings, or all three are sequences of messages. `source` is a free label (a skill, an
    application) by which a report may group pairs; it never reaches a model.
    """

    prompt: Text
    chosen: Text
    rejected: Text
    source: str = ""

    @model_validator(mode="after")
    def _usable(self) -> Self:
        parts = {"prompt": self.prompt, "chosen": self.chosen, "rejected": self.rejected}
        if len({isinstance(part, str) for part in parts.values()}) != 1:
            raise ValueError("prompt, chosen and rejected must be all strings or all lists of messages")
        for name, part in parts.items():
            if _is_blank(part):
                raise ValueError(f"{name} is empty")
        if self.chosen == self.rejected:
            raise ValueError("chosen and rejected are identical")
        return self

    @property
    def conversational(self) -> bool:
        """Whether the pair is made of messages, so that the chat template applies."""
        return not isinstance(self.prompt, str)

    @property
    def prompt_digest(self) -> str:
        """Pairs with one prompt are not independent: this names their cluster."""
        return sha256(canonical_bytes(self.model_dump(mode="json")["prompt"]))


@dataclass(frozen=True, slots=True)
class Overlap:
    """Where held-out pairs meet an owner's data: ascending indices into the held-out pairs.

    Attributes:
        pairs: the same prompt with the same two completions, in either order.
        prompts: the same prompt, whatever the completions; contains `pairs`.
    """

    pairs: tuple[int, ...]
    prompts: tuple[int, ...]


def overlap(held_out: Sequence[PreferencePair], owner_pairs: Iterable[PreferencePair]) -> Overlap:
    """Find held-out pairs that an owner could have trained on. Texts are compared exactly; labels are not."""
    prompts: set[Text] = set()
    comparisons: set[tuple[Text, frozenset[Text]]] = set()
    for pair in owner_pairs:
        prompts.add(pair.prompt)
        comparisons.add(_comparison(pair))
    return Overlap(
        pairs=tuple(j for j, pair in enumerate(held_out) if _comparison(pair) in comparisons),
        prompts=tuple(j for j, pair in enumerate(held_out) if pair.prompt in prompts),
    )


def training_order(pairs: Sequence[PreferencePair], *, seed: int) -> tuple[int, ...]:
    """The order in which every owner trains on its pairs, as indices: by SHA-256(seed || LF || pair).

    The pairs decide it and not the file, so whoever copies a file and shuffles or relabels it trains to the
    same adapter, and whoever exchanges some pairs to a similar one; in another order the few steps of
    stochastic training lead elsewhere, and a copy could not be told from an honest owner (docs/scenarios.md).
    """
    prefix = f"{seed}\n".encode()
    keys = [sha256(prefix + pair.model_copy(update={"source": ""}).encode()) for pair in pairs]
    return tuple(sorted(range(len(pairs)), key=keys.__getitem__))


def pair_from_row(row: object) -> PreferencePair:
    """Make a pair of one row of a data set: a mapping with `prompt`, `chosen`, `rejected`, perhaps `source`.

    Other columns are ignored, and so is a `source` that is not a string. Where `chosen` and `rejected` are
    conversations and `prompt` is missing, or is a string beside them, the prompt is the longest run of
    messages with which both begin (TRL's `extract_prompt`). Of plain strings that could only be guessed:
    two answers may begin with the same words.

    Raises:
        DataError: the row is no usable pair; `got` says what is wrong with it, and `where` is empty.
    """
    if not isinstance(row, Mapping):
        raise _unusable(f"{_kind(row)} instead of an object with prompt, chosen and rejected")
    prompt, chosen, rejected = (_text(row, name) for name in ("prompt", "chosen", "rejected"))
    if not isinstance(prompt, tuple) and isinstance(chosen, tuple) and isinstance(rejected, tuple):
        prompt, chosen, rejected = _split_shared(chosen, rejected)
    if prompt is None or chosen is None or rejected is None:
        missing = [n for n in ("prompt", "chosen", "rejected") if row.get(n) is None]
        raise _unusable(f"a row without {' and '.join(missing)}")
    source = row.get("source")
    source = source if isinstance(source, str) and not _SURROGATE.search(source) else ""
    try:
        return PreferencePair(prompt=prompt, chosen=chosen, rejected=rejected, source=source)
    except ValidationError as error:
        # Types were checked above: what remains are the rules of `PreferencePair._usable`.
        raise _unusable(str(error.errors()[0]["ctx"]["error"])) from error


def _split_shared(
    chosen: tuple[ChatMessage, ...], rejected: tuple[ChatMessage, ...]
) -> tuple[tuple[ChatMessage, ...], tuple[ChatMessage, ...], tuple[ChatMessage, ...]]:
    shared = 0
    while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
        shared += 1
    if shared == 0:
        raise _unusable("conversations without a prompt, and none that both begin with")
    return chosen[:shared], chosen[shared:], rejected[shared:]


def _text(row: Mapping[object, object], name: str) -> Text | None:
    value = row.get(name)
    if value is None:
        return None
    if isinstance(value, str):
        return _sound(value, name)
    if isinstance(value, list | tuple):
        return tuple(_message(message, name) for message in value)
    raise _unusable(f"{name} is {_kind(value)} instead of a string or a list of messages")


def _message(value: object, name: str) -> ChatMessage:
    # Parquet fills the fields that other messages of the column have with nulls.
    fields = {key: v for key, v in value.items() if v is not None} if isinstance(value, Mapping) else {}
    role, content = fields.get("role"), fields.get("content")
    if len(fields) != 2 or not isinstance(role, str) or not isinstance(content, str):
        raise _unusable(f"a message of {name} that is not an object of two strings, role and content")
    return ChatMessage(role=_sound(role, name), content=_sound(content, name))


def _sound(text: str, name: str) -> str:
    if _SURROGATE.search(text):
        raise _unusable(f"{name} holds half of a surrogate pair, which is no character")
    return text


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)


def _unusable(reason: str) -> DataError:
    return DataError("a usable preference pair", got=reason, do="mend the row")


def _comparison(pair: PreferencePair) -> tuple[Text, frozenset[Text]]:
    return pair.prompt, frozenset((pair.chosen, pair.rejected))


def _is_blank(part: Text) -> bool:
    if isinstance(part, str):
        return not part.strip()
    return not any(message.content.strip() for message in part)
