"""Two ways to carry messages between the same apps: in this process, or on Flower's simulation engine."""

import time
from typing import Literal

from flwr.app import Context, RecordDict

from patronage_client.app import client_app
from patronage_server.app import server_app
from patronage_server.book import Listener
from patronage_server.clock import SystemClock
from patronage_server.follow import entries_since
from patronage_server.home import STORE
from patronage_simulations.consortium import Consortium
from patronage_simulations.grid import LocalGrid

__all__ = ["SimulatedClock", "clock_after", "run_engine", "run_local"]


class SimulatedClock(SystemClock):
    """The machine's clock, except that long waits take no time: it jumps ahead to the deadline waited for."""

    def __init__(self, *, not_before: int = 0) -> None:
        """Begin now, or at `not_before` (Unix seconds) where an earlier run has jumped farther ahead."""
        self._ahead = max(0.0, not_before - time.time())

    def now(self) -> int:
        """The present, Unix seconds, with what was slept added."""
        return int(time.time() + self._ahead)

    def sleep(self, seconds: float) -> None:
        """Jump ahead; a wait of less than a second is a pause between two looks, and is real."""
        if seconds < 1:
            time.sleep(seconds)
        else:
            self._ahead += seconds


def run_local(consortium: Consortium, listener: Listener) -> None:
    """Every owner in this process, one after another."""
    owners = consortium.owners
    contexts = {
        node: Context(
            run_id=1,
            node_id=node,
            node_config={"patronage-home": str(home)},
            state=RecordDict(),
            run_config={},
        )
        for node, home in enumerate(owners, start=1)
    }
    operator = Context(
        run_id=1,
        node_id=0,
        node_config={},
        state=RecordDict(),
        run_config={"patronage-home": str(consortium.operator)},
    )
    server_app(clock=clock_after(consortium), listener=listener)(LocalGrid(client_app(), contexts), operator)


def run_engine(name: Literal["local", "ray"], consortium: Consortium, listener: Listener) -> None:
    """Run the round of a consortium on an engine.

    Raises:
        PatronageError: the operator's side failed; running again goes on from what was recorded.
        MissingExtraError: the engine is not installed.
    """
    if name == "local":
        run_local(consortium, listener)
    else:
        # Flower's simulation engine and Ray cost seconds to import; the local engine needs neither.
        from patronage_simulations.ray_engine import run_ray  # noqa: PLC0415

        run_ray(consortium, clock_after(consortium), listener)


def clock_after(consortium: Consortium) -> SimulatedClock:
    """A clock that does not go back before the last entry of the consortium's ledger."""
    entries = entries_since(consortium.operator / STORE, 0)
    return SimulatedClock(not_before=entries[-1].time if entries else 0)
