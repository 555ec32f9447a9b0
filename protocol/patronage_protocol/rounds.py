"""The state machine of a round. Pure: an entry goes in, the next state comes out, or the clause it breaks.

The ledger's entries are its events. The operator appends an entry only after `advance` has taken it, a
restarted operator folds `advance` over the stored entries, and a verifier folds it over the published ones.

    OPEN       accept decline commit forfeit close
    CLOSED     witness abort                     the head at close, cosigned by a quorum
    REVEALING  reveal forfeit                    until every committed owner has revealed or forfeited
    INTAKE     intake                            until every revealed adapter has its verdict
    SCORING    evaluate abort
    VALUING    value
    PAYING     pay refund                        exactly the settlement of the manifest's policy, in its order
    SETTLED    ask show final                    owners may ask for held-out pairs, which are then opened
    FINAL      witness rotate revoke             the head at final, for the next round; then changes of keys

What an owner may still do follows from its standing:

    INVITED    accept -> ACCEPTED    decline -> DECLINED    forfeit -> FORFEITED
    ACCEPTED   commit -> COMMITTED   forfeit -> FORFEITED
    COMMITTED  reveal -> REVEALED    forfeit -> FORFEITED
    REVEALED   intake -> ADMITTED or REJECTED

A state carries the right edge of the Merkle tree over all entries before it, so that a cosigned head in an
entry is compared with the one that these entries have.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from types import MappingProxyType
from typing import Any, Literal, NoReturn

from patronage_protocol.entries import (
    Aborted,
    Accepted,
    AnyEntry,
    Closed,
    Committed,
    Declined,
    Entry,
    Evaluated,
    Finished,
    Forfeited,
    Judged,
    KeyRevoked,
    KeyRotated,
    Opened,
    OwnerStatement,
    Paid,
    Questioned,
    Refunded,
    Revealed,
    Shown,
    Valued,
    Witnessed,
    commitments_digest,
)
from patronage_protocol.envelopes import verify_detached
from patronage_protocol.errors import RemoteProtocolError, VerificationError
from patronage_protocol.evidence import EvidenceHeader, declared, read_evidence
from patronage_protocol.held_out import HeldOutOpening, check_opening
from patronage_protocol.key_ring import KeyRing
from patronage_protocol.keys import PublicKey
from patronage_protocol.ledger.checkpoints import Checkpoint, SignedCheckpoint
from patronage_protocol.ledger.merkle import Frontier, leaf_hash
from patronage_protocol.manifest import MANIFEST_TYPE, Manifest, Party, RewardGameTerms
from patronage_protocol.messages import (
    Acceptance,
    Commitment,
    Question,
    Refusal,
    Reveal,
    S,
    commitment,
    read_statement,
)
from patronage_protocol.opened_pairs import against_clusters, against_counts
from patronage_protocol.payout import Reason, Settlement, settle
from patronage_protocol.shares import Shares
from patronage_protocol.strict import base64_bytes
from patronage_protocol.witnessing import check_quorum, in_order

__all__ = ["Blobs", "Phase", "Round", "Standing", "advance", "follow", "open_round"]


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


ALLOWED: Mapping[Phase, tuple[type[Entry], ...]] = MappingProxyType(
    {
        Phase.OPEN: (Accepted, Declined, Committed, Forfeited, Closed),
        Phase.CLOSED: (Witnessed, Aborted),
        Phase.REVEALING: (Revealed, Forfeited),
        Phase.INTAKE: (Judged,),
        Phase.SCORING: (Evaluated, Aborted),
        Phase.VALUING: (Valued,),
        Phase.PAYING: (Paid, Refunded),
        Phase.SETTLED: (Questioned, Shown, Finished),
        Phase.FINAL: (Witnessed, KeyRotated, KeyRevoked),
    }
)

MOVES: Mapping[tuple[Standing, type[Entry]], Standing] = MappingProxyType(
    {
        (Standing.INVITED, Accepted): Standing.ACCEPTED,
        (Standing.INVITED, Declined): Standing.DECLINED,
        (Standing.INVITED, Forfeited): Standing.FORFEITED,
        (Standing.ACCEPTED, Committed): Standing.COMMITTED,
        (Standing.ACCEPTED, Forfeited): Standing.FORFEITED,
        (Standing.COMMITTED, Revealed): Standing.REVEALED,
        (Standing.COMMITTED, Forfeited): Standing.FORFEITED,
        (Standing.REVEALED, Judged): Standing.ADMITTED,  # REJECTED if the verdict says so
    }
)

OUT_OF_GAME: Mapping[Standing, Reason] = MappingProxyType(
    {
        Standing.DECLINED: "declined",
        Standing.FORFEITED: "forfeited",
        Standing.REJECTED: "rejected",
        Standing.COMMITTED: "refunded",  # of a round that was aborted before anybody could reveal
        Standing.ADMITTED: "refunded",  # a player of a round that was aborted
    }
)

Blobs = Callable[[str], bytes]
"""The bytes whose SHA-256 is asked for; raises a PatronageError if it does not have them."""


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


def open_round(entry: AnyEntry, blobs: Blobs, before: Round | None = None) -> Round:
    """The state after the first entry, which must open a round with a manifest that its operator signed.

    `before` is where the round before it stands, if there was one.

    Raises:
        RemoteProtocolError: it is another entry, or a party has a key that is not its own.
        FormatError: the manifest does not parse.
        VerificationError: the signature is not the operator's.
    """
    if not isinstance(entry, Opened):
        _refuse("the entry open first", entry.kind, "open §first")
    data = blobs(entry.manifest)
    manifest = Manifest.decode(data)
    key = PublicKey.from_base64(manifest.operator.key)
    verify_detached(MANIFEST_TYPE, data, base64_bytes(entry.signature, what="the signature"), key)
    tree, keys = (before.tree, before.keys) if before else (Frontier(), KeyRing())
    return Round(
        manifest=manifest,
        time=entry.time,
        phase=Phase.OPEN,
        standing={owner.name: Standing.INVITED for owner in manifest.owners},
        tree=_grown(tree, entry),
        keys=keys.admit(manifest, tree.size),
    )


def advance(state: Round, entry: AnyEntry, blobs: Blobs) -> Round:
    """The state after `entry`.

    Raises:
        RemoteProtocolError: the entry breaks a clause, which `where` names; `state` still holds.
        FormatError, VerificationError: a statement or blob in it does not hold.
    """
    if type(entry) not in ALLOWED[state.phase]:
        allowed = ", ".join(_kind(kind) for kind in ALLOWED[state.phase]) or "nothing"
        _refuse(f"{allowed} in the phase {state.phase.value}", entry.kind, f"{entry.kind} §phase")
    if entry.time < state.time:
        _refuse(f"a time of at least {state.time}", str(entry.time), f"{entry.kind} §clock")
    after = _HANDLERS[type(entry)](replace(state, time=entry.time), entry, blobs)
    return replace(after, tree=_grown(state.tree, entry))


def follow(history: tuple[Round, ...], entry: AnyEntry, blobs: Blobs) -> tuple[Round, ...]:
    """The rounds of a ledger after one more entry: it continues the last round or opens the next one.

    The next round opens once the last head of the round before was cosigned and that is recorded.

    Raises:
        RemoteProtocolError, FormatError, VerificationError: as `open_round` and `advance`.
    """
    last = history[-1] if history else None
    if last is not None and (last.phase is not Phase.FINAL or isinstance(entry, ALLOWED[Phase.FINAL])):
        return (*history[:-1], advance(last, entry, blobs))
    opened = open_round(entry, blobs, last)
    if last is not None:
        if last.awaits_witnesses:
            _refuse("the cosigned head of the round before first", entry.kind, "open §witnessed")
        before, after = last.manifest, opened.manifest
        if (after.consortium, after.round) != (before.consortium, before.round + 1):
            _refuse(
                f"round {before.round + 1} of {before.consortium}",
                f"round {after.round} of {after.consortium}",
                "open §next",
            )
    _check_start(history, opened.manifest)
    return (*history, opened)


def _check_start(history: tuple[Round, ...], manifest: Manifest) -> None:
    """A start is the adapter that the last round with one left, over the same base model and modules."""
    start = manifest.start
    if start is None:
        return
    last = next((state for state in reversed(history) if state.adapter is not None), None)
    if last is None:
        _refuse("the base model as start, since no round has left an adapter", start.adapter, "open §start")
    before = last.manifest
    if (start.round, start.adapter) != (before.round, last.adapter):
        _refuse(
            f"the adapter {last.adapter} of round {before.round} as start",
            f"{start.adapter} of round {start.round}",
            "open §start",
        )
    if (
        manifest.base_model.identity != before.base_model.identity
        or manifest.lora.groups != before.lora.groups
    ):
        _refuse(f"the base model and LoRA modules of round {before.round}", "others", "open §start")
    ours, theirs = (terms.alpha / terms.rank for terms in (start, before.lora))
    rank = len(last.players) * before.lora.rank + (before.start.rank if before.start else 0)
    if start.rank != rank or not math.isclose(ours, theirs, rel_tol=1e-12):
        _refuse(f"rank {rank} and alpha / rank {theirs:g} as start", f"{start.rank}, {ours:g}", "open §start")


def _accept(state: Round, entry: Accepted, _blobs: Blobs) -> Round:
    _in_time(entry, state.manifest.deadlines.accept)
    _read(state, entry, Acceptance)
    return _move(state, entry, entry.owner)


def _decline(state: Round, entry: Declined, _blobs: Blobs) -> Round:
    _read(state, entry, Refusal)
    return _move(state, entry, entry.owner)


def _commit(state: Round, entry: Committed, _blobs: Blobs) -> Round:
    _in_time(entry, state.manifest.deadlines.commit)
    statement = _read(state, entry, Commitment)
    state = _move(state, entry, entry.owner)
    return replace(state, commitments={**state.commitments, entry.owner: statement.commitment})


def _forfeit(state: Round, entry: Forfeited, _blobs: Blobs) -> Round:
    deadlines = state.manifest.deadlines
    owed = {
        Standing.INVITED: deadlines.accept,
        Standing.ACCEPTED: deadlines.commit,
        Standing.COMMITTED: deadlines.reveal,
    }
    _known(state, entry.owner)
    deadline = owed.get(state.standing[entry.owner])
    if deadline is not None and entry.time <= deadline:
        _refuse(f"a forfeit after the deadline {deadline}", str(entry.time), "forfeit §deadline")
    committed = state.standing[entry.owner] is Standing.COMMITTED
    if committed and state.phase is Phase.OPEN:
        _refuse("a forfeit of a committed owner after close", "one before it", "forfeit §close")
    return _next_phase(_move(state, entry, entry.owner))


def _close(state: Round, entry: Closed, _blobs: Blobs) -> Round:
    if waiting := state.owners(Standing.INVITED, Standing.ACCEPTED):
        _refuse("no owner that may still accept or commit", ", ".join(waiting), "close §waiting")
    expected = (len(state.commitments), commitments_digest(state.commitments))
    if (entry.count, entry.commitments) != expected:
        _refuse(f"{expected[0]} commitments with digest {expected[1]}", entry.commitments, "close §list")
    return replace(state, phase=Phase.CLOSED, closed=entry.time)


def _witness(state: Round, entry: Witnessed, _blobs: Blobs) -> Round:
    if not state.awaits_witnesses:
        _refuse("a head that is to be cosigned", "one that is done", "witness §standing")
    if state.phase is Phase.CLOSED:
        _in_time(entry, _cosign_close_by(state))
    signed = SignedCheckpoint.parse(entry.checkpoint.encode())
    head = Checkpoint(state.manifest.origin, state.tree.size, state.tree.root())
    if signed.checkpoint != head:
        _refuse(f"the head of {head.size} entries before it", signed.checkpoint.text, "witness §head")
    check_quorum(signed, state.manifest)
    if signed != in_order(signed, state.manifest):
        _refuse("the lines of the operator and the witnesses, in order", "others", "witness §lines")
    state = replace(state, witnessed=(*state.witnessed, signed))
    return _next_phase(replace(state, phase=Phase.REVEALING)) if state.phase is Phase.CLOSED else state


def _reveal(state: Round, entry: Revealed, _blobs: Blobs) -> Round:
    manifest = state.manifest
    _in_time(entry, manifest.deadlines.reveal)
    reveal = _read(state, entry, Reveal)
    state = _move(state, entry, entry.owner)
    opened = commitment(
        consortium=manifest.consortium,
        round_number=manifest.round,
        owner=entry.owner,
        salt=reveal.salt,
        adapter=reveal.adapter,
    )
    if opened != state.commitments[entry.owner]:
        _refuse(f"an opening of {state.commitments[entry.owner]}", opened, "reveal §opening")
    if reveal.size > manifest.intake.max_bytes:
        _refuse(f"at most {manifest.intake.max_bytes} bytes of adapter", str(reveal.size), "reveal §size")
    return _next_phase(replace(state, reveals={**state.reveals, entry.owner: reveal}))


def _judge(state: Round, entry: Judged, _blobs: Blobs) -> Round:
    terms = state.manifest.intake
    if entry.accepted == bool(entry.reason):
        _refuse("a reason with a rejection and none with an admission", repr(entry.reason), "intake §reason")
    if entry.accepted and (entry.norm is None or entry.norm > terms.max_norm):
        _refuse(f"a norm of at most {terms.max_norm}", str(entry.norm), "intake §norm")
    if entry.accepted and entry.nearest and entry.nearest.cosine >= terms.copy_cosine:
        _refuse(f"a cosine below {terms.copy_cosine}", str(entry.nearest.cosine), "intake §copy")
    state = _move(state, entry, entry.owner)
    if not entry.accepted:
        state = replace(state, standing={**state.standing, entry.owner: Standing.REJECTED})
    return _next_phase(replace(state, verdicts={**state.verdicts, entry.owner: entry}))


def _evaluate(state: Round, entry: Evaluated, blobs: Blobs) -> Round:
    manifest = state.manifest
    if len(state.players) < manifest.min_players:
        _refuse(f"at least {manifest.min_players} players", str(len(state.players)), "evaluate §players")
    evidence = read_evidence(blobs(entry.margins), manifest)
    header = evidence.header
    agreed = {
        "players": (header.players, state.players),
        "adapters": (header.adapters, tuple(state.reveals[player].adapter for player in state.players)),
        **declared(evidence, manifest),
    }
    for what, (got, expected) in agreed.items():
        if got != expected:
            _refuse(f"evidence with {what} {expected}", str(got), "evaluate §evidence")
    clusters = header.clusters if isinstance(header, EvidenceHeader) else None
    return replace(state, margins=entry.margins, clusters=clusters, phase=Phase.VALUING)


def _abort(state: Round, entry: Aborted, _blobs: Blobs) -> Round:
    manifest, players = state.manifest, len(state.players)
    if (entry.reason == "witnesses") != (state.phase is Phase.CLOSED):
        _refuse("the reason that the phase allows", entry.reason, "abort §reason")
    if entry.reason == "rewards" and not isinstance(manifest.game, RewardGameTerms):
        _refuse("a game on rewards", f"the utility {manifest.game.utility}", "abort §rewards")
    if entry.reason != "witnesses" and entry.count != players:
        _refuse(f"the count of {players} players", str(entry.count), "abort §players")
    if entry.reason == "players" and players >= manifest.min_players:
        _refuse(f"an abort below {manifest.min_players} players", str(entry.count), "abort §players")
    if entry.reason == "witnesses" and entry.count >= manifest.witness.quorum:
        _refuse(f"an abort below {manifest.witness.quorum} witnesses", str(entry.count), "abort §witnesses")
    if entry.reason == "witnesses" and entry.time <= (deadline := _cosign_close_by(state)):
        _refuse(f"an abort after the deadline {deadline}", str(entry.time), "abort §deadline")
    return _settle(replace(state, aborted=entry.reason), None)


def _value(state: Round, entry: Valued, blobs: Blobs) -> Round:
    shares = Shares.decode(blobs(entry.shares))
    if shares.margins != state.margins or shares.players != state.players:
        _refuse(f"shares of the margins {state.margins}", shares.margins, "value §evidence")
    return _settle(state, shares)


def _pay(state: Round, entry: Paid | Refunded, _blobs: Blobs) -> Round:
    due = state.due(entry.time)
    assert due is not None, "the phase PAYING ends with the last due entry"
    if entry != due:
        _refuse(due.encode().decode(), entry.encode().decode(), f"{entry.kind} §settlement")
    state = replace(state, settled=state.settled + 1)
    if state.due(entry.time):
        return state
    return replace(state, phase=Phase.SETTLED, settled_at=entry.time)


def _ask(state: Round, entry: Questioned, _blobs: Blobs) -> Round:
    terms = state.manifest.dispute
    _in_time(entry, state.ask_by)
    pairs = _read(state, entry, Question).pairs
    if entry.owner in state.questions:
        _refuse("an owner that has not asked yet", entry.owner, "ask §standing")
    if len(pairs) > terms.pairs or list(pairs) != sorted(set(pairs)):
        _refuse(f"at most {terms.pairs} pairs, ascending", str(pairs)[:80], "ask §pairs")
    if pairs and pairs[-1] >= (number := state.manifest.held_out_pairs):
        _refuse(f"pairs below {number}", str(pairs[-1]), "ask §pairs")
    return replace(state, questions={**state.questions, entry.owner: pairs})


def _show(state: Round, entry: Shown, blobs: Blobs) -> Round:
    opening = HeldOutOpening.decode(blobs(entry.opening))
    if opening.index not in state.to_show:
        _refuse("a pair that was asked for and not shown", str(opening.index), "show §asked")
    try:
        check_opening(opening, *state.manifest.held_out_sets)
    except VerificationError as error:
        _refuse("the pair at its place under the held-out root", error.got, "show §root")
    shown = {**state.shown, opening.index: opening.pair.prompt_digest}
    if state.clusters is None:
        problem = against_counts(shown, state.manifest.held_out)
    else:
        problem = against_clusters(shown, opening.index, state.clusters)
    if problem is not None:
        _refuse("opened pairs with the prompts that they were counted under", problem, "show §prompt")
    return replace(state, shown=shown)


def _finish(state: Round, entry: Finished, _blobs: Blobs) -> Round:
    if (entry.adapter is None) != (state.shares is None):
        _refuse("an adapter exactly when the round was valued", str(entry.adapter), "final §adapter")
    if entry.time <= state.ask_by and len(state.questions) < len(state.manifest.owners):
        _refuse(f"an end after {state.ask_by}, or a word of every owner", str(entry.time), "final §window")
    if state.to_show:
        _refuse("every pair shown that was asked for", f"pair {state.to_show[0]} missing", "final §shown")
    return replace(state, adapter=entry.adapter, phase=Phase.FINAL)


def _change_key(state: Round, entry: KeyRotated | KeyRevoked, _blobs: Blobs) -> Round:
    if state.awaits_witnesses:
        _refuse("the cosigned head of the round first", entry.kind, f"{entry.kind} §witnessed")
    return replace(state, keys=state.keys.after(entry, state.tree.size))


_HANDLERS: Mapping[type[Entry], Callable[[Round, Any, Blobs], Round]] = MappingProxyType(
    {
        Accepted: _accept,
        Declined: _decline,
        Committed: _commit,
        Forfeited: _forfeit,
        Closed: _close,
        Witnessed: _witness,
        Revealed: _reveal,
        Judged: _judge,
        Evaluated: _evaluate,
        Aborted: _abort,
        Valued: _value,
        Paid: _pay,
        Refunded: _pay,
        Questioned: _ask,
        Shown: _show,
        Finished: _finish,
        KeyRotated: _change_key,
        KeyRevoked: _change_key,
    }
)


def _cosign_close_by(state: Round) -> int:
    assert state.closed is not None, "the phase CLOSED begins with the close"
    return state.closed + state.manifest.witness.seconds


def _grown(tree: Frontier, entry: AnyEntry) -> Frontier:
    """A new tree with one more entry; a state that is kept keeps its own."""
    tree = tree.copy()
    tree.append(leaf_hash(entry.encode()))
    return tree


def _settle(state: Round, shares: Shares | None) -> Round:
    excluded = {
        owner: OUT_OF_GAME[standing]
        for owner, standing in state.standing.items()
        if shares is None or owner not in shares.players
    }
    settlement = settle(state.manifest.payout, shares, seed=state.manifest.seed, excluded=excluded)
    return replace(state, shares=shares, settlement=settlement, phase=Phase.PAYING)


def _next_phase(state: Round) -> Round:
    """Leave REVEALING and INTAKE as soon as nobody is waited for."""
    if state.phase is Phase.REVEALING and not state.owners(Standing.COMMITTED):
        state = replace(state, phase=Phase.INTAKE)
    if state.phase is Phase.INTAKE and not state.owners(Standing.REVEALED):
        state = replace(state, phase=Phase.SCORING)
    return state


def _move(state: Round, entry: AnyEntry, owner: str) -> Round:
    _known(state, owner)
    standing = state.standing[owner]
    move = MOVES.get((standing, type(entry)))
    if move is None:
        _refuse(
            f"an owner that may {entry.kind}",
            f"{owner}, which is {standing.value}",
            f"{entry.kind} §standing",
        )
    return replace(state, standing={**state.standing, owner: move})


def _read(state: Round, entry: OwnerStatement, kind: type[S]) -> S:
    party = _known(state, entry.owner)
    key = PublicKey.from_base64(party.key)
    if state.keys.retired(entry.statement.signatures[0].keyid):
        _refuse(f"the key {key.text} of {entry.owner}", "one that was given up", f"{_kind(type(entry))} §key")
    return read_statement(entry.statement, kind, manifest=state.manifest, author=entry.owner, key=key)


def _known(state: Round, owner: str) -> Party:
    party = state.manifest.owner(owner)
    if party is None:
        _refuse("an owner of the manifest", owner, "open §owners")
    return party


def _in_time(entry: AnyEntry, deadline: int) -> None:
    if entry.time > deadline:
        _refuse(f"{entry.kind} by {deadline}", str(entry.time), f"{entry.kind} §deadline")


def _kind(entry: type[Entry]) -> str:
    return str(entry.model_fields["kind"].default)


def _refuse(expected: str, got: str, clause: str) -> NoReturn:
    raise RemoteProtocolError(expected, got=got, do="the entry has no effect", where=clause)
