"""The operator's Flower ServerApp: reads the operator's folder and drives its round over the Grid.

Torch is imported when it is needed: until then the ledger is open, and owners are asked, in a second.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from patronage_protocol.adapters import Tensors
from patronage_protocol.errors import UsageError
from patronage_protocol.evidence import Evidence
from patronage_protocol.rounds import Round
from patronage_server.book import Book, Listener
from patronage_server.clock import Clock, SystemClock
from patronage_server.correspondence import Correspondence
from patronage_server.home import Engine, OperatorHome
from patronage_server.nodes import Nodes
from patronage_server.round import RoundDriver

__all__ = ["app", "drive", "server_app"]

HomeOf = Callable[[Context], Path]


def drive(
    grid: Grid,
    home: OperatorHome,
    *,
    clock: Clock | None = None,
    listener: Listener | None = None,
    engine: Engine = "local",
) -> Round:
    """Run the round in the operator's folder to its end; goes on where an earlier run stopped.

    Args:
        grid: where the owners' nodes are reached.
        home: the operator's folder.
        clock: the operator's time; the machine's if none is given.
        listener: called after every entry with the entry and the new state.
        engine: where adapters are scored.

    Raises:
        PatronageError: the operator's own side failed; running again goes on from what was recorded.
    """

    def evaluate(state: Round, adapters: Mapping[str, Tensors]) -> Evidence:
        from patronage_server.model_work import evaluate_round  # noqa: PLC0415 - torch

        return evaluate_round(home, state, adapters, engine=engine)

    def export(state: Round, adapters: Mapping[str, Tensors]) -> str:
        from patronage_server.model_work import export_round  # noqa: PLC0415 - torch

        return export_round(home, state, adapters)

    clock = clock or SystemClock()
    manifest = home.manifest()
    with home.open_ledger(manifest.origin) as ledger:
        book = Book(ledger, home.published, listener)
        book.open_round(manifest, home.key, clock.now())
        return RoundDriver(
            home=home,
            book=book,
            owners=Correspondence(manifest, home.key, Nodes(grid, clock), book.state.keys.log.statements),
            clock=clock,
            evaluate=evaluate,
            export=export,
        ).run()


def home_of_run(context: Context) -> Path:
    """The operator's folder that the run was started with.

    Raises:
        UsageError: the run configuration does not name one.
    """
    home = context.run_config.get("patronage-home")
    if not isinstance(home, str):
        raise UsageError(
            "a run configuration with patronage-home",
            got=f"the keys {sorted(context.run_config)}",
            do="start the run with --run-config 'patronage-home=\"/path/to/operator\"'",
        )
    return Path(home)


def engine_of_run(context: Context) -> Engine:
    """Where the run's configuration wants adapters scored; in this process unless it says so."""
    return "ray" if context.run_config.get("patronage-engine") == "ray" else "local"


def server_app(
    home_of: HomeOf = home_of_run,
    *,
    clock: Clock | None = None,
    listener: Listener | None = None,
    engine_of: Callable[[Context], Engine] = engine_of_run,
) -> ServerApp:
    """A ServerApp that drives the round in the operator's folder that `home_of` finds."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        home = OperatorHome.load(home_of(context))
        drive(grid, home, clock=clock, listener=listener, engine=engine_of(context))

    return app


app = server_app()
