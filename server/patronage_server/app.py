"""The operator's Flower ServerApp: reads the operator's folder and drives its round over the Grid."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from patronage_protocol.errors import UsageError
from patronage_protocol.rounds import Round
from patronage_server.book import Book, Listener
from patronage_server.clock import Clock, SystemClock
from patronage_server.correspondence import Correspondence
from patronage_server.home import OperatorHome
from patronage_server.model_work import evaluate_round, export_round
from patronage_server.nodes import Nodes
from patronage_server.round import RoundDriver

__all__ = ["app", "drive", "server_app"]

HomeOf = Callable[[Context], Path]


def drive(
    grid: Grid, home: OperatorHome, *, clock: Clock | None = None, listener: Listener | None = None
) -> Round:
    """Run the round in the operator's folder to its end; goes on where an earlier run stopped.

    Args:
        grid: where the owners' nodes are reached.
        home: the operator's folder.
        clock: the operator's time; the machine's if none is given.
        listener: called after every entry with the entry and the new state.

    Raises:
        PatronageError: the operator's own side failed; running again goes on from what was recorded.
    """
    clock = clock or SystemClock()
    manifest = home.manifest()
    with home.open_ledger(manifest.origin) as ledger:
        book = Book(ledger, home.published, listener)
        book.open_round(manifest, home.key, clock.now())
        return RoundDriver(
            home=home,
            book=book,
            owners=Correspondence(manifest, home.key, Nodes(grid, clock)),
            clock=clock,
            evaluate=partial(evaluate_round, home),
            export=partial(export_round, home),
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


def server_app(
    home_of: HomeOf = home_of_run, *, clock: Clock | None = None, listener: Listener | None = None
) -> ServerApp:
    """A ServerApp that drives the round in the operator's folder that `home_of` finds."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        drive(grid, OperatorHome.load(home_of(context)), clock=clock, listener=listener)

    return app


app = server_app()
