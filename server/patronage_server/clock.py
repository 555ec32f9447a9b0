"""Time as the operator sees it: an argument, so that a whole round of deadlines can be run in a moment."""

import time
from typing import Protocol

__all__ = ["Clock", "SystemClock"]

PIECE_SECONDS = 0.5


class Clock(Protocol):
    """Unix seconds, and waiting."""

    def now(self) -> int:
        """The present, Unix seconds."""
        ...

    def sleep(self, seconds: float) -> None:
        """Come back after `seconds`."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> int:
        """The present, Unix seconds."""
        return int(time.time())

    def sleep(self, seconds: float) -> None:
        """Come back after `seconds`.

        In pieces: Flower ends a ServerApp without SuperLink by a signal that another thread raises, which
        interrupts no sleep of this one. An hour in one piece would hold the ledger for an hour.
        """
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(left, PIECE_SECONDS))
