"""Commands of this component; heavy imports happen inside the commands."""

from pathlib import Path
from typing import Annotated

import typer

from patronage_protocol.console import print_json
from patronage_protocol.errors import FormatError, RemoteProtocolError, UsageError, VerificationError
from patronage_server.model_cli import chat, export
from patronage_server.operator_cli import operator

__all__ = ["register"]

NOT_VERIFIED = 1


def register(app: typer.Typer) -> None:
    """Add this component's commands to the root application."""
    app.command()(report)
    app.command()(chat)
    app.command()(export)
    app.add_typer(operator)


def report(
    ledger: Annotated[Path, typer.Argument(help="The folder of a published ledger.")],
    out: Annotated[
        Path | None, typer.Option(help="Where to write the page; report.html beside the folder by default.")
    ] = None,
    round_number: Annotated[
        int | None, typer.Option("--round", help="Which round; the latest by default.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on stdout, failures too.")
    ] = False,
) -> None:
    """Verify a published ledger and write its report: one HTML file, complete in itself.

    An earlier report is replaced; any other file in its place is left alone. Exit status: 0 written,
    1 not verified and nothing written, 2 wrong usage, 3 could not read or write.

    Example: patronage report run/ledger --out run/report.html
    """
    from patronage_protocol.canonical import sha256
    from patronage_server.report import read_report, save

    path = out or ledger.resolve().parent / "report.html"
    if path.resolve().is_relative_to(ledger.resolve()):
        raise UsageError(
            "a place outside the ledger's folder, which holds the ledger alone",
            got=str(path),
            do="choose another with --out",
        )
    try:
        found = read_report(ledger, round_number=round_number)
    except (VerificationError, FormatError, RemoteProtocolError) as error:
        if as_json:
            explained = {"expected": error.expected, "got": error.got, "do": error.do, "where": error.where}
            print_json({"verified": False, "error": explained})
        else:
            typer.echo(f"NOT VERIFIED: {error}", err=True)
        raise typer.Exit(NOT_VERIFIED) from None
    page = save(found, path)
    if as_json:
        state = found.state
        print_json(
            {
                "report": str(path),
                "sha256": sha256(page),
                "round": state.manifest.round,
                "manifest": state.manifest.digest,
                "phase": state.phase.value,
            }
        )
    else:
        typer.echo(str(path))
