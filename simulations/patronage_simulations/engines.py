"""Two ways to carry messages between the same apps: in this process, or on Flower's simulation engine."""

import os
import time
from collections.abc import Callable
from pathlib import Path

from flwr.app import Context, RecordDict
from flwr.simulation import run_simulation

from patronage_client.app import client_app
from patronage_server.app import server_app
from patronage_server.book import Listener
from patronage_server.clock import SystemClock
from patronage_simulations.consortium import Consortium
from patronage_simulations.grid import LocalGrid

__all__ = ["ENGINES", "SimulatedClock"]


class SimulatedClock(SystemClock):
    """The machine's clock, except that long waits take no time: it jumps ahead to the deadline waited for."""

    def __init__(self) -> None:
        self._ahead = 0.0

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
    server_app(clock=SimulatedClock(), listener=listener)(LocalGrid(client_app(), contexts), operator)


def run_ray(consortium: Consortium, listener: Listener) -> None:
    """Every owner in a process of its own, on Flower's simulation engine.

    Raises:
        UnavailableError: the engine ended without finishing the round.
    """
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    homes = [str(home) for home in consortium.owners]

    def home_of(context: Context) -> Path:
        return Path(homes[int(context.node_config["partition-id"])])

    operator = consortium.operator
    run_simulation(
        server_app=server_app(lambda _context: operator, clock=SimulatedClock(), listener=listener),
        client_app=client_app(home_of),
        num_supernodes=len(homes),
        backend_name="ray",
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )


ENGINES: dict[str, Callable[[Consortium, Listener], None]] = {"local": run_local, "ray": run_ray}
