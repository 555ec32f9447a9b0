"""The command `verify`: a published ledger, a receipt, or both, offline on the base install."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from patronage_protocol.console import JsonFlag, explained, print_json
from patronage_protocol.errors import FormatError, RemoteProtocolError, UsageError, VerificationError

if TYPE_CHECKING:
    from patronage_protocol.ledger.trust import TrustPolicy
    from patronage_protocol.manifest import Manifest
    from patronage_protocol.verify import ReceiptVerdict, Verdict

__all__ = ["register"]

NOT_VERIFIED = 1


def register(app: typer.Typer) -> None:
    """Add the command to the root application."""
    app.command()(verify)


def verify(
    ledger: Annotated[Path | None, typer.Argument(help="The folder of a published ledger.")] = None,
    receipt: Annotated[
        Path | None, typer.Option(help="A .tlog-proof file, to check beside the ledger or alone.")
    ] = None,
    trust: Annotated[
        Path | None,
        typer.Option(help="Whom you trust: a C2SP policy (tlog-policy), or a file with the operator's vkey."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Check a published ledger from bytes to minor units, a receipt, or both, offline.

    A receipt without its ledger needs --trust. Exit status: 0 verified, 1 not verified, 2 wrong usage, 3
    could not check.

    Example: patronage verify run/ledger --trust consortium.policy
             patronage verify --receipt receipt.tlog-proof --trust consortium.policy
    """
    from patronage_protocol.ledger.trust import read_trust

    if ledger is None and (receipt is None or trust is None):
        raise UsageError(
            "a ledger, or a receipt and whom you trust",
            got="neither",
            do="name a folder, or --receipt FILE --trust FILE",
        )
    policy = read_trust(trust) if trust else None
    try:
        found, checked = _check(ledger, receipt, policy)
    except (VerificationError, FormatError, RemoteProtocolError) as error:
        if as_json:
            print_json({"verified": False, "error": explained(error)})
        else:
            typer.echo(f"NOT VERIFIED: {error}", err=True)
        raise typer.Exit(NOT_VERIFIED) from None
    if as_json:
        print_json(_as_json(found, checked, pinned=policy is not None))
    else:
        _print(found, checked, pinned=policy is not None)


def _check(
    ledger: Path | None, receipt: Path | None, policy: "TrustPolicy | None"
) -> "tuple[Verdict | None, ReceiptVerdict | None]":
    from patronage_protocol.files import read_bytes
    from patronage_protocol.ledger.receipts import MAX_RECEIPT_BYTES
    from patronage_protocol.verify import verify_ledger, verify_receipt

    found = None if ledger is None else verify_ledger(ledger, trust=policy)
    if receipt is None:
        return found, None
    data = read_bytes(receipt, limit=MAX_RECEIPT_BYTES)
    return found, verify_receipt(data, trust=policy, verdict=found)


def _as_json(found: "Verdict | None", checked: "ReceiptVerdict | None", *, pinned: bool) -> dict[str, Any]:
    from patronage_protocol.canonical import sha256
    from patronage_protocol.verify import not_known

    checks = [*(found.checks if found else ()), *(checked.checks if checked else ())]
    value: dict[str, Any] = {
        "verified": True,
        "key_pinned": pinned,
        "checks": [check.model_dump() for check in checks],
        "not_known": list(not_known(_terms(found))),
    }
    if found is not None:
        value["rounds"] = [
            {
                "manifest": state.manifest.digest,
                "phase": state.phase.value,
                "not_scored_on_own": {part.owner: part.pairs for part in state.manifest.slices.of},
            }
            for state in found.rounds
        ]
        value["trusted_witnesses"] = dict(found.trusted)
    if checked is not None:
        head = checked.receipt.signed.checkpoint
        value["receipt"] = {
            "origin": head.origin,
            "index": checked.receipt.index,
            "size": head.size,
            "entry": checked.entry.decode("utf-8", "replace"),
            "entry_sha256": sha256(checked.entry),
            "witnesses": list(checked.witnesses),
        }
    return value


def _print(found: "Verdict | None", checked: "ReceiptVerdict | None", *, pinned: bool) -> None:
    from patronage_protocol.verify import not_known

    for check in (*(found.checks if found else ()), *(checked.checks if checked else ())):
        typer.echo(f"{check.phase:<10} {check.what}")
    if checked is not None:
        typer.echo(f"{'entry':<10} {checked.entry.decode('utf-8', 'backslashreplace')}")
    whose = "the key you gave" if pinned else "the key that the ledger itself names (pin it with --trust)"
    typer.echo(f"VERIFIED   against {whose}")
    typer.echo("What no ledger can show: " + "; ".join(not_known(_terms(found))) + ".")


def _terms(found: "Verdict | None") -> "list[Manifest]":
    return [] if found is None else [state.manifest for state in found.rounds]
