"""The command `patronage`: finds the commands of the installed components and turns errors into one line.

A component registers a function under the entry-point group `patronage.commands`; it gets the root
application and adds its commands. Such a module imports nothing heavy at its top, so `--help` and `verify` stay fast.
"""

import sys
from importlib.metadata import entry_points

import typer

from patronage_protocol.errors import MissingExtraError, PatronageError

__all__ = ["main"]

GROUP = "patronage.commands"
EXTRA_OF = {
    "flwr": "client",
    "torch": "client",
    "transformers": "client",
    "peft": "client",
    "datasets": "client",
    "gguf": "client",
    "trl": "client",
    "ray": "simulations",
}


def main() -> None:
    """Run the command line; exits with the status of the error tree."""
    try:
        application()()
    except ModuleNotFoundError as error:
        module = (error.name or "").split(".")[0]
        if module not in EXTRA_OF:
            raise
        _fail(MissingExtraError(module, extra=EXTRA_OF[module]))
    except PatronageError as error:
        _fail(error)


def application() -> typer.Typer:
    """The root application with the commands of every installed component."""
    app = typer.Typer(
        name="patronage",
        help="Train one language model together, and be paid for what your data was worth.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback()(_root)
    for entry_point in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        entry_point.load()(app)
    return app


def _root() -> None:
    """Train one language model together, and be paid for what your data was worth."""


def _fail(error: PatronageError) -> None:
    print(f"error: {error}", file=sys.stderr)  # noqa: T201
    raise SystemExit(error.exit_code)
