"""The state machine of a round and a naive second description of it agree, step by step, on everything.

Honest steps carry a round on; between them come late, early, duplicate, reordered, replayed and forged ones.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from by_hand import DISPUTE, HELD_OUT, NOW, Play, adapter_of, salt_of
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from round_reference import Event, RoundReference

from patronage_protocol.entries import (
    Aborted,
    Accepted,
    AnyEntry,
    Closed,
    Committed,
    Declined,
    Evaluated,
    Finished,
    Forfeited,
    Judged,
    Match,
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
from patronage_protocol.errors import PatronageError, VerificationError
from patronage_protocol.evidence import EvidenceHeader, MarginEvidence
from patronage_protocol.keys import PrivateKey
from patronage_protocol.ledger.checkpoints import SignedCheckpoint
from patronage_protocol.ledger.cosignatures import Ed25519Cosigner
from patronage_protocol.manifest import Manifest
from patronage_protocol.messages import Acceptance, Commitment, Question, Refusal, Reveal, Statement
from patronage_protocol.payout import PayoutTerms
from patronage_protocol.shares import Shares, compute_shares
from patronage_protocol.witnessing import witness_name

OWNERS = ["ann", "bob", "cy"]
CLUSTERS = (0, 0, 1, 2)
"""The prompts of the held-out pairs, numbered."""

BUDGET = 100_002
"""Divides evenly among two players and among three, so that who gets a unit left over does not matter."""

SAYS: dict[str, tuple[type[OwnerStatement], type[Statement]]] = {
    "accept": (Accepted, Acceptance),
    "decline": (Declined, Refusal),
    "commit": (Committed, Commitment),
    "reveal": (Revealed, Reveal),
    "ask": (Questioned, Question),
}

anybody = st.sampled_from([*OWNERS, "mallory"])
rarely = st.sampled_from([False, False, False, True])


class AgainstReference(RuleBasedStateMachine):
    """One round, told to both."""

    manifests: Callable[..., Manifest]
    payouts: Callable[..., PayoutTerms]
    keys: Callable[[str], PrivateKey]
    heads: Callable[..., SignedCheckpoint]
    met: set[str]

    @initialize()
    def begin(self) -> None:
        payout = self.payouts(budget=BUDGET, max_detectable_percent=10**6)
        manifest = self.manifests(*OWNERS, min_players=2, payout=payout, **DISPUTE)
        self.play = Play(manifest, self.keys, self.heads)
        self.play.open()
        terms = {
            "accept": NOW + 100,
            "commit": NOW + 200,
            "reveal": NOW + 300,
            "most_bytes": 10_000,
            "most_norm": 10.0,
            "copy": 0.99,
            "cosign": 50,
            "quorum": 2,
            "players": 2,
            "budget": BUDGET,
            "window": 60,
            "questions": 2,
            "pairs": 4,
            "prompts": ["tea", "tea", "sun", "rain"],
        }
        self.reference = RoundReference(OWNERS, terms, NOW)
        self.taken: list[tuple[Event, AnyEntry]] = []

    # Both are told; both must say the same.

    def tell(self, event: Event, entry: AnyEntry) -> None:
        event = {**event, "kind": entry.kind, "time": entry.time}
        broken = self.reference.broken(event)
        before = self.play.rounds
        clause = self.refusal(entry)
        agreed = clause in broken if clause else not broken
        assert agreed, f"{event}: {clause or 'taken'}, where the reference says {broken or 'taken'}"
        if clause:
            assert self.play.rounds is before, "a refused entry has no effect"
            self.met.add(clause)
        else:
            self.reference.take(event)
            self.taken.append((event, entry))
        self.compare()

    def refusal(self, entry: AnyEntry) -> str:
        """The clause under which the state machine refuses an entry; empty if it takes it."""
        try:
            self.play.take(entry)
        except PatronageError as error:
            return clause_of(error)
        return ""

    def compare(self) -> None:
        state, reference = self.play.state, self.reference
        assert state.phase.value == reference.phase
        assert {owner: standing.value for owner, standing in state.standing.items()} == reference.status
        assert (state.time, state.tree.size) == (reference.time, reference.entries)
        assert (state.aborted or "", len(state.witnessed)) == (reference.aborted, reference.cosigned)
        assert {owner: set(pairs) for owner, pairs in state.questions.items()} == reference.asked
        assert set(state.shown) == reference.shown
        assert state.settled == len(reference.paid)
        self.met.add(reference.phase)

    # What may be said.

    def say(
        self, kind: str, owner: str, *, signer: str = "", about: str = "", late: int = 0, **fields: Any
    ) -> None:
        entry_kind, statement_kind = SAYS[kind]
        signer = signer or owner
        facts: Event = {"owner": owner, "signer": signer, "about": about or "this round"}
        if kind == "decline":
            fields = {"reason": "no"}
        if kind == "commit":
            fields = {"commitment": self.play.commitment(owner)}
        if kind == "reveal":
            facts |= {"opens": fields.pop("opens", True), "size": fields.setdefault("size", 100)}
            salt = salt_of(owner) if facts["opens"] else salt_of("somebody")
            fields = {"adapter": adapter_of(owner), "salt": salt, "pairs": 7, **fields}
        if kind == "ask":
            facts["pairs"] = fields["pairs"]
        odd = {"round": {"round": 2}, "manifest": {"manifest": "00" * 32}, "author": {"author": "zoe"}}
        statement = self.play.say(owner, statement_kind, signer=signer, **{**fields, **odd.get(about, {})})
        self.tell(facts, entry_kind(time=self.play.now - late, owner=owner, statement=statement))

    def forfeit(self, owner: str, late: int = 0) -> None:
        self.tell({"owner": owner}, Forfeited(time=self.play.now - late, owner=owner, reason="silent"))

    def close(self, owners: list[str], more: int = 0) -> None:
        digest = commitments_digest({owner: self.play.commitment(owner) for owner in owners})
        entry = Closed(time=self.play.now, count=len(owners) + more, commitments=digest)
        self.tell({"count": entry.count, "list": owners}, entry)

    def witness(self, witnesses: list[str]) -> None:
        head = self.play.cosigned_head(self.play.state, self.keys, "ann").checkpoint
        lines = [
            Ed25519Cosigner(witness_name("orchard", name), self.keys(name)).cosign(head, self.play.now)
            for name in witnesses
        ]
        note = head.sign(self.keys("operator")).note.with_signatures(*lines).encode().decode()
        entry = Witnessed(time=self.play.now, checkpoint=note)
        self.tell({"head": head.size, "witnesses": witnesses}, entry)

    def abort(self, reason: Any, count: int) -> None:
        self.tell({"reason": reason, "count": count}, Aborted(time=self.play.now, reason=reason, count=count))

    def judge(self, owner: str, *, reason: str = "", norm: float | None = 1.0, cosine: float = 0.1) -> None:
        self.verdict(owner, accepted=not reason, reason=reason, norm=norm, cosine=cosine)

    def verdict(self, owner: str, **said: Any) -> None:
        fields = {key: value for key, value in said.items() if key != "cosine"}
        nearest = Match(owner="ann", cosine=said["cosine"])
        self.tell(
            {"owner": owner, **said}, Judged(time=self.play.now, owner=owner, nearest=nearest, **fields)
        )

    def evidence(
        self, players: list[str], *, wrong: bool, clusters: tuple[int, ...] = CLUSTERS
    ) -> MarginEvidence:
        header = EvidenceHeader(
            players=tuple(players),
            adapters=tuple(adapter_of("somebody" if wrong else player) for player in players),
            clusters=clusters,
            sources=(0, 0, 0, 0),
            labels=("all",),
            scale_bits=16,
        )
        return MarginEvidence.from_margins(header, [[1.0, 1.5, 0.5, 2.0]] * len(players))

    def evaluate(
        self, players: list[str], *, wrong: bool = False, clusters: tuple[int, ...] = CLUSTERS
    ) -> None:
        digest = self.play.put(self.evidence(players, wrong=wrong, clusters=clusters).encode())
        facts: Event = {"players": players, "wrong": wrong, "clusters": clusters}
        self.tell(facts, Evaluated(time=self.play.now, margins=digest))

    def value(self, players: list[str], *, wrong: bool = False) -> None:
        clusters = self.reference.clusters or CLUSTERS
        shares = shares_of(self.evidence(players, wrong=wrong, clusters=clusters), self.play.manifest)
        digest = self.play.put(shares.encode())
        self.tell({"players": players, "wrong": wrong}, Valued(time=self.play.now, shares=digest))

    def pay(self, place: int = 0, more: int = 0, reason: str = "") -> None:
        due = {**self.reference.to_pay[min(place, len(self.reference.to_pay) - 1)]}
        kind = Paid if due.pop("kind") == "pay" else Refunded
        due["amount"] += more
        due["reason"] = reason if reason and kind is Paid else due["reason"]
        self.tell(due, kind(time=self.play.now, **due))

    def show(self, pair: int, *, wrong: bool = False) -> None:
        opening = HELD_OUT.open(pair)
        if wrong:
            opening = opening.model_copy(update={"salt": "00" * 32})
        digest = self.play.put(opening.encode())
        self.tell({"pair": pair, "wrong": wrong}, Shown(time=self.play.now, opening=digest))

    def finish(self, *, adapter: bool) -> None:
        entry = Finished(time=self.play.now, adapter="0f" * 32 if adapter else None)
        self.tell({"adapter": adapter}, entry)

    # A round that goes well, one step at a time.

    @rule(steps=st.integers(1, 6), choice=st.integers(0, 11))
    def the_round_goes_on(self, steps: int, choice: int) -> None:
        for _ in range(steps):
            getattr(self, f"_in_{self.reference.phase}")(choice)

    def _in_open(self, choice: int) -> None:
        reference = self.reference
        if invited := reference.who("invited"):
            self.say("accept" if self.play.now <= NOW + 100 else "decline", invited[choice % len(invited)])
        elif accepted := reference.who("accepted"):
            owner = accepted[choice % len(accepted)]
            if self.play.now > NOW + 200:
                self.forfeit(owner)
            else:
                self.say("commit", owner)
        else:
            self.close(reference.who("committed"))

    def _in_closed(self, choice: int) -> None:
        if self.play.now > self.reference.closed_at + 50:
            self.abort("witnesses", 1)
        else:
            self.witness(OWNERS if choice % 2 else OWNERS[:2])

    def _in_revealing(self, choice: int) -> None:
        committed = self.reference.who("committed")
        owner = committed[choice % len(committed)]
        if self.play.now > NOW + 300:
            self.forfeit(owner)
        else:
            self.say("reveal", owner)

    def _in_intake(self, choice: int) -> None:
        self.judge(self.reference.who("revealed")[0], reason="a copy" if choice == 11 else "")

    def _in_scoring(self, _choice: int) -> None:
        players = self.reference.who("admitted")
        if len(players) < 2:
            self.abort("players", len(players))
        else:
            self.evaluate(players)

    def _in_valuing(self, _choice: int) -> None:
        self.value(self.reference.who("admitted"))

    def _in_paying(self, _choice: int) -> None:
        self.pay()

    def _in_settled(self, choice: int) -> None:
        reference = self.reference
        to_show = set().union(*reference.asked.values()) - reference.shown
        silent = [owner for owner in OWNERS if owner not in reference.asked]
        if to_show:
            self.show(min(to_show))
        elif silent and reference.valued and self.play.now <= reference.settled_at + 60:
            self.say("ask", silent[choice % len(silent)], pairs=tuple(sorted({choice % 4, choice % 3})))
        else:
            self.finish(adapter=reference.valued)

    def _in_final(self, _choice: int) -> None:
        self.witness(OWNERS)

    # Everything else.

    @rule(
        kind=st.sampled_from(["accept", "decline", "commit", "reveal"]),
        owner=anybody,
        signer=st.sampled_from(["", "", "", "bob"]),
        about=st.sampled_from(["", "", "", "round", "manifest", "author"]),
        late=st.sampled_from([0, 0, 0, 1]),
    )
    def an_owner_says_something(self, kind: str, owner: str, signer: str, about: str, late: int) -> None:
        self.say(kind, owner, signer=signer, about=about, late=late)

    @rule(owner=anybody, opens=st.booleans(), size=st.sampled_from([10_000, 10_001]))
    def an_owner_reveals_something_else(self, owner: str, opens: bool, size: int) -> None:
        self.say("reveal", owner, opens=opens, size=size)

    @rule(owner=anybody, pairs=st.lists(st.integers(0, 4), max_size=3).map(tuple), signer=rarely)
    def an_owner_asks(self, owner: str, pairs: tuple[int, ...], signer: bool) -> None:
        self.say("ask", owner, pairs=pairs, signer="cy" if signer else "")

    @rule(owner=anybody, late=st.sampled_from([0, 0, 1]))
    def somebody_is_put_out(self, owner: str, late: int) -> None:
        self.forfeit(owner, late)

    @rule(owners=st.sets(st.sampled_from(OWNERS)).map(sorted), more=st.sampled_from([0, 0, 1]))
    def the_operator_closes(self, owners: list[str], more: int) -> None:
        self.close(owners, more)

    @rule(witnesses=st.lists(anybody, unique=True, max_size=4))
    def some_cosign(self, witnesses: list[str]) -> None:
        self.witness(witnesses)

    @rule(reason=st.sampled_from(["players", "witnesses", "rewards"]), count=st.integers(0, 3))
    def the_operator_gives_up(self, reason: str, count: int) -> None:
        self.abort(reason, count)

    @rule(
        owner=anybody,
        accepted=st.booleans(),
        reason=st.sampled_from(["", "norm"]),
        norm=st.sampled_from([None, 1.0, 10.0, 10.1]),
        cosine=st.sampled_from([0.1, 0.98, 0.99]),
    )
    def intake_says_something(self, **said: Any) -> None:
        self.verdict(said.pop("owner"), **said)

    @rule(players=st.sets(st.sampled_from(OWNERS), min_size=1).map(sorted), wrong=rarely)
    def the_operator_scores(self, players: list[str], wrong: bool) -> None:
        self.evaluate(players, wrong=wrong)

    @rule(players=st.sets(st.sampled_from(OWNERS), min_size=2).map(sorted), wrong=rarely)
    def the_operator_values(self, players: list[str], wrong: bool) -> None:
        self.value(players, wrong=wrong)

    @rule(place=st.integers(0, 3), more=st.sampled_from([0, 0, 1]), honest=st.booleans())
    def the_operator_pays(self, place: int, more: int, honest: bool) -> None:
        if self.reference.to_pay:
            self.pay(place, more, "" if honest else "negative")

    @rule(pair=st.integers(0, 3), wrong=rarely)
    def the_operator_shows(self, pair: int, wrong: bool) -> None:
        self.show(pair, wrong=wrong)

    @rule(adapter=st.booleans())
    def the_operator_ends(self, adapter: bool) -> None:
        self.finish(adapter=adapter)

    @rule(seconds=st.sampled_from([0, 1, 20, 51, 61, 110]))
    def time_passes(self, seconds: int) -> None:
        self.play.now += seconds

    @rule(place=st.integers(0, 40), now=st.booleans())
    def something_is_replayed(self, place: int, now: bool) -> None:
        if self.taken:
            event, entry = self.taken[place % len(self.taken)]
            time = self.play.now if now else entry.time
            self.tell({**event}, entry.model_copy(update={"time": time}))


def clause_of(error: PatronageError) -> str:
    """The clause that the state machine named; the owners' envelopes have two reasons without one."""
    where = error.where
    if isinstance(error, VerificationError):
        return "signature"
    return "statement" if " of " in where else where


