"""The command `patronage`: finds the commands of the installed components and turns errors into one line.

A component registers a function under the entry-point group `patronage.commands`; it gets the root
application and adds its commands. Such a module imports nothing heavy at its top, so `--help` and `verify`
stay fast. Data goes to stdout, all else to stderr.
"""

import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated

import typer

from patronage_protocol.accounting_cli import register as accounting_commands
from patronage_protocol.console import EncryptFlag, JsonFlag, PassphraseFile, explained, print_json
from patronage_protocol.errors import MissingExtraError, PatronageError, UsageError
from patronage_protocol.ledger.cli import register as ledger_commands
from patronage_protocol.verify_cli import register as verify_command

__all__ = ["main"]

GROUP = "patronage.commands"
EXTRA_OF = {
    "accelerate": "client",
    "datasets": "client",
    "flwr": "client",
    "gguf": "client",
    "httpx": "client",
    "peft": "client",
    "pyarrow": "client",
    "ray": "simulations",
    "starlette": "server",
    "torch": "client",
    "transformers": "client",
    "trl": "client",
    "uvicorn": "server",
}
"""Which extra brings a package that a command found missing."""


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
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback()(_root)
    verify_command(app)
    app.command()(keygen)
    ledger_commands(app)
    accounting_commands(app)
    for entry_point in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        entry_point.load()(app)
    return app


def _root() -> None:
    """Train one language model together, and be paid for what your data was worth."""


def keygen(
    out: Annotated[Path, typer.Argument(help="Where to write the private key (PKCS#8 PEM, mode 0600).")],
    encrypt: EncryptFlag = False,
    passphrase_file: PassphraseFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Make an Ed25519 key and print its public half.

    Example: patronage keygen owner/key.pem --passphrase-file secret.txt
    """
    from patronage_protocol.keys import PrivateKey
    from patronage_protocol.passphrases import Passphrase

    if out.exists():
        raise UsageError(
            f"no file at {out}", got="a file", do="choose another name; keys are not overwritten"
        )
    key = PrivateKey.generate()
    key.save(out, Passphrase(passphrase_file).of_new_key(wanted=encrypt))
    if as_json:
        print_json({"public_key": key.public.text, "private_key_file": str(out)})
    else:
        typer.echo(key.public.text)


def _fail(error: PatronageError) -> None:
    if "--json" in sys.argv:
        print_json({"error": explained(error)})
    else:
        typer.echo(f"error: {error}", err=True)
    raise SystemExit(error.exit_code)
