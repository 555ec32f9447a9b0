"""What a person sees on stderr while a round runs: a line an event, with the seconds since the start."""

import sys
import time
from dataclasses import dataclass, field
from typing import TextIO

from patronage_protocol.entries import (
    Aborted,
    Accepted,
    AnyEntry,
    Closed,
    Committed,
    Declined,
    Evaluated,
    Finished,
    Forfeited,
    Judged,
    Opened,
    OwnerStatement,
    Revealed,
    Valued,
)
from patronage_protocol.rounds import Round

__all__ = ["Progress"]

WORDS: dict[type[AnyEntry], str] = {
    Opened: "terms published",
    Accepted: "accepted the terms",
    Declined: "declined",
    Committed: "trained and committed",
    Closed: "commitments closed",
    Revealed: "revealed its adapter",
    Evaluated: "coalitions scored on the held-out pairs",
    Valued: "shares computed",
    Aborted: "aborted: too few adapters",
    Finished: "round final",
}


@dataclass
class Progress:
    """A listener of the operator's book that writes to a stream."""

    stream: TextIO = field(default_factory=lambda: sys.stderr)
    started: float = field(default_factory=time.monotonic)

    def __call__(self, entry: AnyEntry, _state: Round) -> None:
        """Write the line of an entry, if it has one."""
        text = self._line(entry)
        if text:
            self.say(text)

    def say(self, text: str) -> None:
        """Write one line with the time passed."""
        print(f"[{time.monotonic() - self.started:6.1f} s] {text}", file=self.stream, flush=True)

    def _line(self, entry: AnyEntry) -> str:
        if isinstance(entry, OwnerStatement):
            return f"{entry.owner} {WORDS[type(entry)]}"
        if isinstance(entry, Judged):
            return f"{entry.owner} {'admitted' if entry.accepted else 'rejected: ' + entry.reason}"
        if isinstance(entry, Forfeited):
            return f"{entry.owner} forfeited: {entry.reason}"
        return WORDS.get(type(entry), "")
