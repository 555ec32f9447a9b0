"""The command `export-payouts`: the money of a verified ledger for spreadsheets and plain-text accounting."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from patronage_protocol.errors import FormatError, RemoteProtocolError, UsageError, VerificationError

__all__ = ["register"]

NOT_VERIFIED = 1


def register(app: typer.Typer) -> None:
    """Add the command to the root application."""
    app.command()(export_payouts)


def export_payouts(
    ledger: Annotated[Path, typer.Argument(help="The folder of a published ledger.")],
    layout: Annotated[
        Literal["csv", "hledger", "beancount"], typer.Option("--format", help="What will read it.")
    ] = "csv",
    out: Annotated[Path | None, typer.Option(help="A new file; without it the text goes to stdout.")] = None,
    round_number: Annotated[int | None, typer.Option("--round", help="Only this round.", min=1)] = None,
    trust: Annotated[
        Path | None,
        typer.Option(help="Whom you trust: a C2SP policy (tlog-policy), or a file with the operator's vkey."),
    ] = None,
) -> None:
    """Write the payouts and refunds of every final round, zero payouts with their reasons too.

    The ledger is verified first; nothing is written of one that does not hold (exit status 1).

    Example: patronage export-payouts run/ledger --format hledger --out payouts.journal --trust operator.vkey
    """
    from patronage_protocol.accounting import books_of, write_books
    from patronage_protocol.files import write_atomic
    from patronage_protocol.ledger.trust import read_trust
    from patronage_protocol.rounds import Phase
    from patronage_protocol.verify import verify_ledger

    if out is not None and out.exists():
        raise UsageError(f"no file at {out}", got="one that exists", do="choose another name")
    policy = read_trust(trust) if trust else None
    try:
        verdict = verify_ledger(ledger, trust=policy)
    except (VerificationError, FormatError, RemoteProtocolError) as error:
        typer.echo(f"NOT VERIFIED, nothing exported: {error}", err=True)
        raise typer.Exit(NOT_VERIFIED) from None
    books = books_of(verdict, round_number)
    text = write_books(verdict, books, layout)
    if out is None:
        typer.echo(text, nl=False)
    else:
        write_atomic(out, text.encode())
    for state in verdict.rounds:
        if round_number is None and state.phase is not Phase.FINAL:
            typer.echo(f"left out: round {state.manifest.round}, which is not final", err=True)
    if not verdict.pinned:
        typer.echo("verified against the key that the ledger itself names; pin it with --trust", err=True)
