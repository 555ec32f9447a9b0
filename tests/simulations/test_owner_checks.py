"""What an owner's side makes of an operator's words: only what belongs to its round is answered."""

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from patronage_client.home import OwnerHome
from patronage_client.owner import Owner
from patronage_protocol.envelopes import Envelope, sign_detached
from patronage_protocol.errors import (
    FormatError,
    PatronageError,
    RemoteProtocolError,
    UnavailableError,
    VerificationError,
)
from patronage_protocol.keys import PrivateKey
from patronage_protocol.manifest import MANIFEST_TYPE, Manifest
from patronage_protocol.messages import (
    Acceptance,
    Commitment,
    ReceiptRequest,
    Refusal,
    RevealRequest,
    Statement,
    TrainRequest,
    read_statement,
    sign_statement,
)
from patronage_server.home import OperatorHome
from patronage_simulations.consortium import Consortium

Trained = Callable[..., Consortium]


@dataclass
class Meeting:
    """The operator and one owner, whose adapter is there already."""

    owner: Owner
    operator: PrivateKey
    manifest: Manifest

    def offer(self, manifest: Manifest | None = None) -> Envelope:
        data = (manifest or self.manifest).encode()
        return self.owner.offer(data, sign_detached(MANIFEST_TYPE, data, self.operator))

    def request(self, kind: type[Statement], *, key: PrivateKey | None = None, **changes: object) -> Envelope:
        fields = {
            "consortium": self.manifest.consortium,
            "round": self.manifest.round,
            "manifest": self.manifest.digest,
            "author": "operator",
            "owner": "ann",
        }
        return sign_statement(kind.model_validate({**fields, **changes}), key or self.operator)

    def heard(self, envelope: Envelope, kind: type[Statement]) -> Statement:
        key = self.owner.home.key.public
        return read_statement(envelope, kind, manifest=self.manifest, author="ann", key=key)


@pytest.fixture
def meeting(trained: Trained) -> Meeting:
    consortium = trained({"ann": 1, "bob": 2})
    owner = Owner(OwnerHome.load(consortium.owners[0]))
    return Meeting(owner, OperatorHome.load(consortium.operator).key, consortium.manifest)


def test_an_owner_accepts_and_commits(meeting: Meeting) -> None:
    assert isinstance(meeting.heard(meeting.offer(), Acceptance), Acceptance)
    said = meeting.heard(meeting.owner.train(meeting.request(TrainRequest)), Commitment)
    assert isinstance(said, Commitment)


def test_a_request_that_the_operator_did_not_sign_is_not_answered(meeting: Meeting) -> None:
    meeting.offer()
    forged = meeting.request(TrainRequest, key=PrivateKey.generate())
    with pytest.raises(VerificationError, match="expected an envelope signed by"):
        meeting.owner.train(forged)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"owner": "bob"}, "expected a request to ann, got bob"),
        ({"manifest": "0" * 64}, "expected a statement with manifest"),
        ({"author": "mallory"}, "expected a statement with author operator, got mallory"),
    ],
    ids=["for another owner", "under other terms", "by another author"],
)
def test_a_request_for_others_is_not_answered(
    meeting: Meeting, changes: dict[str, object], problem: str
) -> None:
    meeting.offer()
    with pytest.raises(RemoteProtocolError, match=problem):
        meeting.owner.train(meeting.request(TrainRequest, **changes))


def test_a_request_of_a_round_that_was_never_accepted_is_not_answered(meeting: Meeting) -> None:
    meeting.offer()
    with pytest.raises(UnavailableError, match=r"orchard-2/manifest\.json"):
        meeting.owner.train(meeting.request(TrainRequest, round=2))


def test_a_request_replayed_from_an_earlier_round_yields_nothing_new(meeting: Meeting) -> None:
    """The answer names the earlier round, whatever round is under way, and is what it was then."""
    meeting.offer()
    request = meeting.request(TrainRequest)
    first = meeting.owner.train(request)
    later = meeting.manifest.model_copy(update={"round": 2})
    meeting.offer(later)
    again = meeting.owner.train(request)
    assert again == first
    with pytest.raises(RemoteProtocolError, match="a statement with round 2, got 1"):
        read_statement(again, Commitment, manifest=later, author="ann", key=meeting.owner.home.key.public)


def test_a_request_of_another_phase_is_not_answered(meeting: Meeting) -> None:
    meeting.offer()
    with pytest.raises((FormatError, VerificationError)):
        meeting.owner.train(meeting.request(RevealRequest, commitments=(), closed=""))
    with pytest.raises((FormatError, VerificationError)):
        meeting.owner.reveal(meeting.request(ReceiptRequest, receipt=""))


def test_nothing_is_revealed_without_the_receipt_of_the_closed_list(meeting: Meeting) -> None:
    meeting.offer()
    said = meeting.heard(meeting.owner.train(meeting.request(TrainRequest)), Commitment)
    assert isinstance(said, Commitment)
    request = meeting.request(RevealRequest, commitments=(("ann", said.commitment),), closed="none")
    with pytest.raises(FormatError):
        meeting.owner.reveal(request)


def test_terms_that_were_not_accepted_are_declined_in_words(meeting: Meeting) -> None:
    settings = meeting.owner.home.path / "owner.toml"
    settings.write_text(settings.read_text().replace('accept = "any"', 'accept = "asked"'))
    meeting.owner = Owner(OwnerHome.load(meeting.owner.home.path))
    refusal = meeting.heard(meeting.offer(), Refusal)
    assert isinstance(refusal, Refusal)
    assert refusal.reason.startswith(f"expected a manifest that was accepted, got {meeting.manifest.digest}")
    with pytest.raises(PatronageError):
        meeting.owner.train(meeting.request(TrainRequest))


def test_a_full_disk_at_the_owner_is_one_line_and_loses_nothing(
    meeting: Meeting, monkeypatch: pytest.MonkeyPatch
) -> None:
    meeting.offer()
    before = meeting.owner.train(meeting.request(TrainRequest))

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    handed = meeting.request(ReceiptRequest, receipt="a receipt")
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(UnavailableError) as caught:
            meeting.owner.receipt(handed)
        assert "No space left on device; free some room" in str(caught.value)
        assert "\n" not in str(caught.value)
        with pytest.raises(UnavailableError):
            meeting.offer()
    assert meeting.owner.train(meeting.request(TrainRequest)) == before
    assert meeting.owner.receipt(handed).read_text() == "a receipt"
    assert not list(meeting.owner.home.path.rglob("*.part"))
