"""What a person sees on stderr while a round runs: a line an event, with the seconds since the start."""

import sys
import time
from dataclasses import dataclass, field
from typing import TextIO

from patronage_protocol.entries import AnyEntry, Paid, Refunded
from patronage_protocol.rounds import Round
from patronage_server.follow import line_of

__all__ = ["Progress"]


@dataclass
class Progress:
    """A listener of the operator's book that writes to a stream."""

    stream: TextIO = field(default_factory=lambda: sys.stderr)
    started: float = field(default_factory=time.monotonic)

    def __call__(self, entry: AnyEntry, _state: Round) -> None:
        """Write the line of an entry; money is left to the summary."""
        if not isinstance(entry, Paid | Refunded):
            self.say(line_of(entry))

    def say(self, text: str) -> None:
        """Write one line with the time passed."""
        print(f"[{time.monotonic() - self.started:6.1f} s] {text}", file=self.stream, flush=True)
