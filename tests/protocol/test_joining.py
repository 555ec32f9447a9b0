"""Registrations and invitations say who wrote them, and are refused in one line when they are not right."""

import json
from pathlib import Path

import pytest

from patronage_protocol.envelopes import seal
from patronage_protocol.errors import DataError, FormatError, VerificationError
from patronage_protocol.joining import (
    INVITATION_TYPE,
    REGISTRATION_TYPE,
    Invitation,
    Registration,
    read_envelope,
    write_envelope,
)
from patronage_protocol.keys import PrivateKey

OWNER, OPERATOR = PrivateKey.from_seed(bytes([1] * 32)), PrivateKey.from_seed(bytes([2] * 32))
NODE_KEY = "ecdsa-sha2-nistp384 AAAA"


def registration() -> Registration:
    return Registration(owner="ann", key=OWNER.public.text, node_key=NODE_KEY)


def test_a_registration_comes_back_from_its_file(tmp_path: Path) -> None:
    write_envelope(tmp_path / "r.json", registration().seal(OWNER))
    assert Registration.open(read_envelope(tmp_path / "r.json")) == registration()


def test_nobody_registers_a_key_that_it_does_not_have() -> None:
    with pytest.raises(VerificationError, match="signed by"):
        Registration.open(registration().seal(OPERATOR))


def test_a_registration_of_another_version_says_so_first() -> None:
    payload = json.loads(registration().encode()) | {"protocol": 2, "news": 1}
    envelope = seal(REGISTRATION_TYPE, json.dumps(payload).encode(), OWNER)
    with pytest.raises(FormatError, match="expected protocol version 1, got version 2; install the release"):
        Registration.open(envelope)


def test_an_invitation_is_not_taken_for_a_registration() -> None:
    with pytest.raises(VerificationError, match="check that it is the right file"):
        Registration.open(seal(INVITATION_TYPE, registration().encode(), OWNER))


def test_an_invitation_by_somebody_else_is_refused() -> None:
    with pytest.raises(VerificationError, match="signed by"):
        Invitation.open(seal(INVITATION_TYPE, b'{"protocol":1}', OWNER), OPERATOR.public)


def test_an_invitation_of_another_version_says_so_first() -> None:
    with pytest.raises(FormatError, match="expected protocol version 1, got version 7"):
        Invitation.open(seal(INVITATION_TYPE, b'{"protocol":7}', OPERATOR), OPERATOR.public)


def test_a_file_that_holds_something_else_is_named(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text("hello")
    with pytest.raises(DataError, match=r"r\.json: expected a signed envelope"):
        read_envelope(tmp_path / "r.json")


@pytest.mark.parametrize("node_key", ["ssh-rsa AAAA", "ecdsa-sha2-nistp384 AAAA comment", ""])
def test_a_node_key_of_another_kind_is_refused(node_key: str) -> None:
    with pytest.raises(ValueError, match="node_key"):
        Registration(owner="ann", key=OWNER.public.text, node_key=node_key)
