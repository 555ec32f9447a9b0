"""A witness never cosigns a fork, never forgets, and never dates a cosignature back."""

from pathlib import Path

import pytest

from patronage_protocol.errors import (
    FormatError,
    RemoteProtocolError,
    UnavailableError,
    UsageError,
    VerificationError,
)
from patronage_protocol.keys import PrivateKey
from patronage_protocol.ledger import merkle, mldsa
from patronage_protocol.ledger.checkpoints import Checkpoint, SignedCheckpoint
from patronage_protocol.ledger.cosignatures import Cosigner, Ed25519Cosigner, MlDsaCosigner, cosignature_time
from patronage_protocol.ledger.notes import VerifierKey
from patronage_protocol.ledger.store import Ledger
from patronage_protocol.ledger.trust import flat_policy
from patronage_protocol.ledger.witness import (
    AddCheckpoint,
    Seen,
    Witness,
    accept_cosignatures,
    judge,
    request_cosignature,
)

KEY = PrivateKey.from_seed(b"\x71" * 32)
LOG = VerifierKey.ed25519("log.example", KEY.public)
COSIGNER = Ed25519Cosigner("w.example", PrivateKey.from_seed(b"\x72" * 32))


def grown(path: Path, *entries: bytes) -> Ledger:
    ledger = Ledger.create(path, "log.example", KEY)
    ledger.append(entries)
    return ledger


@pytest.mark.parametrize(
    "cosigner",
    [
        COSIGNER,
        pytest.param(
            MlDsaCosigner("w.example", b"\x73" * 32),
            marks=pytest.mark.skipif(not mldsa.available(), reason="cryptography without ML-DSA-44"),
        ),
    ],
)
def test_a_growing_log_is_cosigned(tmp_path: Path, cosigner: Cosigner) -> None:
    with grown(tmp_path / "l", b"a") as ledger, Witness.create(tmp_path / "w", cosigner, [LOG]) as witness:
        for time, batch in enumerate(([], [b"b", b"c"], [], [b"d"] * 300), 100):
            ledger.append(batch)
            last = witness.last("log.example")
            request = request_cosignature(ledger, last.checkpoint.size if last else 0)
            line = witness.cosign(AddCheckpoint.parse(request.encode()), time=time)
            signed = SignedCheckpoint(ledger.checkpoint.checkpoint, request.signed.note.with_signatures(line))
            assert cosignature_time(signed, cosigner.verifier) == time
        assert witness.last("log.example") == Seen(ledger.checkpoint.checkpoint, 103)
        assert witness.last("other.example") is None


def test_a_fork_is_refused_and_leaves_no_trace(tmp_path: Path) -> None:
    with (
        grown(tmp_path / "one", b"a", b"b") as one,
        grown(tmp_path / "other", b"a", b"x", b"c") as other,
        Witness.create(tmp_path / "w", COSIGNER, [LOG]) as witness,
    ):
        witness.cosign(request_cosignature(one, 0), time=1)
        before = witness.last("log.example")
        with pytest.raises(VerificationError):
            witness.cosign(request_cosignature(other, 2), time=2)
        with pytest.raises(RemoteProtocolError, match="size 2"):
            witness.cosign(request_cosignature(other, 0), time=2)
        assert witness.last("log.example") == before
        one.append([b"c"])
        witness.cosign(request_cosignature(one, 2), time=2)
        fork = Checkpoint("log.example", 3, other.root).sign(KEY)
        with pytest.raises(VerificationError):
            witness.cosign(AddCheckpoint(3, (), fork), time=3)


def test_a_witness_remembers_after_a_restart(tmp_path: Path) -> None:
    with grown(tmp_path / "one", b"a", b"b") as one, grown(tmp_path / "other", b"x") as other:
        with Witness.create(tmp_path / "w", COSIGNER, [LOG]) as witness:
            witness.cosign(request_cosignature(one, 0), time=5)
        with Witness.open(tmp_path / "w", COSIGNER, [LOG]) as witness:
            assert witness.last("log.example") == Seen(one.checkpoint.checkpoint, 5)
            with pytest.raises(RemoteProtocolError):
                witness.cosign(request_cosignature(other, 0), time=6)


def test_a_smaller_head_is_refused(tmp_path: Path) -> None:
    with grown(tmp_path / "l", b"a") as ledger, Witness.create(tmp_path / "w", COSIGNER, [LOG]) as witness:
        old = ledger.checkpoint
        ledger.append([b"b"])
        witness.cosign(request_cosignature(ledger, 0), time=1)
        for old_size in (0, 1, 2):
            with pytest.raises((VerificationError, RemoteProtocolError)):
                witness.cosign(AddCheckpoint(old_size, (), old), time=2)
        with pytest.raises(UsageError, match="old backup"):
            request_cosignature(ledger, 3)