SHARES: dict[str, Shares] = {}


def shares_of(evidence: MarginEvidence, manifest: Manifest) -> Shares:
    """They take long, and are the same for the same players."""
    if evidence.digest not in SHARES:
        SHARES[evidence.digest] = compute_shares(evidence, manifest)
    return SHARES[evidence.digest]


@pytest.fixture
def machine(
    manifest_of: Callable[..., Manifest],
    payout_terms: Callable[..., PayoutTerms],
    key_of: Callable[[str], PrivateKey],
    cosigned_head: Callable[..., SignedCheckpoint],
) -> type[AgainstReference]:
    class Machine(AgainstReference):
        manifests = staticmethod(manifest_of)
        payouts = staticmethod(payout_terms)
        keys = staticmethod(key_of)
        heads = staticmethod(cosigned_head)
        met: set[str] = set()  # noqa: RUF012 - what all examples together have met

    return Machine


@pytest.mark.parametrize(
    ("examples", "steps"),
    [(40, 30), pytest.param(300, 60, marks=pytest.mark.slow)],
)
def test_the_round_and_its_reference_agree_step_by_step(
    machine: type[AgainstReference], examples: int, steps: int
) -> None:
    run_state_machine_as_test(machine, settings=settings(max_examples=examples, stateful_step_count=steps))
    assert {"open", "closed"} <= machine.met


