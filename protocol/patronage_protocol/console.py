"""What the commands of every component print alike: one JSON object on stdout for scripts."""

import json
from typing import Annotated, Any

import typer

__all__ = ["JsonFlag", "print_json"]

SCHEMA_VERSION = 1

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, failures too.")]


def print_json(value: dict[str, Any]) -> None:
    """One JSON object on stdout, with the version of its layout."""
    typer.echo(json.dumps({"schema_version": SCHEMA_VERSION, **value}, ensure_ascii=False))
