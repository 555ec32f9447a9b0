"""What an owner was paid and why, from the receipts that it keeps.

They are checked with the operator's key and the quorum of the manifest's witnesses.
"""

from pathlib import Path

from pydantic import BaseModel

from patronage_client.explain import money
from patronage_client.home import OwnerHome
from patronage_protocol.entries import AnyEntry, Paid, decode_entry
from patronage_protocol.errors import RemoteProtocolError, UsageError, VerificationError
from patronage_protocol.files import read_bytes
from patronage_protocol.ledger.receipts import MAX_RECEIPT_BYTES, Receipt
from patronage_protocol.manifest import Manifest
from patronage_protocol.payout import Reason
from patronage_protocol.witnessing import check_quorum

__all__ = ["KeptReceipt", "kept_receipts", "last_manifest"]

MAX_MANIFEST = 16 * 2**20

REASONS: dict[Reason, str] = {
    "share": "for your share of the round's value",
    "not-above-zero": "your share could not be told from zero",
    "negative": "your share was not positive",
    "declined": "you declined the terms",
    "forfeited": "you missed a deadline",
    "rejected": "your adapter was rejected at intake",
    "refunded": "the round was not paid out; its budget went back",
}


class KeptReceipt(BaseModel):
    """One verified receipt.

    Attributes:
        round: its number.
        manifest: digest of the terms.
        amount: in minor units, as text.
        money: the same as people write it.
        reason: the entry's word.
        meaning: the same for a person.
        index: number of the entry in the ledger.
        size: entries that the signed checkpoint covers.
        witnesses: owners that cosigned it, a quorum; none where the round was aborted for want of them.
    """

    round: int
    manifest: str
    amount: str
    money: str
    reason: str
    meaning: str
    index: int
    size: int
    witnesses: tuple[str, ...]


def kept_receipts(home: OwnerHome) -> list[KeptReceipt]:
    """Every kept receipt, verified, by round.

    Raises:
        VerificationError, RemoteProtocolError: one does not hold; names the file or the clause.
        FormatError, UnavailableError: one cannot be read.
    """
    found = [_kept(home, path) for path in (home.path / "rounds").glob("*/receipt.tlog-proof")]
    return sorted(found, key=lambda receipt: receipt.round)


def last_manifest(home: OwnerHome) -> Manifest:
    """The terms of the last round that the owner took part in.

    Raises:
        UsageError: there is none.
        FormatError, UnavailableError: it cannot be read.
    """
    kept = (home.path / "rounds").glob("*/manifest.json")
    manifests = [Manifest.decode(read_bytes(path, limit=MAX_MANIFEST)) for path in kept]
    if not manifests:
        raise UsageError("a round that was accepted", got="none", do="join one first: patronage owner join")
    return max(manifests, key=lambda manifest: manifest.round)


def _kept(home: OwnerHome, path: Path) -> KeptReceipt:
    manifest = Manifest.decode(read_bytes(path.with_name("manifest.json"), limit=MAX_MANIFEST))
    receipt = Receipt.parse(read_bytes(path, limit=MAX_RECEIPT_BYTES))
    then = home.operator.history(manifest.origin).verifier_at(receipt.signed.checkpoint.size)
    entry = decode_entry(receipt.verify(then))
    witnesses = _witnesses(receipt, manifest, entry)
    if not isinstance(entry, Paid) or entry.owner != home.config.name:
        raise VerificationError(
            f"the payment to {home.config.name}",
            got=f"an entry {entry.kind}",
            do="ask the operator for the right receipt",
            where=str(path),
        )
    return KeptReceipt(
        round=manifest.round,
        manifest=manifest.digest,
        amount=str(entry.amount),
        money=money(entry.amount, manifest.payout),
        reason=entry.reason,
        meaning=REASONS[entry.reason],
        index=receipt.index,
        size=receipt.signed.checkpoint.size,
        witnesses=witnesses,
    )


def _witnesses(receipt: Receipt, manifest: Manifest, entry: AnyEntry) -> tuple[str, ...]:
    """Who cosigned. A round that was aborted for want of witnesses refunds everything, and has no quorum."""
    try:
        return check_quorum(receipt.signed, manifest)
    except RemoteProtocolError:
        if isinstance(entry, Paid) and entry.amount == 0 and entry.reason in ("refunded", "forfeited"):
            return ()
        raise