def all_commit(round_: AgainstReference) -> AgainstReference:
    round_.begin()
    for kind in ("accept", "commit"):
        for owner in OWNERS:
            round_.say(kind, owner)
    return round_


def walk_to_the_verdicts(round_: AgainstReference) -> None:
    """Everything that can be wrong with what owners bring, before each step that is right."""
    play = round_.play
    round_.say("accept", "mallory")
    round_.say("accept", "ann", signer="bob")
    round_.say("accept", "ann", about="round")
    round_.say("commit", "ann")
    round_.forfeit("ann")
    round_.close([])
    for owner in OWNERS:
        round_.say("accept", owner)
    round_.say("accept", "ann")
    round_.say("decline", "ann")
    round_.say("commit", "ann", late=1)
    for owner in ("ann", "bob"):
        round_.say("commit", owner)
    play.now += 201
    round_.say("commit", "cy")
    round_.forfeit("cy")
    round_.forfeit("cy")
    round_.close(["ann"])
    round_.witness(OWNERS)
    round_.close(["ann", "bob"])
    round_.witness(["ann"])
    round_.witness(["bob", "ann"])
    round_.witness(["ann", "bob", "mallory"])
    round_.abort("witnesses", 1)
    round_.abort("players", 0)
    round_.witness(["ann", "bob"])
    round_.say("reveal", "ann", opens=False)
    round_.say("reveal", "ann", size=10_001)
    round_.say("reveal", "cy")
    round_.say("reveal", "ann")
    play.now += 200
    round_.say("reveal", "bob")
    play.now -= 200
    round_.say("reveal", "bob")
    for wrong in ({"reason": "", "norm": 10.1}, {"reason": "", "cosine": 0.99}, {"reason": "norm"}):
        round_.verdict("ann", **{"accepted": True, "norm": 1.0, "cosine": 0.1, **wrong})
    for owner in ("cy", "ann", "bob"):
        round_.judge(owner)


