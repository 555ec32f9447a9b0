"""Preference pairs: a prompt, the completion that was chosen and the one that was rejected.

The format is TRL's preference format with an explicit prompt, plain (strings) or conversational (messages).
"""

from typing import Self

from pydantic import model_validator

from patronage_protocol.canonical import Canonical, canonical_bytes, sha256

__all__ = ["ChatMessage", "PreferencePair"]


class ChatMessage(Canonical):
    """One turn of a conversation."""

    role: str
    content: str


class PreferencePair(Canonical):
    """One judgement: of two completions of `prompt`, `chosen` was preferred to `rejected`.

    All three are strings, or all three are sequences of messages. `source` is a free label (a skill, an
    application) by which a report may group pairs; it never reaches a model.
    """

    prompt: str | tuple[ChatMessage, ...]
    chosen: str | tuple[ChatMessage, ...]
    rejected: str | tuple[ChatMessage, ...]
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


def _is_blank(part: str | tuple[ChatMessage, ...]) -> bool:
    if isinstance(part, str):
        return not part.strip()
    return not any(message.content.strip() for message in part)
