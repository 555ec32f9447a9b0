"""Who said what: only a statement of this round, signed by the owner's key, counts; all else is logged."""

import logging
from collections.abc import Callable, Mapping

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from patronage_protocol.envelopes import Envelope
from patronage_protocol.keys import PrivateKey
from patronage_protocol.manifest import Manifest
from patronage_protocol.messages import (
    Acceptance,
    Commitment,
    Refusal,
    Statement,
    TrainRequest,
    read_statement,
    sign_statement,
)
from patronage_protocol.wire import RECORD, Action, Field
from patronage_server.correspondence import Correspondence
from patronage_server.nodes import Nodes
from patronage_simulations.grid import LocalGrid

KeyOf = Callable[[str], PrivateKey]
Say = Callable[..., Envelope]

DEADLINE = 2_000


class Hand:
    """A clock that is moved by sleeping."""

    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> int:
        return int(self.time)

    def sleep(self, seconds: float) -> None:
        self.time += seconds


@pytest.fixture
def manifest(manifest_of: Callable[..., Manifest]) -> Manifest:
    return manifest_of("ann", "bob")


@pytest.fixture
def say(manifest: Manifest, key_of: KeyOf) -> Say:
    def sign(kind: type[Statement], author: str, *, key: str = "", **fields: object) -> Envelope:
        header = {
            "consortium": manifest.consortium,
            "round": manifest.round,
            "manifest": manifest.digest,
            "author": author,
        }
        return sign_statement(kind.model_validate({**header, **fields}), key_of(key or author))

    return sign


def correspondence(
    manifest: Manifest, key: PrivateKey, said: Mapping[int, bytes], heard: list[Message] | None = None
) -> Correspondence:
    """A conversation with nodes that answer every offer with the bytes in `said`."""
    app = ClientApp()

    def answer(message: Message, context: Context) -> Message:
        if heard is not None:
            heard.append(message)
        fields = ConfigRecord({Field.STATEMENT: said[context.node_id]})
        return Message(RecordDict({RECORD: fields}), reply_to=message)

    app.query(Action.OFFER)(answer)
    app.train(Action.TRAIN)(answer)
    contexts = {node: Context(1, node, {}, RecordDict(), {}) for node in said}
    return Correspondence(manifest, key, Nodes(LocalGrid(app, contexts), Hand()))


def test_an_owner_is_where_its_signature_says(manifest: Manifest, key_of: KeyOf, say: Say) -> None:
    said = {7: say(Acceptance, "bob").encode(), 8: say(Refusal, "ann", reason="too little").encode()}
    talk = correspondence(manifest, key_of("operator"), said)
    assert [owner for owner, _ in talk.offer(DEADLINE)] == ["bob", "ann"]
    assert talk.problems == {}


@pytest.mark.parametrize(
    ("claim", "problem"),
    [
        ({"author": "ann", "key": "mallory"}, "expected an envelope signed by"),
        ({"author": "ann", "round": 2}, "expected a statement with round 1, got 2"),
        ({"author": "ann", "manifest": "0" * 64}, "expected a statement with manifest"),
        ({"author": "ann", "consortium": "other"}, "expected a statement with consortium orchard"),
        ({"author": "mallory"}, "expected an owner of the manifest, got mallory"),
    ],
    ids=["another's key", "an earlier round", "other terms", "another consortium", "a stranger"],
)
def test_what_is_not_an_owners_word_in_this_round_is_refused_and_logged(
    manifest: Manifest,
    key_of: KeyOf,
    say: Say,
    caplog: pytest.LogCaptureFixture,
    *,
    claim: dict[str, object],
    problem: str,
) -> None:
    said = {7: say(Acceptance, **claim).encode()}
    talk = correspondence(manifest, key_of("operator"), said)
    with caplog.at_level(logging.WARNING, logger="patronage.operator"):
        assert list(talk.offer(DEADLINE)) == []
    assert problem in talk.problems["node 7"]
    assert f"node 7: {talk.problems['node 7']}" in caplog.text


def test_a_statement_of_another_phase_is_refused(manifest: Manifest, key_of: KeyOf, say: Say) -> None:
    said = {7: say(Commitment, "ann", commitment="0" * 64).encode()}
    talk = correspondence(manifest, key_of("operator"), said)
    assert list(talk.offer(DEADLINE)) == []
    assert "node 7" in talk.problems


@pytest.mark.parametrize("junk", [b"", b"{}", b"\xff", b'{"payload":"","payloadType":"","signatures":[]}'])
def test_junk_is_refused(manifest: Manifest, key_of: KeyOf, junk: bytes) -> None:
    talk = correspondence(manifest, key_of("operator"), {7: junk})
    assert list(talk.offer(DEADLINE)) == []
    assert "node 7" in talk.problems


def test_a_restarted_operator_finds_its_owners_before_it_asks(
    manifest: Manifest, key_of: KeyOf, say: Say
) -> None:
    heard: list[Message] = []
    said = {7: say(Acceptance, "bob").encode(), 8: say(Acceptance, "ann").encode()}
    talk = correspondence(manifest, key_of("operator"), said, heard)
    answers = list(talk.ask(Action.TRAIN, TrainRequest, ["ann"], DEADLINE))
    assert [(owner, answer.node) for owner, answer in answers] == [("ann", 8)]
    asked = [message for message in heard if message.metadata.message_type == "train.train"]
    assert [message.metadata.dst_node_id for message in asked] == [8]
    envelope = Envelope.decode(bytes(asked[0].content.config_records[RECORD][Field.STATEMENT]))
    key = key_of("operator").public
    request = read_statement(envelope, TrainRequest, manifest=manifest, author="operator", key=key)
    assert request.owner == "ann"


def test_an_owner_that_is_not_there_holds_nobody_up(manifest: Manifest, key_of: KeyOf, say: Say) -> None:
    talk = correspondence(manifest, key_of("operator"), {7: say(Acceptance, "bob").encode()})
    answers = list(talk.ask(Action.TRAIN, TrainRequest, ["ann", "bob"], DEADLINE))
    assert [owner for owner, _ in answers] == ["bob"]
