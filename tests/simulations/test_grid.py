"""The in-process grid behaves like Flower's: answers match requests, failures are answers."""

from collections.abc import Callable

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from patronage_simulations.grid import LocalGrid


def context(node: int) -> Context:
    return Context(run_id=1, node_id=node, node_config={}, state=RecordDict(), run_config={})


@pytest.fixture
def grid() -> LocalGrid:
    app = ClientApp()

    @app.query("echo")
    def echo(message: Message, context: Context) -> Message:
        if context.node_id == 3:
            raise RuntimeError("out of memory")
        said = message.content.config_records["say"]["word"]
        content = RecordDict({"say": ConfigRecord({"word": f"{context.node_id} heard {said}"})})
        return Message(content, reply_to=message)

    return LocalGrid(app, {node: context(node) for node in (2, 1, 3)})


@pytest.fixture
def say(grid: LocalGrid) -> Callable[[int, str], str]:
    def push(node: int, word: str) -> str:
        content = RecordDict({"say": ConfigRecord({"word": word})})
        (message_id,) = grid.push_messages([Message(content, node, "query.echo")])
        return message_id

    return push


def test_nodes_are_listed_in_order(grid: LocalGrid) -> None:
    assert list(grid.get_node_ids()) == [1, 2, 3]


def test_answers_come_one_a_pull_and_name_their_request(
    grid: LocalGrid, say: Callable[[int, str], str]
) -> None:
    first, second = say(2, "hello"), say(1, "again")
    (reply,) = grid.pull_messages([first, second])
    assert reply.metadata.reply_to_message_id == first
    assert reply.content.config_records["say"]["word"] == "2 heard hello"
    (reply,) = grid.pull_messages([first, second])
    assert reply.metadata.reply_to_message_id == second
    assert list(grid.pull_messages([first, second])) == []


def test_only_what_was_asked_for_is_pulled(grid: LocalGrid, say: Callable[[int, str], str]) -> None:
    say(1, "first")
    second = say(2, "second")
    (reply,) = grid.pull_messages([second])
    assert reply.metadata.src_node_id == 2


def test_a_node_that_crashes_answers_with_an_error(grid: LocalGrid, say: Callable[[int, str], str]) -> None:
    (reply,) = grid.pull_messages([say(3, "hello")])
    assert reply.has_error()
    assert reply.error.reason == "RuntimeError: out of memory"


def test_a_node_that_is_not_there_answers_with_an_error(
    grid: LocalGrid, say: Callable[[int, str], str]
) -> None:
    (reply,) = grid.pull_messages([say(9, "hello")])
    assert reply.has_error()


def test_send_and_receive_brings_every_answer(grid: LocalGrid) -> None:
    content = RecordDict({"say": ConfigRecord({"word": "all"})})
    messages = [Message(content, node, "query.echo") for node in (1, 2)]
    words = [reply.content.config_records["say"]["word"] for reply in grid.send_and_receive(messages)]
    assert words == ["1 heard all", "2 heard all"]
