"""Asking nodes: who was asked counts, lost nodes are asked again, late and foreign answers are not taken."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from patronage_protocol.wire import RECORD, Action, Field
from patronage_server.nodes import FIRST_PAUSE, SILENCE, SILENCE_IN_TRAINING, Nodes

LOST = Error(ErrorCode.NODE_UNAVAILABLE, "node unavailable")


@dataclass
class Hand:
    """A clock that is moved by sleeping."""

    time: float = 1000.0

    def now(self) -> int:
        return int(self.time)

    def sleep(self, seconds: float) -> None:
        self.time += seconds


@dataclass
class ScriptedGrid(Grid):
    """Gives each node's scripted answers in turn: bytes, an error, or None for silence."""

    script: dict[int, list[bytes | Error | None]]
    asked: list[tuple[int, int]] = field(default_factory=list)
    clock: Hand = field(default_factory=Hand)
    forge: Callable[[Message], None] = lambda _message: None
    _open: dict[str, Message] = field(default_factory=dict)

    def __post_init__(self) -> None:
        TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, SUPERLINK_NODE_ID

    def set_run(self, run: Run) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Run:
        raise NotImplementedError

    def create_message(self, *_arguments: object, **_options: object) -> Message:
        raise NotImplementedError

    def send_and_receive(self, *_arguments: object, **_options: object) -> Iterable[Message]:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return list(self.script)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            ids.append(f"m{len(self.asked)}")
            message.metadata.__dict__["_message_id"] = ids[-1]
            self._open[ids[-1]] = message
            self.asked.append((message.metadata.dst_node_id, self.clock.now()))
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        for name in list(message_ids):
            message = self._open[name]
            answers = self.script[message.metadata.dst_node_id]
            answer = answers.pop(0) if answers else None
            if answer is None:
                continue
            TaskIdentity.node_id = message.metadata.dst_node_id
            content = answer
            if isinstance(answer, bytes):
                content = RecordDict({RECORD: ConfigRecord({Field.STATEMENT: answer})})
            reply = Message(content, reply_to=message)
            TaskIdentity.node_id = SUPERLINK_NODE_ID
            self.forge(reply)
            yield reply


def ask(grid: ScriptedGrid, *nodes: int, deadline: int = 1100) -> list[tuple[int, bytes, str]]:
    found = Nodes(grid, grid.clock).ask(Action.TRAIN, {node: {} for node in nodes}, deadline=deadline)
    return [(answer.node, answer.statement, answer.problem) for answer in found]


def test_answers_come_with_the_node_that_was_asked() -> None:
    assert ask(ScriptedGrid({1: [b"one"], 2: [None, b"two"]}), 1, 2) == [(1, b"one", ""), (2, b"two", "")]


def test_a_forged_sender_changes_nothing() -> None:
    def claim_to_be_nine(reply: Message) -> None:
        reply.metadata.__dict__["_src_node_id"] = 9

    grid = ScriptedGrid({1: [b"one"]}, forge=claim_to_be_nine)
    assert ask(grid, 1) == [(1, b"one", "")]


def test_an_answer_to_what_was_never_asked_is_dropped() -> None:
    def to_another_request(reply: Message) -> None:
        reply.metadata.__dict__["_reply_to_message_id"] = "of an earlier round"

    grid = ScriptedGrid({1: [b"replayed"]}, forge=to_another_request)
    assert ask(grid, 1) == []
    assert grid.clock.now() > 1100


def test_a_node_that_was_lost_is_asked_again_and_answers_after_all() -> None:
    grid = ScriptedGrid({1: [LOST, LOST, b"back"], 2: [b"two"]})
    assert ask(grid, 1, 2) == [(2, b"two", ""), (1, b"back", "")]
    times = [time for node, time in grid.asked if node == 1]
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert pauses == [FIRST_PAUSE, 2 * FIRST_PAUSE]


def test_a_node_that_stays_lost_is_told_at_the_deadline() -> None:
    grid = ScriptedGrid({1: [LOST] * 50})
    assert ask(grid, 1) == [(1, b"", "the node failed: node unavailable")]
    assert len(grid.asked) < 10
    assert grid.clock.now() > 1100


def test_the_longer_nothing_comes_the_less_often_it_is_looked_for() -> None:
    looks: list[float] = []

    class Counting(ScriptedGrid):
        def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
            looks.append(self.clock.time)
            return super().pull_messages(message_ids)

    assert ask(Counting({1: []}), 1) == []
    pauses = [later - earlier for earlier, later in pairwise(looks)]
    assert pauses[0] == pytest.approx(0.2)
    assert pauses == sorted(pauses)
    assert pauses[-1] == pytest.approx(0.9)
    assert len(looks) < 180, "a hundred seconds would be five hundred looks"


def test_a_silent_node_is_waited_for_until_the_deadline() -> None:
    grid = ScriptedGrid({1: [], 2: [b"two"]})
    assert ask(grid, 1, 2) == [(2, b"two", "")]
    assert 1100 < grid.clock.now() <= 1102


@dataclass
class LosingGrid(ScriptedGrid):
    """Loses the first `lost` messages on their way; delays the answer to the others."""

    lost: int = 0
    delay: int = 0

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        now = self.clock.now()
        arrived = [
            name
            for name in message_ids
            if int(name[1:]) >= self.lost and now >= self.asked[int(name[1:])][1] + self.delay
        ]
        return super().pull_messages(arrived)


@pytest.mark.parametrize(
    ("action", "silence"), [(Action.COSIGN, SILENCE), (Action.TRAIN, SILENCE_IN_TRAINING)]
)
def test_a_request_that_was_lost_on_the_way_is_sent_again(action: str, silence: int) -> None:
    grid = LosingGrid({1: [b"one"]}, lost=2)
    (answer,) = Nodes(grid, grid.clock).ask(action, {1: {}}, deadline=10_000)
    assert (answer.node, answer.statement) == (1, b"one")
    times = [time for _, time in grid.asked]
    assert [later - earlier for earlier, later in pairwise(times)] == pytest.approx(
        [silence, 2 * silence], abs=2
    )


def test_an_answer_to_an_earlier_sending_counts_and_counts_once() -> None:
    grid = LosingGrid({1: [b"first", b"second"]}, delay=SILENCE + 5)
    answers = Nodes(grid, grid.clock).ask(Action.COSIGN, {1: {}}, deadline=10_000)
    assert [answer.statement for answer in answers] == [b"first"]
    assert len(grid.asked) == 2


@pytest.mark.parametrize("silent", [True, False])
def test_nodes_that_come_later_are_asked_too(silent: bool) -> None:
    grid = ScriptedGrid({1: [] if silent else [None] * 40 + [b"one"], 2: [b"two"]})
    new = iter([{2: {}}])
    found = Nodes(grid, grid.clock).ask(Action.OFFER, {1: {}}, deadline=1100, more=lambda: next(new, {}))
    assert (2, b"two") in [(answer.node, answer.statement) for answer in found]
