"""Keys follow one another only by statements that both sides signed, at the place where they stand."""

from pathlib import Path

import pytest

from patronage_protocol.envelopes import Envelope, seal
from patronage_protocol.errors import FormatError, RemoteProtocolError, UsageError, VerificationError
from patronage_protocol.keys import PrivateKey
from patronage_protocol.ledger.fsck import fsck
from patronage_protocol.ledger.publish import publish
from patronage_protocol.ledger.published import read_published
from patronage_protocol.ledger.rotation import ROTATION_TYPE, KeyHistory, Rotation, revoke, rotate
from patronage_protocol.ledger.store import Ledger

ONE, TWO, THREE = (PrivateKey.from_seed(bytes([0x90 + i]) * 32) for i in range(3))
ORIGIN, LOG = "log.example", "log"
START = KeyHistory.begin(ORIGIN, LOG, ONE.public)


def test_a_rotation_binds_every_later_head() -> None:
    history = START.follow([(5, rotate(ORIGIN, LOG, 5, ONE, TWO)), (9, rotate(ORIGIN, LOG, 9, TWO, THREE))])
    keys = {size: history.verifier_at(size).material for size in (0, 5, 6, 9, 10, 99)}
    one, two, three = ONE.public.raw, TWO.public.raw, THREE.public.raw
    assert keys == {0: one, 5: one, 6: two, 9: two, 10: three, 99: three}


@pytest.mark.parametrize(
    ("statement", "clause"),
    [
        (rotate(ORIGIN, LOG, 6, ONE, TWO), "rotate §place"),
        (rotate("other.example", LOG, 5, ONE, TWO), "rotate §place"),
        (rotate(ORIGIN, "other", 5, ONE, TWO), "rotate §place"),
        (rotate(ORIGIN, LOG, 5, TWO, ONE), "rotate §key"),
        (rotate(ORIGIN, LOG, 5, ONE, ONE), "rotate §fresh"),
        (rotate(ORIGIN, LOG, 5, TWO, THREE), "rotate §key"),
        (revoke(ORIGIN, LOG, 6, ONE, "stolen"), "revoke §place"),
        (revoke(ORIGIN, LOG, 5, TWO, "stolen"), "revoke §key"),
        (revoke("other.example", LOG, 5, ONE, "stolen"), "revoke §place"),
    ],
)
def test_a_statement_that_does_not_fit_is_refused(statement: Envelope, clause: str) -> None:
    with pytest.raises(RemoteProtocolError, match=clause):
        START.follow([(5, statement)])


def test_a_rotation_needs_both_signatures() -> None:
    body = Rotation(
        schema_version=1, origin=ORIGIN, party=LOG, size=5, old=ONE.public.text, new=TWO.public.text
    ).encode()
    for envelope in (
        seal(ROTATION_TYPE, body, ONE),
        seal(ROTATION_TYPE, body, TWO),
        seal(ROTATION_TYPE, body, TWO).countersign(ONE),
        seal(ROTATION_TYPE, body, ONE).countersign(THREE),
        seal("another type", body, ONE).countersign(TWO),
    ):
        with pytest.raises(RemoteProtocolError, match="rotate §signatures"):
            START.follow([(5, envelope)])
    with pytest.raises(FormatError):
        START.follow([(5, seal(ROTATION_TYPE, b"{}", ONE).countersign(TWO))])


def test_the_head_that_ends_with_its_revocation_is_the_last_by_a_key() -> None:
    history = START.follow([(8, revoke(ORIGIN, LOG, 6, ONE, "stolen laptop"))])
    assert history.verifier_at(9).material == ONE.public.raw
    with pytest.raises(VerificationError, match="revoked"):
        history.verifier_at(10)
    with pytest.raises(RemoteProtocolError, match="rotate §key"):
        history.follow([(9, rotate(ORIGIN, LOG, 9, ONE, TWO))])


def test_trust_follows_rotations_and_never_jumps_over_a_revocation() -> None:
    rotated = START.follow([(5, rotate(ORIGIN, LOG, 5, ONE, TWO)), (8, revoke(ORIGIN, LOG, 8, TWO, "lost"))])
    back = rotated.come_back(THREE.public, since=10)
    assert back.successor(ONE.public.raw, 6) == back.successor(TWO.public.raw, 9) == TWO.public
    assert back.successor(TWO.public.raw, 4) == ONE.public
    assert back.successor(ONE.public.raw, 10) is None
    assert back.successor(THREE.public.raw, 10) == THREE.public
    assert (rotated.current, back.current) == (None, THREE.public)
    for stranger in (bytes(32), b"\xff" * 32):
        assert back.successor(stranger, 6) is None


def test_who_came_back_twice_is_not_followed_from_the_second_key_to_the_third() -> None:
    once = START.follow([(5, revoke(ORIGIN, LOG, 5, ONE, "lost"))]).come_back(TWO.public, since=8)
    twice = once.follow([(9, revoke(ORIGIN, LOG, 9, TWO, "lost"))]).come_back(THREE.public, since=12)
    assert twice.successor(TWO.public.raw, 9) == TWO.public
    assert twice.successor(THREE.public.raw, 12) == THREE.public
    assert {twice.successor(key.public.raw, 12) for key in (ONE, TWO)} == {None}


def test_a_new_key_of_low_order_is_refused() -> None:
    body = Rotation(
        schema_version=1, origin=ORIGIN, party=LOG, size=5, old=ONE.public.text, new="A" * 43 + "="
    ).encode()
    with pytest.raises(FormatError, match="prime order"):
        START.follow([(5, seal(ROTATION_TYPE, body, ONE).countersign(TWO))])


def test_a_ledger_changes_its_key_with_the_statement(tmp_path: Path) -> None:
    path, guard, out = tmp_path / "ledger.sqlite", tmp_path / "guard", tmp_path / "out"
    with Ledger.create(path, ORIGIN, ONE, guard=guard) as ledger:
        ledger.append([b"a", b"b"])
        publish(ledger, out)
        before = ledger.checkpoint
        statement = rotate(ORIGIN, LOG, ledger.size, ONE, TWO)
        ledger.rotate(TWO, statement.encode())
        after = ledger.checkpoint
        with pytest.raises(UsageError, match="never signed here"):
            ledger.rotate(ONE, b"back")
    with pytest.raises(UsageError, match="rotated"):
        Ledger.open(path, ONE, guard=guard)
    with Ledger.open(path, TWO, guard=guard) as ledger:
        ledger.append([b"c"])
        publish(ledger, out)
        last = ledger.checkpoint
    assert fsck(path).problems == ()
    read = read_published(out)
    history = START.follow([(2, Envelope.decode(read.entries[2]))])
    for signed in (before, after, last, read.signed):
        history.verify(signed)
    with pytest.raises(VerificationError):
        START.verify(last)
