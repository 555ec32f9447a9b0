"""What the commands of every component print alike: one JSON object on stdout for scripts."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from patronage_protocol.errors import PatronageError

__all__ = ["EncryptFlag", "JsonFlag", "PassphraseFile", "explained", "print_json"]

SCHEMA_VERSION = 1

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, failures too.")]

PassphraseFile = Annotated[
    Path | None,
    typer.Option(
        help="A file whose one line opens an encrypted private key. Left out, PATRONAGE_PASSPHRASE_FILE "
        "names it, or you are asked."
    ),
]

EncryptFlag = Annotated[
    bool,
    typer.Option(
        "--encrypt",
        help="Ask for a passphrase of the new private key, where neither --passphrase-file nor "
        "PATRONAGE_PASSPHRASE_FILE names one.",
    ),
]


def print_json(value: dict[str, Any]) -> None:
    """One JSON object on stdout, with the version of its layout."""
    typer.echo(json.dumps({"schema_version": SCHEMA_VERSION, **value}, ensure_ascii=False))


def explained(error: PatronageError) -> dict[str, str]:
    """The parts of an error, for scripts."""
    return {"expected": error.expected, "got": error.got, "do": error.do, "where": error.where}
