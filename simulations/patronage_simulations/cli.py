"""Commands of this component; heavy imports happen inside the commands."""

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add this component's commands to the root application."""
