"""What a verification found, and what none can find."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from patronage_protocol.canonical import Canonical
from patronage_protocol.entries import AnyEntry
from patronage_protocol.ledger.notes import VerifierKey
from patronage_protocol.ledger.published import PublishedLedger
from patronage_protocol.ledger.receipts import Receipt
from patronage_protocol.rounds import Round

__all__ = ["NOT_KNOWN", "Check", "ReceiptVerdict", "Verdict"]

NOT_KNOWN = (
    "that training happened as declared, or on whose data",
    "that the data was lawful to use",
    "that the margins were measured on the declared base model and held-out pairs",
    "that no trigger hides in an adapter",
    "that nobody was shown another ledger by more liars than the quorum bears; compare checkpoints",
    "that the witnesses are different people, and who is behind a key",
)


class Check(Canonical):
    """One thing that was checked and held."""

    phase: str
    what: str


@dataclass(frozen=True)
class Verdict:
    """A ledger that holds.

    Attributes:
        ledger: what was read.
        rounds: the rounds that its entries add up to.
        entries: the entries of each round.
        checks: what was checked, in the order of the phases.
        key: the operator's key at the end of the ledger.
        pinned: whether that key was given, rather than taken from the ledger itself.
        trusted: witnesses of the policy that was given, and when each cosigned the checkpoint.
    """

    ledger: PublishedLedger
    rounds: tuple[Round, ...]
    entries: tuple[tuple[AnyEntry, ...], ...]
    checks: tuple[Check, ...]
    key: VerifierKey
    pinned: bool
    trusted: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ReceiptVerdict:
    """A receipt that holds: the entry in it is in the log. `witnesses` are those that were looked for."""

    receipt: Receipt
    entry: bytes
    witnesses: tuple[str, ...]
    checks: tuple[Check, ...]
