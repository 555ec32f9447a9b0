"""DSSE envelopes: one encoding, one type, exactly the signers that were asked for."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patronage_protocol.envelopes import Envelope, pae, seal, sign_detached, verify_detached
from patronage_protocol.errors import FormatError, VerificationError
from patronage_protocol.keys import PrivateKey

TYPE = "application/vnd.patronage.test.v1+json"
ALICE, BOB = PrivateKey.from_seed(b"\x01" * 32), PrivateKey.from_seed(b"\x02" * 32)


def test_pae_is_the_one_of_the_specification() -> None:
    # https://github.com/secure-systems-lab/dsse/blob/v1.0.2/protocol.md, test vectors
    assert pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )
    assert pae("", b"") == b"DSSEv1 0  0 "
    assert pae("\u00e9", b"x") == b"DSSEv1 2 \xc3\xa9 1 x"


@given(st.binary(max_size=200))
def test_what_was_sealed_opens(payload: bytes) -> None:
    envelope = seal(TYPE, payload, ALICE)
    assert Envelope.decode(envelope.encode()) == envelope
    assert envelope.open(TYPE, ALICE.public) == payload


def test_an_envelope_of_another_type_or_signer_is_refused() -> None:
    envelope = seal(TYPE, b"x", ALICE)
    with pytest.raises(VerificationError, match="of type"):
        envelope.open(TYPE + "2", ALICE.public)
    for keys in [(), (BOB.public,), (ALICE.public, BOB.public), (ALICE.public, ALICE.public)]:
        with pytest.raises(VerificationError, match="signed by"):
            envelope.open(TYPE, *keys)


def test_a_signature_that_nobody_asked_for_is_refused() -> None:
    both = seal(TYPE, b"x", ALICE).countersign(BOB)
    assert both.open(TYPE, ALICE.public, BOB.public) == b"x"
    for keys in [(ALICE.public,), (BOB.public,), (BOB.public, ALICE.public)]:
        with pytest.raises(VerificationError, match="signed by"):
            both.open(TYPE, *keys)


def test_a_signature_of_one_type_is_none_of_another() -> None:
    signature = sign_detached("a", b"b", ALICE)
    verify_detached("a", b"b", signature, ALICE.public)
    for kind, body in [("ab", b""), ("", b"ab"), ("a", b"c")]:
        with pytest.raises(VerificationError):
            verify_detached(kind, body, signature, ALICE.public)


def test_no_byte_of_an_envelope_can_change() -> None:
    encoded = seal(TYPE, b'{"amount":1}', ALICE).encode()
    for place in range(len(encoded)):
        for flip in (0x01, 0x20, 0x80):
            changed = bytearray(encoded)
            changed[place] ^= flip
            with pytest.raises((FormatError, VerificationError)):
                Envelope.decode(bytes(changed)).open(TYPE, ALICE.public)


@pytest.mark.parametrize("payload", ["eB==", "eA", "eA==\n", "e A==", "e_-="])
def test_a_payload_in_other_base64_is_refused(payload: str) -> None:
    document = json.loads(seal(TYPE, b"x", ALICE).encode())
    assert base64.b64decode(document["payload"]) == b"x"
    document["payload"] = payload
    with pytest.raises(FormatError):
        Envelope.decode(json.dumps(document, separators=(",", ":"), sort_keys=True).encode())
