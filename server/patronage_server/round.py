"""Drives one round from its terms to receipts. What may happen next is decided by the state machine alone.

The driver looks at the phase, does what the phase waits for, records what came of it, and looks again; a
restarted operator goes on by the same loop. An owner's failure costs that owner its place, never the round.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

from patronage_protocol.adapters import Tensors, decode
from patronage_protocol.canonical import sha256
from patronage_protocol.entries import (
    Aborted,
    Accepted,
    Closed,
    Committed,
    Declined,
    Evaluated,
    Finished,
    Forfeited,
    Questioned,
    Revealed,
    Shown,
    Valued,
    Witnessed,
    commitments_digest,
)
from patronage_protocol.envelopes import Envelope
from patronage_protocol.errors import RemoteProtocolError, UnavailableError
from patronage_protocol.evidence import Evidence, read_evidence
from patronage_protocol.files import read_bytes, write_atomic
from patronage_protocol.held_out import HeldOutSets
from patronage_protocol.manifest import Manifest
from patronage_protocol.messages import (
    QuestionRequest,
    ReceiptRequest,
    Refusal,
    Reveal,
    RevealRequest,
    TrainRequest,
)
from patronage_protocol.rounds import Phase, Round, Standing
from patronage_protocol.shares import compute_shares
from patronage_protocol.wire import Action, Field
from patronage_server.book import Book
from patronage_server.clock import Clock
from patronage_server.correspondence import Correspondence
from patronage_server.cosigning import Cosigning
from patronage_server.home import OperatorHome
from patronage_server.intake import judge
from patronage_server.nodes import Answer
from patronage_server.starting import start_bytes

__all__ = ["Evaluate", "Export", "RoundDriver"]

WAIT_SECONDS = 5.0
RECEIPT_SECONDS = 60
END_SECONDS = 60
"""How long witnesses are asked for the end, be the deadline past."""

TOOK_PART = (Standing.COMMITTED, Standing.ADMITTED, Standing.REJECTED, Standing.FORFEITED)

Evaluate = Callable[[Round, Mapping[str, Tensors]], Evidence]
"""Score the players' adapters on the held-out pairs, or on answers to their prompts."""

Export = Callable[[Round, Mapping[str, Tensors]], str]
"""Write the consortium's adapter; returns the digest that the ledger records."""


