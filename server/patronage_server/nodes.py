"""Asking the owners' nodes through a Flower Grid.

An answer is matched to its request by `reply_to_message_id`, never by the node that it claims to come from.
Who an answer is from in truth is what the statement in it is signed by; that is the round's business.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from patronage_protocol.wire import ADAPTER, ADAPTER_TYPE, RECORD, Action, Field
from patronage_server.clock import Clock

__all__ = ["Answer", "Nodes"]

CATEGORY = {Action.TRAIN: MessageType.TRAIN}
POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Answer:
    """What one node answered.

    Attributes:
        node: the node that was asked.
        statement: the bytes of an envelope; empty if there is none.
        adapter: raw safetensors bytes; empty if there are none.
        problem: what went wrong at the owner or on the way, in words.
    """

    node: int
    statement: bytes = b""
    adapter: bytes = b""
    problem: str = ""


@dataclass(frozen=True)
class Nodes:
    """The nodes that a Grid reaches."""

    grid: Grid
    clock: Clock

    def ids(self) -> tuple[int, ...]:
        """The nodes that are connected now, in ascending order."""
        return tuple(sorted(self.grid.get_node_ids()))

    def ask(
        self, action: str, requests: Mapping[int, Mapping[str, bytes]], *, deadline: int
    ) -> Iterator[Answer]:
        """Send each node its request; yield answers as they come, until all have come or the deadline passes.

        Args:
            action: one of `wire.Action`.
            requests: node to the byte strings of its request.
            deadline: Unix seconds.
        """
        seconds = float(max(1, deadline - self.clock.now()))
        asked: dict[str, int] = {}
        for node, fields in requests.items():
            message = Message(
                RecordDict({RECORD: ConfigRecord(dict(fields))}),
                node,
                f"{CATEGORY.get(action, MessageType.QUERY)}.{action}",
                ttl=seconds,
            )
            asked |= dict.fromkeys(self.grid.push_messages([message]), node)
        while asked and self.clock.now() <= deadline:
            replies = list(self.grid.pull_messages(list(asked)))
            for reply in replies:
                node_asked = asked.pop(reply.metadata.reply_to_message_id, None)
                if node_asked is not None:
                    yield _answer(node_asked, reply)
            if not replies:
                self.clock.sleep(POLL_SECONDS)


def _answer(node: int, reply: Message) -> Answer:
    if reply.has_error():
        lines = (reply.error.reason or f"error {reply.error.code}").strip().splitlines()
        return Answer(node, problem=f"the node failed: {lines[-1]}")
    fields = reply.content.config_records.get(RECORD, ConfigRecord())
    problem = fields.get(Field.PROBLEM)
    statement = fields.get(Field.STATEMENT)
    arrays = reply.content.array_records.get(ADAPTER)
    array = arrays.get(ADAPTER) if arrays is not None else None
    return Answer(
        node,
        statement=statement if isinstance(statement, bytes) else b"",
        adapter=array.data if array is not None and array.stype == ADAPTER_TYPE else b"",
        problem=problem.decode("utf-8", "replace")[:500] if isinstance(problem, bytes) else "",
    )
