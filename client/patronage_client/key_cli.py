"""Commands for keys that change, an owner's and its operator's; heavy imports happen inside the commands."""

from pathlib import Path
from typing import Annotated

import typer

from patronage_protocol.console import JsonFlag, PassphraseFile, print_json

__all__ = ["heed", "revoke_key", "rotate_key"]

Home = Annotated[Path, typer.Argument(help="The owner's folder.")]


def rotate_key(home: Home, passphrase_file: PassphraseFile = None, as_json: JsonFlag = False) -> None:
    """Make your next key, and the statement of both keys that the operator records between two rounds.

    Example: patronage owner rotate-key alice
    """
    from patronage_client.home import OwnerHome
    from patronage_client.key_changes import rotate_key as rotate
    from patronage_protocol.passphrases import Passphrase

    path = rotate(OwnerHome.load(home, Passphrase(passphrase_file)))
    if as_json:
        print_json({"rotation": str(path)})
        return
    typer.echo(
        f"Send {path} to the operator. Your old key answers until the terms name the new one.", err=True
    )


def revoke_key(
    home: Home,
    reason: Annotated[str, typer.Option(help="Why, for everybody to read.")],
    passphrase_file: PassphraseFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Make the statement that your key counts no more; you may come back with a new folder and key.

    Example: patronage owner revoke-key alice --reason "the laptop was stolen"
    """
    from patronage_client.home import OwnerHome
    from patronage_client.key_changes import revoke_key as revoke
    from patronage_protocol.passphrases import Passphrase

    path = revoke(OwnerHome.load(home, Passphrase(passphrase_file)), reason)
    if as_json:
        print_json({"revocation": str(path)})
        return
    typer.echo(f"Send {path} to the operator, who records it between two rounds.", err=True)


def heed(
    home: Home,
    statement: Annotated[Path, typer.Argument(help="A rotation or revocation that the operator signed.")],
    as_json: JsonFlag = False,
) -> None:
    """Take a change of the operator's key now, before an invitation brings it.

    Example: patronage owner heed alice key-revocation.json
    """
    from patronage_client.home import OwnerHome
    from patronage_protocol.errors import UsageError
    from patronage_protocol.joining import read_envelope

    owner_home = OwnerHome.load(home)
    if not owner_home.operator.heed([read_envelope(statement)]):
        raise UsageError(
            "a statement of the operator that is new to this owner",
            got="one that is known, or of a key that is not the operator's",
            do="check that it is the right file",
        )
    if as_json:
        print_json({"heeded": str(statement)})
        return
    typer.echo("taken; the operator's key is followed from here", err=True)
