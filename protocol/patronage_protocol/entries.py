"""What the ledger records, one kind of entry for each event of a round.

An owner's entry holds the statement as the owner signed it. The operator's entries need no signature of
their own: the checkpoint over the ledger is the operator's signature on all of them. What is too large for
an entry is a blob, and the entry holds its SHA-256.
"""

from collections.abc import Mapping
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, TypeAdapter, ValidationError

from patronage_protocol.canonical import (
    BigInt,
    Canonical,
    Digest,
    Name,
    UnixTime,
    canonical_bytes,
    first_problem,
    sha256,
    strict_json,
)
from patronage_protocol.envelopes import Base64, Envelope
from patronage_protocol.errors import FormatError
from patronage_protocol.payout import Reason, RefundReason

__all__ = [
    "Aborted",
    "Accepted",
    "AnyEntry",
    "Closed",
    "Committed",
    "Declined",
    "Entry",
    "Evaluated",
    "Finished",
    "Forfeited",
    "Judged",
    "KeyRevoked",
    "KeyRotated",
    "Match",
    "Opened",
    "OwnerStatement",
    "Paid",
    "Questioned",
    "Refunded",
    "Revealed",
    "Shown",
    "Valued",
    "Witnessed",
    "commitments_digest",
    "decode_entry",
]


class Entry(Canonical):
    """`time` is the operator's clock, Unix seconds; it never runs backwards within a round."""

    time: UnixTime


class OwnerStatement(Entry):
    """An entry that holds what an owner signed."""

    owner: Name
    statement: Envelope


class Opened(Entry):
    """The terms. `manifest` is a blob, `signature` the operator's over it (DSSE)."""

    kind: Literal["open"] = "open"
    manifest: Digest
    signature: Base64


class Accepted(OwnerStatement):
    """An owner takes part."""

    kind: Literal["accept"] = "accept"


class Declined(OwnerStatement):
    """An owner does not take part; the statement says why."""

    kind: Literal["decline"] = "decline"


class Committed(OwnerStatement):
    """An owner is bound to one adapter."""

    kind: Literal["commit"] = "commit"


class Closed(Entry):
    """No commitment comes after this. `commitments` is the digest of all, sorted by owner."""

    kind: Literal["close"] = "close"
    count: Annotated[int, Field(ge=0)]
    commitments: Digest


class Witnessed(Entry):
    """The head just before this entry, as the operator signed it and a quorum of the witnesses cosigned it.

    `checkpoint` is the signed note: the operator's line, then those of witnesses in the manifest's order.
    """

    kind: Literal["witness"] = "witness"
    checkpoint: Annotated[str, Field(max_length=60_000)]


class Revealed(OwnerStatement):
    """An owner opened its commitment."""

    kind: Literal["reveal"] = "reveal"


class Forfeited(Entry):
    """An owner let a deadline pass and is out of the round."""

    kind: Literal["forfeit"] = "forfeit"
    owner: Name
    reason: Annotated[str, Field(min_length=1, max_length=500)]


class Match(Canonical):
    """The most similar adapter among those committed earlier, by the cosine of dW."""

    owner: Name
    cosine: Annotated[float, Field(ge=-1, le=1)]


class Judged(Entry):
    """The verdict of intake on one adapter. `norm` is that of dW; None when the bytes could not be read."""

    kind: Literal["intake"] = "intake"
    owner: Name
    accepted: bool
    reason: Annotated[str, Field(max_length=500)]
    norm: Annotated[float, Field(ge=0)] | None
    nearest: Match | None


class Evaluated(Entry):
    """The margins of all players, or their candidate pools, are fixed; `margins` is the blob."""

    kind: Literal["evaluate"] = "evaluate"
    margins: Digest


class Valued(Entry):
    """The shares with their intervals; `shares` is a blob."""

    kind: Literal["value"] = "value"
    shares: Digest


class Aborted(Entry):
    """The round cannot go on; the budget is refunded.

    `players`: too few adapters were admitted. `witnesses`: no quorum cosigned the close in time. `rewards`: a
    reward that the manifest pins cannot score the answers. `count` is how many adapters were admitted, or
    how many witnesses cosigned.
    """

    kind: Literal["abort"] = "abort"
    reason: Literal["players", "witnesses", "rewards"]
    count: Annotated[int, Field(ge=0)]


class Paid(Entry):
    """What one owner is paid, in minor units; every owner of the manifest gets one."""

    kind: Literal["pay"] = "pay"
    owner: Name
    amount: BigInt
    reason: Reason


class Refunded(Entry):
    """What goes back to whoever put up the budget, in minor units."""

    kind: Literal["refund"] = "refund"
    amount: BigInt
    reason: RefundReason


class Questioned(OwnerStatement):
    """An owner asks for held-out pairs to be opened, or for none."""

    kind: Literal["ask"] = "ask"


class Shown(Entry):
    """A held-out pair that an owner asked for, with its salt and its place under the root; a blob."""

    kind: Literal["show"] = "show"
    opening: Digest


class Finished(Entry):
    """The end. `adapter` is the digest of the consortium's adapter; None if there is none."""

    kind: Literal["final"] = "final"
    adapter: Digest | None


class KeyRotated(Entry):
    """An owner, or the operator, has a new key; the statement is signed by the old key and the new one."""

    kind: Literal["rotate"] = "rotate"
    party: Name
    statement: Envelope


class KeyRevoked(Entry):
    """The key of an owner, or of the operator, counts no more; the statement is signed by it."""

    kind: Literal["revoke"] = "revoke"
    party: Name
    statement: Envelope


AnyEntry: TypeAlias = (
    Opened
    | Accepted
    | Declined
    | Committed
    | Closed
    | Witnessed
    | Revealed
    | Forfeited
    | Judged
    | Evaluated
    | Valued
    | Aborted
    | Paid
    | Refunded
    | Questioned
    | Shown
    | Finished
    | KeyRotated
    | KeyRevoked
)

_ANY: TypeAdapter[AnyEntry] = TypeAdapter(Annotated[AnyEntry, Field(discriminator="kind")])


def decode_entry(data: bytes) -> AnyEntry:
    """Read one entry, which must be exactly what `encode` writes.

    Raises:
        FormatError: it is not an entry, or one spelled in another way.
    """
    strict_json(data, what="a ledger entry")
    try:
        entry = _ANY.validate_json(data)
    except ValidationError as error:
        raise FormatError("a valid ledger entry", got=first_problem(error), do="refuse it") from error
    if entry.encode() != data:
        raise FormatError(
            "the canonical bytes of an entry (RFC 8785)", got="another spelling", do="refuse it"
        )
    return entry


def commitments_digest(commitments: Mapping[str, str]) -> str:
    """SHA-256 of the canonical list of (owner, commitment), sorted by owner."""
    return sha256(canonical_bytes([list(item) for item in sorted(commitments.items())]))
