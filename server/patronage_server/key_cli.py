"""Commands for keys that change, the operator's and owners'; heavy imports happen inside the commands."""

from pathlib import Path
from typing import Annotated

import typer

from patronage_protocol.console import JsonFlag, PassphraseFile, print_json

__all__ = ["record_key", "revoke_key", "rotate_key"]

Home = Annotated[Path, typer.Argument(help="The operator's folder.")]


def rotate_key(home: Home, passphrase_file: PassphraseFile = None, as_json: JsonFlag = False) -> None:
    """Take a new key, between two rounds; the ledger says so, signed by the old key and the new one.

    Example: patronage operator rotate-key operator
    """
    import time

    from patronage_protocol.passphrases import Passphrase
    from patronage_server.home import OperatorHome
    from patronage_server.key_changes import rotate_key as rotate

    operator_home = OperatorHome.load(home, Passphrase(passphrase_file))
    key, retired = rotate(operator_home, now=int(time.time()))
    if as_json:
        print_json({"operator_key": key.text, "retired_key_file": str(retired)})
        return
    typer.echo(key.text)
    typer.echo(
        "Owners' nodes follow by themselves, from the next invitation on. Nobody takes the word of "
        f"{retired} any more; delete it when the next round is over.",
        err=True,
    )


def revoke_key(
    home: Home,
    reason: Annotated[str, typer.Option(help="Why, for everybody to read.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask: this ends the ledger for good.")] = False,
    passphrase_file: PassphraseFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Give the operator's key up without another: no round follows in this ledger.

    Example: patronage operator revoke-key operator --reason "the key was copied"
    """
    import time

    from patronage_protocol.passphrases import Passphrase
    from patronage_server.home import OperatorHome
    from patronage_server.key_changes import revoke_key as revoke

    if not yes:
        typer.confirm("This ends the ledger for good. Do you want that?", abort=True, err=True)
    operator_home = OperatorHome.load(home, Passphrase(passphrase_file))
    path = revoke(operator_home, reason, now=int(time.time()))
    if as_json:
        print_json({"revocation": str(path)})
        return
    typer.echo(f"Send {path} to the owners, who take it with: patronage owner heed", err=True)


def record_key(
    home: Home,
    files: Annotated[list[Path], typer.Argument(help="Rotations and revocations that owners made.")],
    passphrase_file: PassphraseFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Record changes of owners' keys in the ledger, between two rounds; the next terms name the new keys.

    Example: patronage operator record-key operator alice-key-rotation.json
    """
    import time

    from patronage_protocol.passphrases import Passphrase
    from patronage_server.home import OperatorHome
    from patronage_server.key_changes import record_change

    operator_home = OperatorHome.load(home, Passphrase(passphrase_file))
    taken = [record_change(operator_home, path, now=int(time.time())) for path in files]
    if as_json:
        print_json({"recorded": [{"owner": entry.party, "kind": entry.kind} for entry in taken]})
        return
    for entry in taken:
        typer.echo(f"{entry.party}  {entry.kind}")