def walk_to_the_end(round_: AgainstReference) -> None:
    """The same, of what the operator makes of it: scores, shares, payments, held-out pairs, the end."""
    play = round_.play
    round_.abort("players", 2)
    round_.abort("rewards", 2)
    round_.evaluate(["ann", "bob"], wrong=True)
    round_.evaluate(["ann", "bob"])
    round_.value(["ann", "bob"], wrong=True)
    round_.value(["ann", "bob"])
    round_.pay(more=1)
    round_.pay(place=1)
    for _ in OWNERS:
        round_.pay()
    round_.finish(adapter=False)
    round_.finish(adapter=True)
    round_.say("ask", "ann", pairs=(0, 1, 2))
    round_.say("ask", "ann", pairs=(0, 3))
    round_.say("ask", "ann", pairs=(1,))
    round_.show(1)
    round_.show(0, wrong=True)
    round_.say("ask", "bob", pairs=())
    play.now += 100
    round_.say("ask", "cy", pairs=())
    round_.finish(adapter=True)
    round_.show(0)
    round_.show(3)
    round_.finish(adapter=True)
    round_.say("accept", "ann")
    round_.tell(*next((event, entry) for event, entry in round_.taken if event["kind"] == "witness"))
    round_.something_is_replayed(place=5, now=True)
    stale, cosigned = next((event, entry) for event, entry in round_.taken if event["kind"] == "witness")
    round_.tell(stale, cosigned.model_copy(update={"time": play.now}))
    round_.witness(["ann"])
    round_.witness(OWNERS)
    round_.witness(OWNERS)


