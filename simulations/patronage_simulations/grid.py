"""A Flower Grid in one process: the real ClientApp answers the real ServerApp, without sockets or Ray.

A message is answered when the ServerApp pulls, one a pull, in the order in which they were pushed; so a
round on one machine is deterministic. Every message and answer goes through Flower's wire form, which shows
that it would travel.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from uuid import UUID

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

__all__ = ["LocalGrid"]


@dataclass
class LocalGrid(Grid):
    """Nodes that live in this process.

    Attributes:
        client_app: what every node runs.
        contexts: node id to the context that Flower would give that node.
        run_id: the number of this run.
    """

    client_app: ClientApp
    contexts: Mapping[int, Context]
    run_id: int = 1
    _waiting: deque[Message] = field(default_factory=deque)
    _pushed: int = 0

    def __post_init__(self) -> None:
        # Message() reads who is speaking from here; Flower sets it in the processes that it starts.
        TaskIdentity.run_id, TaskIdentity.task_id = self.run_id, 1
        TaskIdentity.node_id = SUPERLINK_NODE_ID

    def set_run(self, run: Run) -> None:
        """A local grid has one run; there is nothing to set."""
        self.run_id = run.run_id

    @property
    def run(self) -> Run:
        """The run."""
        return Run.create_empty(self.run_id)

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message to a node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """All nodes, in ascending order."""
        return sorted(self.contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Queue messages; returns their ids."""
        return [self._push(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Let the node whose turn it is answer, if its message is among those asked for."""
        wanted = set(message_ids)
        for message in self._waiting:
            if message.metadata.message_id in wanted:
                self._waiting.remove(message)
                return [_carried(self._answer(message))]
        return []

    def send_and_receive(
        self,
        messages: Iterable[Message],
        *,
        timeout: float | None = None,  # noqa: ARG002
    ) -> Iterable[Message]:
        """Queue messages and let every node answer; nothing in one process takes for ever, so no timeout."""
        ids = list(self.push_messages(messages))
        return [reply for _ in ids for reply in self.pull_messages(ids)]

    def _push(self, message: Message) -> str:
        self._pushed += 1
        message_id = str(UUID(int=self._pushed))
        message.metadata.__dict__["_message_id"] = message_id
        self._waiting.append(_carried(message))
        return message_id

    def _answer(self, message: Message) -> Message:
        context = self.contexts.get(message.metadata.dst_node_id)
        if context is None:
            return Message(Error(ErrorCode.NODE_UNAVAILABLE, "no such node"), reply_to=message)
        try:
            return self.client_app(message, context)
        except Exception as error:  # noqa: BLE001 - as Flower does: a crash of one node is an answer
            return Message(
                Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, f"{type(error).__name__}: {error}"),
                reply_to=message,
            )


def _carried(message: Message) -> Message:
    return message_from_proto(message_to_proto(message))
