"""What a report shows: one round of a verified ledger, and what the engine makes of its margins.

`read_report` is the only part that opens files. It verifies first; nothing of a ledger that fails is shown.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from patronage_protocol.entries import (
    AnyEntry,
    Declined,
    Entry,
    Forfeited,
    Judged,
    Valued,
)
from patronage_protocol.errors import UsageError
from patronage_protocol.evidence import Evidence, MarginEvidence, read_evidence
from patronage_protocol.fixed_point import to_float
from patronage_protocol.keys import PublicKey
from patronage_protocol.ledger.checkpoints import SignedCheckpoint
from patronage_protocol.ledger.notes import VerifierKey
from patronage_protocol.manifest import Manifest
from patronage_protocol.messages import Refusal, read_statement
from patronage_protocol.payout import Payment
from patronage_protocol.rounds import Phase, Round
from patronage_protocol.valuation import Saturation
from patronage_protocol.verify import verify_ledger
from patronage_server.report.coalitions import Coalitions, coalitions_of, saturation_of
from patronage_server.report.numbers import UtilityScale

__all__ = ["Report", "Share", "read_report"]

E = TypeVar("E", bound=Entry)


@dataclass(frozen=True)
class Share:
    """A published share with its interval, in units of utility."""

    owner: str
    point: float
    lower: float
    upper: float

    @property
    def told_from_zero(self) -> int:
        """1 or -1 if the interval lies on that side of zero, else 0."""
        return (self.lower > 0) - (self.upper < 0)


@dataclass(frozen=True, eq=False)
class Report:
    """One round of a ledger that was verified.

    Attributes:
        state: the round, as its entries leave it.
        entries: its entries, in order.
        rounds: how many rounds the ledger holds.
        signed: the checkpoint of the whole ledger.
        vkey: the operator's verifier key, as the ledger itself names it.
        evidence: the margins or candidate pools, once evaluated.
    """

    state: Round
    entries: tuple[AnyEntry, ...]
    rounds: int
    signed: SignedCheckpoint
    vkey: VerifierKey
    evidence: Evidence | None

    @property
    def manifest(self) -> Manifest:
        """The terms."""
        return self.state.manifest

    @property
    def finished(self) -> bool:
        """Whether the round is over."""
        return self.state.phase is Phase.FINAL

    def of(self, kind: type[E]) -> tuple[E, ...]:
        """The entries of one kind, in order."""
        return tuple(entry for entry in self.entries if isinstance(entry, kind))

    @cached_property
    def shares(self) -> tuple[Share, ...]:
        """The published shares, the largest first; empty before valuation."""
        published = self.state.shares
        if published is None:
            return ()
        columns = (published.shares, published.lower, published.upper)
        rows = zip(published.players, *columns, strict=True)
        shares = (Share(owner, *(to_float(units) for units in row)) for owner, *row in rows)
        return tuple(sorted(shares, key=lambda share: (-share.point, share.owner)))

    @property
    def order(self) -> tuple[int, ...]:
        """The players as rows of the evidence: by share where there are shares, else by name."""
        players = self.state.players
        ranked = (share.owner for share in self.shares) if self.shares else players
        return tuple(players.index(player) for player in ranked)

    @cached_property
    def grand(self) -> float | None:
        """v(N) as published; None before valuation."""
        return None if self.state.shares is None else to_float(self.state.shares.grand)

    @cached_property
    def detectable(self) -> float | None:
        """The smallest share that the round could have told from zero; None before valuation."""
        return None if self.state.shares is None else to_float(self.state.shares.smallest_detectable)

    @property
    def powered(self) -> bool | None:
        """Whether the settlement took the round as powered; None where it did not come to that question."""
        settlement = self.state.settlement
        if self.grand is None or self.grand <= 0 or settlement is None or self.manifest.payout.budget == 0:
            return None
        return settlement.refund_reason != "underpowered"

    @cached_property
    def payments(self) -> dict[str, Payment]:
        """What the settlement gives every owner; empty before there is one."""
        settlement = self.state.settlement
        return {} if settlement is None else {payment.owner: payment for payment in settlement.payments}

    @cached_property
    def scale(self) -> UtilityScale:
        """How utilities of this round are shown."""
        bounds = [number for share in self.shares for number in (share.point, share.lower, share.upper)]
        grand = self.coalitions.grand if self.coalitions else 0.0
        base = self.coalitions.base if self.coalitions else 0.0
        return UtilityScale.fitting(self.manifest.game.utility, bounds or [grand], grand, base)

    @cached_property
    def coalitions(self) -> Coalitions | None:
        """Coalition utilities; None before evaluation."""
        return None if self.evidence is None else coalitions_of(self.evidence, self.manifest)

    @cached_property
    def saturation(self) -> Saturation | None:
        """Aumann-Shapley against Shapley; None before valuation, and for a utility without slope."""
        if not isinstance(self.evidence, MarginEvidence) or self.state.shares is None:
            return None
        return saturation_of(self.evidence, self.manifest)

    @cached_property
    def shares_digest(self) -> str | None:
        """Digest of the published shares."""
        return next((entry.shares for entry in self.of(Valued)), None)

    @cached_property
    def stated_reasons(self) -> dict[str, str]:
        """In their own words: why owners declined, forfeited or were rejected."""
        reasons = {entry.owner: entry.reason for entry in self.of(Forfeited)}
        reasons |= {entry.owner: entry.reason for entry in self.of(Judged) if entry.reason}
        return reasons | {entry.owner: self._refusal(entry) for entry in self.of(Declined)}

    def _refusal(self, entry: Declined) -> str:
        party = self.manifest.owner(entry.owner)
        assert party is not None, "the state machine took the entry"
        key = PublicKey.from_base64(party.key)
        statement = read_statement(
            entry.statement, Refusal, manifest=self.manifest, author=entry.owner, key=key
        )
        return statement.reason


def read_report(folder: Path, *, round_number: int | None = None) -> Report:
    """Verify a published ledger and read one round of it.

    Args:
        folder: the published ledger.
        round_number: the manifest's number of the round; the latest by default.

    Raises:
        VerificationError, FormatError, RemoteProtocolError: the ledger does not hold; says where.
        UnavailableError: it cannot be read.
        UsageError: it has no such round.
    """
    verdict = verify_ledger(folder)
    place = _place(verdict.rounds, round_number)
    state = verdict.rounds[place]
    blobs = verdict.ledger.blobs
    return Report(
        state=state,
        entries=verdict.entries[place],
        rounds=len(verdict.rounds),
        signed=verdict.ledger.signed,
        vkey=verdict.key,
        evidence=None if state.margins is None else read_evidence(blobs[state.margins], state.manifest),
    )


def _place(rounds: tuple[Round, ...], number: int | None) -> int:
    numbers = [state.manifest.round for state in rounds]
    if number is None:
        return len(numbers) - 1
    if number not in numbers:
        raise UsageError(
            f"a round of this ledger, {numbers[0]} to {numbers[-1]}", got=str(number), do="name one of them"
        )
    return numbers.index(number)