def walk_without_players(round_: AgainstReference) -> None:
    """Nobody reveals: the round is aborted and refunded."""
    round_.play.now += 301
    round_.forfeit("ann")
    round_.close(OWNERS)
    round_.witness(OWNERS)
    for owner in OWNERS:
        round_.forfeit(owner)
    round_.evaluate(["ann"])
    round_.abort("players", 0)
    for _ in OWNERS:
        round_.pay()
    round_.pay(more=1)
    round_.pay()
    round_.say("ask", "ann", pairs=(0,))
    round_.finish(adapter=False)


def walk_without_witnesses(round_: AgainstReference) -> None:
    """No quorum cosigns the close: the round is aborted, and its end asks for no cosignatures."""
    round_.close(OWNERS)
    round_.play.now += 51
    round_.witness(OWNERS)
    round_.abort("witnesses", 2)
    round_.abort("witnesses", 1)
    for _ in range(4):
        round_.pay()
    round_.finish(adapter=False)
    round_.witness(OWNERS)


def walk_with_miscounted_prompts(round_: AgainstReference) -> None:
    """The evidence counts one prompt as two, which the opened pairs show."""
    round_.close(OWNERS)
    round_.witness(OWNERS)
    for owner in OWNERS:
        round_.say("reveal", owner)
    for owner in OWNERS:
        round_.judge(owner)
    round_.evaluate(OWNERS, clusters=(0, 1, 1, 2))
    round_.value(OWNERS)
    for _ in OWNERS:
        round_.pay()
    round_.say("ask", "ann", pairs=(0, 1))
    round_.show(0)
    round_.show(1)


def test_both_name_every_clause_of_one_round_that_the_documents_name(machine: type[AgainstReference]) -> None:
    first = machine()
    first.begin()
    walk_to_the_verdicts(first)
    walk_to_the_end(first)
    walk_without_players(all_commit(machine()))
    walk_without_witnesses(all_commit(machine()))
    walk_with_miscounted_prompts(all_commit(machine()))
    table = (Path(__file__).parents[2] / "docs" / "rounds.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w+ §\w+)`", table))
    of_several_rounds = {clause for clause in named if clause.split()[0] in ("rotate", "revoke", "open")}
    missed = named - of_several_rounds - {"reveal §closed"} - machine.met
    assert not missed
    assert {"open §owners", "open §first", "signature", "statement", "commit §clock"} <= machine.met
