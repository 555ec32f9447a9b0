"""The round on Flower's simulation engine: every owner in a Ray process of its own, the same apps.

The operator's passes over held-out pairs go to workers of the same Ray cluster; generations and merged
coalitions stay with it.
"""

import os
from pathlib import Path

from flwr.app import Context
from flwr.simulation import run_simulation

from patronage_client.app import client_app
from patronage_protocol.manifest import RewardGameTerms
from patronage_server.app import server_app
from patronage_server.book import Listener
from patronage_server.clock import Clock
from patronage_server.home import Engine
from patronage_simulations.consortium import Consortium

__all__ = ["run_ray"]


def run_ray(consortium: Consortium, clock: Clock, listener: Listener) -> None:
    """Run the round of a consortium; partition k is the owner that comes k-th by name.

    Raises:
        PatronageError: the operator's side failed; running again goes on from what was recorded.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    homes = [str(home) for home in consortium.owners]
    operator = consortium.operator
    game = consortium.manifest.game
    alone = isinstance(game, RewardGameTerms) or game.composition == "merged"
    engine: Engine = "local" if alone else "ray"

    def home_of(context: Context) -> Path:
        return Path(homes[int(context.node_config["partition-id"])])

    run_simulation(
        server_app=server_app(
            lambda _context: operator, clock=clock, listener=listener, engine_of=lambda _context: engine
        ),
        client_app=client_app(home_of),
        num_supernodes=len(homes),
        backend_name="ray",
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