def test_a_log_that_is_not_served_is_refused(tmp_path: Path) -> None:
    with Witness.create(tmp_path / "w", COSIGNER, [LOG]) as witness:
        stranger = Checkpoint("log.example", 1, bytes(32)).sign(PrivateKey.generate())
        elsewhere = Checkpoint("other.example", 1, bytes(32)).sign(KEY)
        for signed in (stranger, elsewhere):
            with pytest.raises(VerificationError, match="serves"):
                witness.cosign(AddCheckpoint(0, (), signed), time=1)
        line = Checkpoint("log.example", 2, bytes(32)).sign(KEY).note.signatures[0]
        note = type(stranger.note)(stranger.note.text, (line,))
        with pytest.raises(VerificationError, match="does not verify"):
            witness.cosign(AddCheckpoint(0, (), SignedCheckpoint(stranger.checkpoint, note)), time=1)
        assert witness.last("log.example") is None


def test_a_clock_that_was_set_back_cosigns_nothing(tmp_path: Path) -> None:
    with grown(tmp_path / "l", b"a") as ledger, Witness.create(tmp_path / "w", COSIGNER, [LOG]) as witness:
        witness.cosign(request_cosignature(ledger, 0), time=1000)
        ledger.append([b"b"])
        with pytest.raises(UnavailableError, match="clock"):
            witness.cosign(request_cosignature(ledger, 1), time=999)
        witness.cosign(request_cosignature(ledger, 1), time=1000)
        for time in (0, -5):
            with pytest.raises((UnavailableError, FormatError)):
                witness.cosign(request_cosignature(ledger, 2), time=time)


def test_two_witnesses_cannot_share_one_memory(tmp_path: Path) -> None:
    with (
        Witness.create(tmp_path / "w", COSIGNER, [LOG]),
        pytest.raises(UnavailableError, match="another process"),
    ):
        Witness.open(tmp_path / "w", COSIGNER, [LOG])
    with pytest.raises(UsageError, match="exists"):
        Witness.create(tmp_path / "w", COSIGNER, [LOG])
    with pytest.raises(FormatError, match="kind"):
        Ledger.open(tmp_path / "w", KEY)


def test_the_first_head_needs_no_proof_and_takes_none(tmp_path: Path) -> None:
    with grown(tmp_path / "l", b"a") as ledger:
        request = request_cosignature(ledger, 0)
        judge(None, request, [LOG], 1)
        with pytest.raises(VerificationError):
            judge(None, AddCheckpoint(0, (bytes(32),), request.signed), [LOG], 1)


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"old",
        b"old 01",
        b"old  1",
        b"new 1",
        b"old 1\nAAAA",
        b"old 1" + b"\n" + b"\n".join([b"A" * 43 + b"="] * 64),
        b"old 1\r",
    ],
)
def test_what_is_nearly_a_request_is_refused(head: bytes) -> None:
    checkpoint = Checkpoint("log.example", 1, bytes(32)).sign(KEY).encode()
    AddCheckpoint.parse(b"old 1\n\n" + checkpoint)
    with pytest.raises(FormatError):
        AddCheckpoint.parse(head + b"\n\n" + checkpoint)
    with pytest.raises(FormatError):
        AddCheckpoint.parse(b"old 1\n" + checkpoint)


def test_the_empty_log_is_cosigned(tmp_path: Path) -> None:
    with (
        Ledger.create(tmp_path / "l", "log.example", KEY) as ledger,
        Witness.create(tmp_path / "w", COSIGNER, [LOG]) as witness,
    ):
        witness.cosign(request_cosignature(ledger, 0), time=1)
        assert witness.last("log.example") == Seen(Checkpoint("log.example", 0, merkle.EMPTY_ROOT), 1)


def test_answers_are_checked_stored_and_counted(tmp_path: Path) -> None:
    owners = [
        Ed25519Cosigner(f"w.example/{k}", PrivateKey.from_seed(bytes([0x74 + k]) * 32)) for k in range(4)
    ]
    stranger = Ed25519Cosigner("w.example/9", PrivateKey.generate())
    with grown(tmp_path / "l", b"a") as ledger:
        policy = flat_policy(ledger.verifier, [owner.verifier for owner in owners], faulty=1)
        request = request_cosignature(ledger, 0)
        head = request.signed.checkpoint
        lines = [owner.cosign(head, 5) for owner in owners]
        ledger.append([b"meanwhile"])
        with pytest.raises(VerificationError, match=r"w\.example/9"):
            accept_cosignatures(ledger, request, [lines[0], stranger.cosign(head, 5)], policy)
        other = owners[3].cosign(Checkpoint("log.example", 2, bytes(32)), 5)
        with pytest.raises(VerificationError, match="does not verify"):
            accept_cosignatures(ledger, request, [lines[0], other], policy)
        with pytest.raises(VerificationError, match="quorum"):
            accept_cosignatures(ledger, request, lines[:2], policy)
        signed = accept_cosignatures(ledger, request, lines[:3], policy)
        assert set(policy.check(signed).times) == {"w.example/0", "w.example/1", "w.example/2"}
        assert len(ledger.checkpoint.note.signatures) == 1
