"""Where a round stands: its phase, its owners' standings, and all that the entries so far say."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

from patronage_protocol.entries import Judged, Paid, Refunded
from patronage_protocol.key_ring import KeyRing
from patronage_protocol.ledger.checkpoints import SignedCheckpoint
from patronage_protocol.ledger.merkle import Frontier
from patronage_protocol.manifest import Manifest
from patronage_protocol.messages import Reveal
from patronage_protocol.payout import Settlement
from patronage_protocol.shares import Shares

__all__ = ["Blobs", "Phase", "Round", "Standing"]

Blobs = Callable[[str], bytes]
"""The bytes whose SHA-256 is asked for; raises a PatronageError if it does not have them."""
"""The bytes whose SHA-256 is asked for; raises a PatronageError if it does not have them."""


class Phase(Enum):
    """Where a round stands."""

    OPEN = "open"
    CLOSED = "closed"
    REVEALING = "revealing"
    INTAKE = "intake"
    SCORING = "scoring"
    VALUING = "valuing"
    PAYING = "paying"
    SETTLED = "settled"
    FINAL = "final"


class Standing(Enum):
    """Where an owner stands in a round."""

    INVITED = "invited"
    ACCEPTED = "accepted"
    DECLINED = "declined"
    COMMITTED = "committed"
    REVEALED = "revealed"
    ADMITTED = "admitted"
    REJECTED = "rejected"
    FORFEITED = "forfeited"


@dataclass(frozen=True)
class Round:
    """All that the entries so far say. Made by `open_round` and `advance`, never changed in place.

    Attributes:
        manifest: the terms.
        time: of the last entry, Unix seconds.
        phase: where the round stands.
        standing: each owner's standing, by name.
        tree: the Merkle tree over all entries of the ledger so far.
        keys: whose keys count, as all entries of the ledger so far have it.
        commitments: owner to commitment, in ledger order.
        closed: time of the entry `close`, once there is one.
        witnessed: the heads that a quorum cosigned: at close, then at final.
        reveals: owner to its opened commitment, in ledger order.
        verdicts: owner to its intake verdict, in ledger order.
        margins: digest of the evidence, margins or candidate pools, once evaluated.
        shares: the published shares, once valued.
        settlement: who gets what, once valued or aborted.
        settled: how many of the settlement's entries are in the ledger.
        settled_at: time of the last of them.
        questions: owner to the held-out pairs that it asked for, in ledger order.
        clusters: the number of each held-out pair's prompt, once margins are evaluated.
        shown: the held-out pairs that were opened, in ledger order, each with the digest of its prompt.
        aborted: why the round was aborted, if it was.
        adapter: digest of the consortium's adapter, once final.
    """

    manifest: Manifest
    time: int
    phase: Phase
    standing: Mapping[str, Standing]
    tree: Frontier = field(default_factory=Frontier, compare=False)
    keys: KeyRing = field(default_factory=KeyRing)
    commitments: Mapping[str, str] = field(default_factory=dict)
    closed: int | None = None
    witnessed: tuple[SignedCheckpoint, ...] = ()
    reveals: Mapping[str, Reveal] = field(default_factory=dict)
    verdicts: Mapping[str, Judged] = field(default_factory=dict)
    margins: str | None = None
    shares: Shares | None = None
    settlement: Settlement | None = None
    settled: int = 0
    settled_at: int | None = None
    questions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    clusters: tuple[int, ...] | None = None
    shown: Mapping[int, str] = field(default_factory=dict)
    aborted: Literal["players", "witnesses", "rewards"] | None = None
    adapter: str | None = None

    def owners(self, *standings: Standing) -> tuple[str, ...]:
        """The owners of these standings, sorted by name."""
        return tuple(sorted(owner for owner, standing in self.standing.items() if standing in standings))

    @property
    def players(self) -> tuple[str, ...]:
        """The owners whose adapters were admitted, sorted by name."""
        return self.owners(Standing.ADMITTED)

    @property
    def cosign_by(self) -> int:
        """The last moment for the cosignatures of the head that stands now, Unix seconds."""
        return self.time + self.manifest.witness.seconds

    @property
    def ask_by(self) -> int:
        """The last moment to ask for held-out pairs, Unix seconds; 0 where nobody may, or not yet."""
        terms = self.manifest.dispute
        return self.settled_at + terms.seconds if self.settled_at and terms.seconds and self.shares else 0

    @property
    def to_show(self) -> tuple[int, ...]:
        """The held-out pairs that were asked for and have not been opened yet, ascending."""
        asked = {pair for pairs in self.questions.values() for pair in pairs}
        return tuple(sorted(asked - set(self.shown)))

    @property
    def awaits_witnesses(self) -> bool:
        """Whether the head after the last entry must be cosigned by a quorum before anything follows it.

        A round that was aborted for want of witnesses has paid nobody, and its end asks for none.
        """
        if self.phase is Phase.FINAL:
            return len(self.witnessed) == 1
        return self.phase is Phase.CLOSED

    def due(self, time: int) -> Paid | Refunded | None:
        """The next entry of the settlement, stamped with `time`; None when all are in the ledger."""
        return next(iter(self.all_due(time)), None)

    def all_due(self, time: int) -> Iterator[Paid | Refunded]:
        """The entries of the settlement that are not in the ledger yet, in their order."""
        if self.settlement is None:
            return
        for payment in self.settlement.payments[self.settled :]:
            yield Paid(time=time, owner=payment.owner, amount=payment.amount, reason=payment.reason)
        if self.settlement.refund and self.settled <= len(self.settlement.payments):
            yield Refunded(time=time, amount=self.settlement.refund, reason=self.settlement.refund_reason)
