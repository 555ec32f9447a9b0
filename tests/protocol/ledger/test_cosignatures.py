"""Cosignatures of both kinds: what is signed, and that nothing else passes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from patronage_protocol.errors import FormatError, VerificationError
from patronage_protocol.keys import PrivateKey
from patronage_protocol.ledger import mldsa
from patronage_protocol.ledger.checkpoints import Checkpoint, SignedCheckpoint
from patronage_protocol.ledger.cosignatures import (
    Cosigner,
    Ed25519Cosigner,
    MlDsaCosigner,
    cosignature_time,
    message,
)
from patronage_protocol.ledger.notes import Note, VerifierKey

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "c2sp.json").read_text())
LOG = PrivateKey.from_seed(b"\x21" * 32)
HEAD = Checkpoint("log.example", 7, bytes(range(32)))
COSIGNERS = [
    Ed25519Cosigner("w.example/1", PrivateKey.from_seed(b"\x22" * 32)),
    pytest.param(
        MlDsaCosigner("w.example/2", b"\x23" * 32),
        marks=pytest.mark.skipif(not mldsa.available(), reason="cryptography without ML-DSA-44"),
    ),
]


def cosigned(cosigner: Cosigner, time: int = 1_700_000_000) -> SignedCheckpoint:
    signed = HEAD.sign(LOG)
    return SignedCheckpoint(HEAD, signed.note.with_signatures(cosigner.cosign(HEAD, time)))


@pytest.mark.parametrize("cosigner", COSIGNERS)
def test_a_cosignature_verifies_and_tells_its_time(cosigner: Cosigner) -> None:
    signed = SignedCheckpoint.parse(cosigned(cosigner).encode())
    assert cosignature_time(signed, cosigner.verifier) == 1_700_000_000
    assert VerifierKey.parse(cosigner.verifier.text) == cosigner.verifier
    stranger = Ed25519Cosigner("w.example/9", PrivateKey.generate())
    assert cosignature_time(signed, stranger.verifier) is None


@pytest.mark.parametrize("cosigner", COSIGNERS)
def test_a_changed_cosignature_is_refused(cosigner: Cosigner) -> None:
    signed = cosigned(cosigner)
    log, line = signed.note.signatures
    for place in (0, 7, 8, 40, len(line.signature) - 1):
        changed = bytearray(line.signature)
        changed[place] ^= 1
        note = Note(signed.note.text, (log, replace(line, signature=bytes(changed))))
        with pytest.raises(VerificationError):
            cosignature_time(SignedCheckpoint(HEAD, note), cosigner.verifier)
    for cut in (0, 8, len(line.signature) - 1):
        note = Note(signed.note.text, (log, replace(line, signature=line.signature[:cut] or b"\x00")))
        with pytest.raises(VerificationError):
            cosignature_time(SignedCheckpoint(HEAD, note), cosigner.verifier)


@pytest.mark.parametrize("cosigner", COSIGNERS)
def test_a_cosignature_of_one_head_is_none_of_another(cosigner: Cosigner) -> None:
    line = cosigner.cosign(HEAD, 5)
    for other in (
        replace(HEAD, size=8),
        replace(HEAD, origin="other.example"),
        replace(HEAD, root=bytes(32)),
    ):
        note = other.sign(LOG).note.with_signatures(line)
        with pytest.raises(VerificationError):
            cosignature_time(SignedCheckpoint(other, note), cosigner.verifier)


def test_the_bytes_that_are_signed_are_those_of_the_specification() -> None:
    signed = SignedCheckpoint.parse(VECTORS["checkpoint"].encode())
    key = Ed25519Cosigner("witness.example.com/w1", LOG).verifier
    time = VECTORS["cosignature_time"]
    assert message(key, signed.checkpoint, time) == (
        b"cosignature/v1\ntime 1679315147\nexample.com/behind-the-sofa\n20852163\n"
        b"CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    )
    assert int.from_bytes(signed.note.signatures[1].signature[:8], "big") == time
    assert len(signed.note.signatures[1].signature) == 8 + 64


@pytest.mark.skipif(not mldsa.available(), reason="cryptography without ML-DSA-44")
def test_the_bytes_that_ml_dsa_signs_are_those_of_the_specification() -> None:
    key = MlDsaCosigner("w", b"\x01" * 32).verifier
    assert message(key, HEAD, 258) == (
        b"subtree/v1\n\x00"
        b"\x01w"
        + bytes.fromhex("0000000000000102")
        + b"\x0blog.example"
        + bytes(8)
        + bytes.fromhex("0000000000000007")
        + bytes(range(32))
    )
    assert "01" * 4 not in repr(MlDsaCosigner("w", b"\x01" * 32))


@pytest.mark.parametrize("time", [0, -1, 2**63])
def test_a_time_that_is_none_is_not_signed(time: int) -> None:
    with pytest.raises(FormatError):
        Ed25519Cosigner("w.example", LOG).cosign(HEAD, time)


def test_a_log_key_is_no_cosigner() -> None:
    key = VerifierKey.ed25519("log.example", LOG.public)
    with pytest.raises(FormatError, match="cosigner"):
        message(key, HEAD, 1)


def test_a_cosignature_begins_with_eight_bytes_of_time() -> None:
    cosigner = Ed25519Cosigner("w.example", LOG)
    for time in (1, 2**63 - 1):
        line = cosigner.cosign(HEAD, time)
        assert len(line.signature) == 8 + 64
        assert line.signature[:8] == time.to_bytes(8, "big")
        note = HEAD.sign(LOG).note.with_signatures(line)
        assert cosignature_time(SignedCheckpoint(HEAD, note), cosigner.verifier) == time
