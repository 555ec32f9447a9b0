"""Keys change between two rounds, by statements of those who hold them, and by nothing else."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from consortium import NEW, ORIGIN, OWNERS, Consortium, Rotated, new_key
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from played import NOW

from patronage_protocol.entries import KeyRevoked, KeyRotated, decode_entry
from patronage_protocol.envelopes import Envelope, seal
from patronage_protocol.errors import FormatError, PatronageError, RemoteProtocolError, VerificationError
from patronage_protocol.key_ring import KeyRing
from patronage_protocol.keys import PrivateKey
from patronage_protocol.ledger.checkpoints import Checkpoint, SignedCheckpoint
from patronage_protocol.ledger.equivocation import EquivocationProof, prove_equivocation
from patronage_protocol.ledger.merkle import leaf_hash
from patronage_protocol.ledger.notes import VerifierKey
from patronage_protocol.ledger.publish import publish
from patronage_protocol.ledger.rotation import ROTATION_TYPE, Rotation, read_change, revoke, rotate
from patronage_protocol.ledger.stored_tree import nodes_of_leaves
from patronage_protocol.manifest import Manifest, Party
from patronage_protocol.rounds import Phase, Round, follow
from patronage_protocol.verify import verify_ledger, verify_receipt
from patronage_protocol.witnessing import witness_policy

Keys = Callable[[str], PrivateKey]


def test_keys_change_between_two_rounds_alone(consortium: Consortium) -> None:
    play = consortium.begin()
    play._open()
    with pytest.raises(RemoteProtocolError, match="rotate §phase"):
        consortium.rotate("ash", NEW)
    with pytest.raises(RemoteProtocolError, match="revoke §phase"):
        consortium.revoke("ash")
    consortium.plays.pop()
    consortium.round()
    with pytest.raises(RemoteProtocolError, match="rotate §witnessed"):
        consortium.rotate("ash", NEW)
    consortium.ended().rotate("ash", NEW)
    assert consortium.state.keys.current("ash") == NEW.public


HOSTILE: dict[str, tuple[str, Callable[[Consortium], tuple[str, Envelope]]]] = {
    "a stranger": ("rotate §party", lambda c: ("mallory", c.rotation("mallory", NEW))),
    "signed by the new key alone": (
        "rotate §signatures",
        lambda c: (
            "ash",
            seal(ROTATION_TYPE, c.rotation("ash", NEW).unverified_payload, NEW).countersign(NEW),
        ),
    ),
    "signed by the old key alone": (
        "rotate §signatures",
        lambda c: ("ash", seal(ROTATION_TYPE, c.rotation("ash", NEW).unverified_payload, c.key("ash"))),
    ),
    "the operator's for another entry": (
        "rotate §place",
        lambda c: ("operator", c.rotation("operator", NEW, size=c.size - 1)),
    ),
    "an owner's from the future": (
        "rotate §place",
        lambda c: ("ash", c.rotation("ash", NEW, size=c.size + 1)),
    ),
    "of another ledger": (
        "rotate §place",
        lambda c: ("ash", c.rotation("ash", NEW, origin="operator/other")),
    ),
    "for another party": ("rotate §place", lambda c: ("ash", c.rotation("quince", NEW))),
    "by somebody else's key": ("rotate §key", lambda c: ("ash", c.rotation("ash", NEW, old=c.key("quince")))),
    "to its own key": ("rotate §fresh", lambda c: ("ash", c.rotation("ash", c.key("ash")))),
    "to the key of another": ("rotate §fresh", lambda c: ("ash", c.rotation("ash", c.key("quince")))),
    "to the operator's key": ("rotate §fresh", lambda c: ("ash", c.rotation("ash", c.key("operator")))),
    "a revocation": (
        "rotate §statement",
        lambda c: ("ash", revoke(ORIGIN, "ash", c.size, c.key("ash"), "stolen")),
    ),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_change_that_is_not_the_holders_word_is_refused(consortium: Consortium, what: str) -> None:
    consortium.round().ended()
    clause, forge = HOSTILE[what]
    before = consortium.play.rounds
    with pytest.raises(RemoteProtocolError, match=clause):
        consortium.take(KeyRotated, *forge(consortium))
    assert consortium.play.rounds is before


def test_a_rotation_in_an_entry_that_revokes_is_refused(consortium: Consortium) -> None:
    consortium.round().ended()
    with pytest.raises(RemoteProtocolError, match="revoke §statement"):
        consortium.take(KeyRevoked, "ash", consortium.rotation("ash", NEW))


def test_a_key_that_was_given_up_is_never_anybodys_again(consortium: Consortium) -> None:
    consortium.round().ended()
    old, first = consortium.key("ash"), consortium.rotation("ash", NEW)
    consortium.take(KeyRotated, "ash", first)
    with pytest.raises(RemoteProtocolError, match="rotate §key"):
        consortium.take(KeyRotated, "ash", first)
    consortium.keys["ash"] = NEW
    with pytest.raises(RemoteProtocolError, match="rotate §fresh"):
        consortium.rotate("ash", old)
    with pytest.raises(RemoteProtocolError, match="rotate §fresh"):
        consortium.rotate("quince", old)
    low = Rotation(
        schema_version=1,
        origin=ORIGIN,
        party="ash",
        size=0,
        old=NEW.public.text,
        new="A" * 43 + "=",
    ).encode()
    with pytest.raises(FormatError, match="prime order"):
        consortium.take(KeyRotated, "ash", seal(ROTATION_TYPE, low, NEW).countersign(NEW))


def test_the_next_round_names_the_keys_that_count(consortium: Consortium) -> None:
    old = consortium.round().ended().key("ash")
    consortium.rotate("ash", NEW).rotate("operator", new_key("operator 2"))
    stranger = Party(name="cedar", key=old.public.text)
    wrong: dict[str, Any] = {
        "the old key": {"owners": (Party(name="ash", key=old.public.text), consortium.party("quince"))},
        "a key out of nowhere": {
            "owners": (consortium.party("ash"), Party(name="quince", key=new_key("x").public.text))
        },
        "a key that was given up": {"owners": (*map(consortium.party, OWNERS), stranger)},
        "another operator": {"operator": Party(name="operators", key=consortium.key("operator").public.text)},
    }
    for changes in wrong.values():
        with pytest.raises(RemoteProtocolError, match="open §keys"):
            Consortium.begin(consortium, **changes)._open()
        consortium.plays.pop()
    play = consortium.begin()
    play.keys = consortium.first
    with pytest.raises(VerificationError):
        play._open()
    consortium.plays.pop()
    consortium.begin()._open()
    assert consortium.state.phase is Phase.OPEN


def test_nothing_that_the_old_key_signs_counts_after_the_change(consortium: Consortium) -> None:
    consortium.round().ended().rotate("ash", NEW)
    play = consortium.begin()
    play._open()
    new, play.keys = play.keys, consortium.first
    with pytest.raises(RemoteProtocolError, match="accept §key"):
        play._gather()
    play.keys = new
    play._gather()
    old_head = consortium.heads(play.state, consortium.first)
    play.cosigned_head = lambda *_: old_head
    with pytest.raises(RemoteProtocolError, match="witness §quorum"):
        play._witness()
    play.cosigned_head = consortium.heads
    play._witness()
    assert play.state.phase is Phase.REVEALING


def test_a_revoked_owner_comes_back_with_a_key_that_was_never_used(consortium: Consortium) -> None:
    consortium.round().ended().revoke("ash")
    with pytest.raises(RemoteProtocolError, match="rotate §key"):
        consortium.rotate("ash", NEW)
    consortium.keys.clear()
    with pytest.raises(RemoteProtocolError, match="open §keys"):
        consortium.begin()._open()
    consortium.plays.pop()
    consortium.keys["ash"] = NEW
    consortium.round()
    assert consortium.state.phase is Phase.FINAL
    assert consortium.state.keys.retired(consortium.first("ash").public.keyid)


@pytest.mark.parametrize("name", ["mallory", "zoe"])
def test_a_ledger_has_one_operator(consortium: Consortium, name: str) -> None:
    consortium.round().ended()
    stranger = Party(name=name, key=NEW.public.text)
    play = consortium.begin(operator=stranger)
    play.keys = lambda party: (
        NEW if party == "operator" else consortium.key(party)
    )  # whose name Play signs under
    with pytest.raises(
        RemoteProtocolError, match=f"open §keys: expected the operator operator .* got {name}"
    ):
        play._open()


def test_an_operator_that_revoked_its_key_does_not_come_back_with_another(consortium: Consortium) -> None:
    consortium.round().ended().revoke("operator")
    consortium.keys["operator"] = NEW
    with pytest.raises(RemoteProtocolError, match="got one whose key was revoked"):
        consortium.begin()._open()


def test_a_key_speaks_from_the_entry_that_names_it(
    manifest_of: Callable[..., Manifest], key_of: Keys
) -> None:
    """The operator's from the empty ledger on, an owner's from the first head with its `open` on."""
    ring = KeyRing().admit(manifest_of("ash", "quince"), 0).admit(manifest_of("ash", "cedar", round=2), 40)
    assert ring.log.key_at(0) == key_of("operator").public
    for owner, first in (("ash", 1), ("quince", 1), ("cedar", 41)):
        speaks = [ring.histories[owner].key_at(size) for size in (first - 1, first, 99)]
        assert speaks == [None, key_of(owner).public, key_of(owner).public]


def test_nothing_follows_the_operators_revocation(consortium: Consortium, tmp_path: Path) -> None:
    consortium.round().ended().revoke("operator")
    for step in (
        lambda: consortium.rotate("ash", NEW),
        lambda: consortium.rotate("operator", NEW),
        lambda: consortium.begin()._open(),
    ):
        with pytest.raises(RemoteProtocolError, match="§key"):
            step()
    consortium.plays.pop()
    consortium.keys.clear()
    with consortium.ledger(tmp_path / "ledger.sqlite") as ledger:
        publish(ledger, tmp_path / "out")
    lines = [check.what for check in verify_ledger(tmp_path / "out").checks if check.phase == "keys"]
    assert lines == [f"operator's key revoked at entry {consortium.size - 1}, signed by itself"]


def test_a_ledger_of_changed_keys_verifies_and_says_what_changed(rotated: Rotated) -> None:
    numbers = [
        number for number, entry in enumerate(rotated.consortium.entries()) if isinstance(entry, KeyRotated)
    ]
    lines = [check.what for check in rotated.verdict.checks if check.phase == "keys"]
    assert lines == [
        f"operator's key changed at entry {numbers[0]}, signed by the old key and the new one",
        f"ash's key changed at entry {numbers[1]}, signed by the old key and the new one",
    ]
    assert rotated.verdict.key.material == new_key("operator 2").public.raw


def test_trust_in_somebody_else_is_led_nowhere(rotated: Rotated) -> None:
    for key in (VerifierKey.ed25519(ORIGIN, NEW.public), VerifierKey.ed25519("x", new_key("x").public)):
        with pytest.raises(VerificationError, match="a log of the policy"):
            verify_ledger(rotated.folder, trust=key)


def test_receipts_of_both_rounds_hold_alone_and_beside_the_ledger(rotated: Rotated) -> None:
    renewed = witness_policy(rotated.consortium.state.manifest)
    verify_receipt(rotated.first_receipt, trust=rotated.first_policy)
    verify_receipt(rotated.last_receipt, trust=renewed)
    for receipt in (rotated.first_receipt, rotated.last_receipt):
        for policy in (None, rotated.first_policy, renewed):
            assert verify_receipt(receipt, trust=policy, verdict=rotated.verdict).witnesses
    for receipt, policy in ((rotated.first_receipt, renewed), (rotated.last_receipt, rotated.first_policy)):
        with pytest.raises(VerificationError, match="a log of the policy"):
            verify_receipt(receipt, trust=policy)


def test_a_fork_across_a_rotation_is_proven_with_the_rotation_in_the_file(rotated: Rotated) -> None:
    first = rotated.consortium.first("operator")
    read = rotated.verdict.ledger
    forked = Checkpoint(ORIGIN, 5, b"\x07" * 32).sign(first)
    log = VerifierKey.ed25519(ORIGIN, first.public)
    statements = rotated.verdict.rounds[-1].keys.log.statements
    node = nodes_of_leaves([leaf_hash(entry) for entry in read.entries])
    proof = prove_equivocation(forked, read.signed, log, node=node, rotations=statements)
    again = EquivocationProof.decode(proof.encode())
    assert [signed.checkpoint.size for signed in again.verify(log)] == [5, len(read.entries)]
    with pytest.raises(VerificationError):
        EquivocationProof.of(forked, read.signed, ()).verify(log)
    late = Checkpoint(ORIGIN, len(read.entries), b"\x07" * 32).sign(first)
    with pytest.raises(VerificationError):  # by a key that was given up: no word of the log
        prove_equivocation(late, read.signed, log, rotations=statements)


def test_a_head_signed_with_the_old_key_after_the_change_is_refused(
    rotated: Rotated, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = rotated.verdict.ledger
    old = rotated.consortium.first("operator")
    signed = read.signed.checkpoint.sign(old)
    signed = SignedCheckpoint(
        signed.checkpoint, signed.note.with_signatures(*read.signed.note.signatures[1:])
    )
    forged = replace(read, signed=signed)
    monkeypatch.setattr("patronage_protocol.verify.ledger.read_published", lambda _: forged)
    for trust in (None, VerifierKey.ed25519(ORIGIN, old.public)):
        with pytest.raises(VerificationError):
            verify_ledger(rotated.folder, trust=trust)


class KeysInAnyOrder(RuleBasedStateMachine):
    """Rotations and revocations at random, against dictionaries."""

    consortium: Callable[[], Consortium]
    parties = st.sampled_from(["operator", *OWNERS, "mallory"])
    keys = st.integers(0, 5).map(lambda number: new_key(f"key {number}"))

    def __init__(self) -> None:
        super().__init__()
        base = type(self).consortium()
        self.ring: KeyRing = base.state.keys
        self.size = base.size
        self.holds: dict[str, PrivateKey | None] = {name: base.key(name) for name in ("operator", *OWNERS)}
        self.used = {key.public.text for key in self.holds.values() if key}
        self.signer: dict[int, str] = {}

    def attempt(self, party: str, entry: KeyRotated | KeyRevoked, *, allowed: bool) -> bool:
        try:
            self.ring = self.ring.after(entry, self.size)
        except PatronageError:
            assert not allowed, "what the rules allow was refused"
            return False
        assert allowed, "what the rules forbid was taken"
        self.size += 1
        return True

    def may(self, party: str, signer: PrivateKey) -> bool:
        alive = self.holds["operator"] is not None
        return alive and self.holds.get(party) is not None and self.holds[party] == signer

    @rule(party=parties, old=st.none() | keys, new=keys, late=st.integers(0, 1), signed=st.booleans())
    def somebody_rotates(
        self, party: str, old: PrivateKey | None, new: PrivateKey, late: int, signed: bool
    ) -> None:
        key = old or self.holds.get(party) or NEW
        size = self.size - late
        statement = rotate(ORIGIN, party, size, key, new)
        if not signed:
            statement = statement.model_copy(update={"signatures": statement.signatures[:1]})
        same = self.holds.get(party)
        allowed = (
            signed
            and same is not None
            and key.public == same.public
            and self.may(party, same)
            and new.public.text not in self.used
            and (party != "operator" or not late)
        )
        if self.attempt(party, KeyRotated(time=NOW, party=party, statement=statement), allowed=allowed):
            self.holds[party] = new
            self.used.add(new.public.text)

    @rule(party=st.sampled_from([*OWNERS, "mallory"]), stolen=st.booleans())
    def somebody_revokes(self, party: str, stolen: bool) -> None:
        held = self.holds.get(party)
        key = held if held is not None and not stolen else NEW
        statement = revoke(ORIGIN, party, self.size, key, "lost")
        allowed = held is not None and not stolen
        if self.attempt(party, KeyRevoked(time=NOW, party=party, statement=statement), allowed=allowed):
            self.holds[party] = None

    @invariant()
    def everybody_has_the_key_that_it_said(self) -> None:
        for party, key in self.holds.items():
            assert self.ring.current(party) == (key.public if key else None)
        operator = self.holds["operator"]
        assert operator is not None
        self.signer[self.size] = operator.public.text

    @invariant()
    def every_head_has_the_key_of_its_time(self) -> None:
        for size, text in self.signer.items():
            then = self.ring.log.key_at(size)
            assert then is not None
            assert then.text == text

    @invariant()
    def no_key_that_was_given_up_counts(self) -> None:
        held = {key.public.text for key in self.holds.values() if key}
        for history in self.ring.histories.values():
            assert not {key.text for key in history.retired} & held
            assert all(read_change(one).origin == ORIGIN for one in history.statements)


def test_no_order_of_changes_gives_anybody_a_key_that_it_did_not_choose(consortium: Consortium) -> None:
    consortium.round().ended()

    class Machine(KeysInAnyOrder):
        pass

    Machine.consortium = staticmethod(lambda: consortium)
    run_state_machine_as_test(Machine, settings=settings(max_examples=40, stateful_step_count=20))


def test_entries_of_keys_are_read_back_as_they_were_written(consortium: Consortium) -> None:
    consortium.round().ended().rotate("ash", NEW).revoke("quince")
    blobs: Mapping[str, bytes] = consortium.play.blobs
    rounds: tuple[Round, ...] = ()
    for entry in consortium.entries():
        rounds = follow(rounds, decode_entry(entry.encode()), blobs.__getitem__)
    assert rounds == consortium.play.rounds
