"""Time as the operator sees it: an argument, so that a whole round of deadlines can be run in a moment."""

import time
from typing import Protocol

__all__ = ["Clock", "SystemClock"]


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
        """Come back after `seconds`."""
        time.sleep(seconds)