@dataclass(frozen=True)
class RoundDriver:
    """One operator, one round.

    Attributes:
        home: the operator's folder.
        book: the ledger and the state of the round.
        owners: the conversation with the owners.
        clock: the operator's time.
        evaluate: scores adapters.
        export: writes the consortium's adapter.
    """

    home: OperatorHome
    book: Book
    owners: Correspondence
    clock: Clock
    evaluate: Evaluate
    export: Export

    def run(self) -> Round:
        """Take the round from where it stands to its end, publish the ledger, hand out receipts.

        Raises:
            UnavailableError: too few witnesses cosigned the end; nothing was published.
            PatronageError: the operator's own side failed (disk, model, ledger). What was recorded stays, and
                running again goes on from there.
        """
        steps = {
            Phase.OPEN: self._gather,
            Phase.CLOSED: self._witness_close,
            Phase.REVEALING: self._reveal,
            Phase.INTAKE: self._judge,
            Phase.SCORING: self._score,
            Phase.VALUING: self._value,
            Phase.PAYING: self._pay,
            Phase.SETTLED: self._finish,
        }
        while (phase := self._state.phase) is not Phase.FINAL:
            steps[phase]()
        self._witness_end()
        self.book.publish()
        self._hand_out_receipts()
        return self._state

    @property
    def cosigning(self) -> Cosigning:
        """The cosignatures of the head that stands now."""
        return Cosigning(self.book.ledger, self._manifest, self.owners, self.clock)

    @property
    def _state(self) -> Round:
        return self.book.state

    @property
    def _manifest(self) -> Manifest:
        return self._state.manifest

    def _gather(self) -> None:
        """Acceptances, then commitments, then close."""
        deadlines = self._manifest.deadlines
        while self._state.owners(Standing.INVITED) and self.clock.now() <= deadlines.accept:
            if not self.owners.new_nodes():
                self.clock.sleep(WAIT_SECONDS)
            for owner, envelope in self.owners.offer(deadlines.accept):
                self._take_answer_to_offer(owner, envelope)
                if not self._state.owners(Standing.INVITED):
                    break  # a node of nobody who was invited need not be waited for
        self._forfeit(Standing.INVITED, deadlines.accept)
        waiting = self._state.owners(Standing.ACCEPTED)
        for owner, answer in self.owners.ask(
            Action.TRAIN, TrainRequest, waiting, deadlines.commit, beside=self._start()
        ):
            with self.owners.blame(owner):
                statement = Envelope.decode(answer.statement)
                self.book.record(Committed(time=self.clock.now(), owner=owner, statement=statement))
        self._forfeit(Standing.ACCEPTED, deadlines.commit)
        made = self._state.commitments
        closed = Closed(time=self.clock.now(), count=len(made), commitments=commitments_digest(made))
        self.book.record(closed)

    def _start(self) -> dict[str, bytes]:
        """The adapter that the round starts from, for those who train."""
        manifest = self._manifest
        return (
            {}
            if manifest.start is None
            else {Field.START: start_bytes(self.home.path, self.home.config, manifest)}
        )

    def _take_answer_to_offer(self, owner: str, envelope: Envelope) -> None:
        if self._state.standing[owner] is Standing.INVITED:
            kind = Declined if envelope.payloadType == Refusal.media_type else Accepted
            with self.owners.blame(owner):
                self.book.record(kind(time=self.clock.now(), owner=owner, statement=envelope))

    def _witness_close(self) -> None:
        """Nobody is asked to reveal before a quorum has cosigned the list of commitments.

        A quorum that signed in time stands, also where its answers came late or this process was away since:
        the entry then bears the last moment at which it could have been made.
        """
        deadline = self._state.cosign_by
        head = self.cosigning.gather(deadline)
        now = self.clock.now()
        in_time = self.cosigning.witnesses if now <= deadline else self.cosigning.in_time(deadline)
        if len(in_time) >= self._manifest.witness.quorum:
            self.book.record(Witnessed(time=min(now, deadline), checkpoint=head.encode().decode()))
            return
        self._sleep_past(deadline)
        self.book.record(Aborted(time=self.clock.now(), reason="witnesses", count=len(in_time)))

    def _witness_end(self) -> None:
        """The end is published once a quorum has cosigned it; later than declared, but never without."""
        needed = self._manifest.witness.quorum if self._state.awaits_witnesses else 0
        again = self.clock.now() + END_SECONDS
        self.cosigning.gather(max(again, self._state.cosign_by) if needed else again)
        if len(seen := self.cosigning.witnesses) < needed:
            raise UnavailableError(
                f"cosignatures of the final head by {needed} of the witnesses",
                got=", ".join(seen) or "none",
                do="run the round again when more owners are connected; nothing was published",
            )

    def _reveal(self) -> None:
        deadline = self._manifest.deadlines.reveal
        closed = tuple(sorted(self._state.commitments.items()))
        waiting = self._state.owners(Standing.COMMITTED)
        for owner, answer in self.owners.ask(
            Action.REVEAL,
            RevealRequest,
            waiting,
            deadline,
            commitments=closed,
            closed=self.book.closing_receipt(),
        ):
            with self.owners.blame(owner):
                self._take_reveal(owner, answer)
        self._forfeit(Standing.COMMITTED, deadline)

    def _take_reveal(self, owner: str, answer: Answer) -> None:
        """Keep the adapter before the entry that says it is here."""
        envelope = Envelope.decode(answer.statement)
        reveal = Reveal.decode(envelope.unverified_payload)
        got = (sha256(answer.adapter), len(answer.adapter))
        if got != (reveal.adapter, reveal.size):
            raise RemoteProtocolError(
                f"{reveal.size} bytes of adapter with SHA-256 {reveal.adapter}",
                got=f"{got[1]} bytes with SHA-256 {got[0]}",
                do="it is not used",
                where="reveal §opening",
            )
        entry = Revealed(time=self.clock.now(), owner=owner, statement=envelope)
        self.book.check(entry)
        path = self.home.adapter(owner, self._manifest.round)
        path.parent.mkdir(exist_ok=True)
        write_atomic(path, answer.adapter)
        self.book.record(entry)

    def _judge(self) -> None:
        """Verdicts in the order of the commitments, so that the earlier of two copies keeps the credit."""
        manifest = self._manifest
        admitted = self._adapters()
        for owner in self._state.commitments:
            if self._state.standing[owner] is not Standing.REVEALED:
                continue
            verdict, tensors = judge(
                owner,
                self._adapter_bytes(owner),
                lora=manifest.lora,
                terms=manifest.intake,
                admitted=admitted,
                time=self.clock.now(),
            )
            self.book.record(verdict)
            if tensors is not None:
                admitted[owner] = tensors

    def _score(self) -> None:
        players = self._state.players
        if len(players) < self._manifest.min_players:
            self.book.record(Aborted(time=self.clock.now(), reason="players", count=len(players)))
            return
        evidence = self.evaluate(self._state, self._adapters())
        digest = self.book.ledger.put_blob(evidence.encode())
        self.book.record(Evaluated(time=self.clock.now(), margins=digest))

    def _value(self) -> None:
        assert self._state.margins is not None, "the phase VALUING begins with the margins"
        evidence = read_evidence(self.book.ledger.blob(self._state.margins), self._manifest)
        shares = compute_shares(evidence, self._manifest)
        digest = self.book.ledger.put_blob(shares.encode())
        self.book.record(Valued(time=self.clock.now(), shares=digest))

    def _pay(self) -> None:
        self.book.record(*self._state.all_due(self.clock.now()))

    def _answer_questions(self) -> None:
        """Open the held-out pairs that owners ask for, until all have spoken or the time is over."""
        deadline = self._state.ask_by
        waiting = [o.name for o in self._manifest.owners if o.name not in self._state.questions]
        if not deadline:
            return
        self._show_pairs()
        for owner, answer in self.owners.ask(Action.QUESTION, QuestionRequest, waiting, deadline):
            with self.owners.blame(owner):
                statement = Envelope.decode(answer.statement)
                self.book.record(Questioned(time=self.clock.now(), owner=owner, statement=statement))
            self._show_pairs()
        if len(self._state.questions) < len(self._manifest.owners):
            self._sleep_past(deadline)

    @cached_property
    def _held_out(self) -> HeldOutSets:
        """Read, and held against the manifest, when the first pair is to be shown."""
        return self.home.committed_pairs(self._manifest)

    def _show_pairs(self) -> None:
        for index in self._state.to_show:
            digest = self.book.ledger.put_blob(self._held_out.open(index).encode())
            self.book.record(Shown(time=self.clock.now(), opening=digest))

    def _finish(self) -> None:
        self._answer_questions()
        digest = None
        if self._state.shares is not None:
            digest = self.export(self._state, self._adapters())
        self.book.record(Finished(time=self.clock.now(), adapter=digest))

    def _hand_out_receipts(self) -> None:
        """Give each owner that took part the proof that its payment is in the ledger."""
        receipts = self.book.receipts()
        took_part = [owner for owner in receipts if self._state.standing[owner] in TOOK_PART]
        deadline = self.clock.now() + RECEIPT_SECONDS

        def own(owner: str) -> dict[str, object]:
            return {"receipt": receipts[owner]}

        for _ in self.owners.ask(Action.RECEIPT, ReceiptRequest, took_part, deadline, own=own):
            pass

    def _forfeit(self, standing: Standing, deadline: int) -> None:
        """Once the deadline has passed, whoever still has that standing is out."""
        late = self._state.owners(standing)
        if late:
            self._sleep_past(deadline)
        for owner in late:
            reason = self.owners.problems.get(owner, "silent until the deadline")
            self.book.record(Forfeited(time=self.clock.now(), owner=owner, reason=reason))

    def _sleep_past(self, deadline: int) -> None:
        while (now := self.clock.now()) <= deadline:
            self.clock.sleep(deadline + 1 - now)

    def _adapters(self) -> dict[str, Tensors]:
        lora, terms = self._manifest.lora, self._manifest.intake
        return {
            player: decode(self._adapter_bytes(player), lora, max_bytes=terms.max_bytes)
            for player in self._state.players
        }

    def _adapter_bytes(self, owner: str) -> bytes:
        """What an owner revealed, from the operator's folder."""
        path = self.home.adapter(owner, self._manifest.round)
        data = read_bytes(path, limit=self._manifest.intake.max_bytes)
        if sha256(data) != self._state.reveals[owner].adapter:
            raise UnavailableError(
                f"the adapter that {owner} revealed",
                got="other bytes",
                do="restore the file",
                where=str(path),
            )
        return data
