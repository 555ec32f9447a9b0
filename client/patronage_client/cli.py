"""Commands of this component; heavy imports happen inside the commands."""

from pathlib import Path
from typing import Annotated

import typer

from patronage_protocol.console import print_json

__all__ = ["owner", "register"]

Home = Annotated[Path, typer.Argument(help="The owner's folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, failures too.")]

owner = typer.Typer(
    name="owner", help="Take part in rounds with your own pairs.", no_args_is_help=True, rich_markup_mode=None
)


def register(app: typer.Typer) -> None:
    """Add this component's commands to the root application."""
    app.add_typer(owner)


@owner.command()
def init(
    home: Annotated[Path, typer.Argument(help="A new folder for the owner.")],
    name: Annotated[str, typer.Option(help="Your name in the consortium.")],
    data: Annotated[Path, typer.Option(help="Your preference pairs; they stay where they are.")],
    base_model: Annotated[str, typer.Option(help="Hub id, folder, GGUF file or `tiny`.")],
    operator_key: Annotated[str, typer.Option(help="The operator's public key, from a channel you trust.")],
    as_json: Json = False,
) -> None:
    """Make your keys, and a registration file to send to the operator.

    Example: patronage owner init alice --name alice --data pairs.jsonl
             --base-model HuggingFaceTB/SmolLM2-135M --operator-key "$KEY"
    """
    from patronage_client.founding import REGISTRATION, found_owner

    registration = found_owner(home, name=name, data=data, base_model=base_model, operator_key=operator_key)
    if as_json:
        print_json({"public_key": registration.key, "registration": str(home / REGISTRATION)})
        return
    typer.echo(registration.key)
    typer.echo(f"Send {home / REGISTRATION} to the operator. Keep {home / 'key.pem'} to yourself.", err=True)


@owner.command()
def join(
    home: Home,
    invitation: Annotated[Path, typer.Argument(help="The invitation file from the operator.")],
    accept: Annotated[
        str | None, typer.Option(help="Accept the manifest of this digest without being asked.")
    ] = None,
) -> None:
    """Read the terms, accept them, and take part until interrupted.

    Example: patronage owner join alice invitation.json
    """
    import logging
    import signal
    import threading

    from patronage_client.explain import explain
    from patronage_client.home import OwnerHome
    from patronage_client.join import take_part
    from patronage_protocol.errors import UsageError
    from patronage_protocol.manifest import Manifest

    def agree(manifest: Manifest) -> bool:
        for line in explain(manifest):
            typer.echo(line, err=True)
        typer.echo(f"The digest of these terms is {manifest.digest}.", err=True)
        if accept is None:
            return typer.confirm("Do you accept them?", err=True)
        if accept != manifest.digest:
            raise UsageError(
                f"the manifest {accept}", got=manifest.digest, do="read the new terms and accept their digest"
            )
        return True

    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    take_part(
        OwnerHome.load(home),
        invitation,
        agree=agree,
        ended=ended,
        ready=lambda: typer.echo("connected; taking part until interrupted", err=True),
    )


@owner.command()
def status(home: Home, as_json: Json = False) -> None:
    """Show who you are, what you have joined, and how far each round got.

    Example: patronage owner status alice
    """
    from patronage_client.home import OwnerHome
    from patronage_client.status import owner_status

    found = owner_status(OwnerHome.load(home))
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    typer.echo(f"{found.name}  {found.key}")
    if found.manifest:
        typer.echo(f"invited to  {found.address}")
        typer.echo(f"terms       {found.manifest}, {'accepted' if found.accepted else 'not accepted'}")
    for one in found.rounds:
        typer.echo(f"  {one.round:<24} {one.step}")


@owner.command()
def receipts(home: Home, as_json: Json = False) -> None:
    """Verify the receipts you keep, and show what you were paid and why.

    Example: patronage owner receipts alice
    """
    from patronage_client.home import OwnerHome
    from patronage_client.receipts import kept_receipts

    found = kept_receipts(OwnerHome.load(home))
    if as_json:
        print_json({"receipts": [one.model_dump(mode="json") for one in found]})
        return
    for one in found:
        typer.echo(
            f"round {one.round}  {one.money}  {one.meaning}  (entry {one.index} of {one.size}, verified)"
        )
    if not found:
        typer.echo("no receipts yet", err=True)
