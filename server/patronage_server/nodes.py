"""Asking the owners' nodes through a Flower Grid.

An answer is matched to its request by `reply_to_message_id`, never by the node that it claims to come from.
Who an answer is from in truth is what the statement in it is signed by; that is the round's business.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from patronage_protocol.wire import ADAPTER, ADAPTER_TYPE, RECORD, Action, Field
from patronage_server.clock import Clock

__all__ = ["Answer", "Nodes"]

CATEGORY = {Action.TRAIN: MessageType.TRAIN}
POLL_SECONDS = (0.2, 0.9)
"""Between two looks for answers: a twentieth of what was waited since the last, within these bounds."""

MORE_SECONDS = 2
FIRST_PAUSE = 5
"""Seconds before a node that failed is asked for the second time."""

SILENCE, SILENCE_IN_TRAINING = 60, 600
"""Seconds after which a silent node is asked for the second time."""

Requests: TypeAlias = Mapping[int, Mapping[str, bytes]]
"""Node to the byte strings of its request."""


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
        self,
        action: str,
        requests: Requests,
        *,
        deadline: int,
        more: Callable[[], Requests] | None = None,
        until: Callable[[], int] | None = None,
    ) -> Iterator[Answer]:
        """Send each node its request; yield answers as they come, until all have come or the deadline passes.

        A node that was lost, whose app crashed, or that is silent is asked again, after pauses that double;
        if it has given no answer when the deadline passes, its last failure is yielded. What an owner itself
        answers, be it a problem in words, is final. Silence may mean a lost message: a SuperNode drops one
        whose content it could not fetch, without a word. Owners answer a question twice in the same way.

        Args:
            action: one of `wire.Action`.
            requests: node to the byte strings of its request.
            deadline: Unix seconds.
            more: looked at every few seconds for nodes that have come since.
            until: the last second that is waited for, looked at all the time; the deadline if left out.
        """
        until = until or (lambda: deadline)
        talk = _Conversation(self, action, deadline)
        talk.ask(requests)
        last = self.clock.now()
        look = last + MORE_SECONDS
        while talk.open and self.clock.now() <= until():
            came = talk.pull()
            yield from came
            now = self.clock.now()
            if more is not None and now >= look:
                look = now + MORE_SECONDS
                talk.ask(more())
            talk.ask_again()
            if came:
                last = now
            else:
                self.clock.sleep(_pause(now - last) if talk.on_the_way else talk.until_next(until()))
        yield from talk.failures


@dataclass
class _Open:
    """A node that has given no answer of its own: its request, and the second at which it is sent again."""

    fields: Mapping[str, bytes]
    silence: int
    again: int
    pause: int = FIRST_PAUSE
    failure: Answer | None = None


class _Conversation:
    """One request to each of some nodes, and what has come of it.

    Attributes:
        open: the nodes without an answer of their own.
        on_the_way: the messages that may still be answered, and the node of each.
    """

    def __init__(self, nodes: Nodes, action: str, deadline: int) -> None:
        self._nodes, self._action, self._deadline = nodes, action, deadline
        self.open: dict[int, _Open] = {}
        self.on_the_way: dict[str, int] = {}

    def ask(self, requests: Requests) -> None:
        silence = SILENCE_IN_TRAINING if self._action == Action.TRAIN else SILENCE
        for node, fields in requests.items():
            self.open[node] = _Open(fields, silence, self._nodes.clock.now() + silence)
            self._push(node)

    def ask_again(self) -> None:
        """Those that failed a while ago, and those that are silent: a message may have been lost."""
        now = self._nodes.clock.now()
        for node, one in self.open.items():
            if now >= one.again:
                one.silence *= 2
                one.again = now + one.silence
                self._push(node)

    def pull(self) -> list[Answer]:
        """The answers that have come; a node that answered is asked no more."""
        replies = self._nodes.grid.pull_messages(list(self.on_the_way)) if self.on_the_way else ()
        found: list[Answer] = []
        for reply in replies:
            node = self.on_the_way.pop(reply.metadata.reply_to_message_id, None)
            if node is None or node not in self.open:
                continue
            answer = _answer(node, reply)
            if reply.has_error():
                self._failed(self.open[node], answer)
                continue
            found.append(answer)
            del self.open[node]
            self.on_the_way = {message: other for message, other in self.on_the_way.items() if other != node}
        return found

    @property
    def failures(self) -> list[Answer]:
        """The last failure of each node that failed and never answered."""
        return [one.failure for one in self.open.values() if one.failure is not None]

    def until_next(self, deadline: int) -> float:
        """Seconds until somebody is asked again, or until the deadline has passed."""
        return float(
            max(1, min([*(one.again for one in self.open.values()), deadline + 1]) - self._nodes.clock.now())
        )

    def _failed(self, one: _Open, answer: Answer) -> None:
        one.failure = answer
        one.again = self._nodes.clock.now() + one.pause
        one.pause *= 2

    def _push(self, node: int) -> None:
        message = Message(
            RecordDict({RECORD: ConfigRecord(dict(self.open[node].fields))}),
            node,
            f"{CATEGORY.get(self._action, MessageType.QUERY)}.{self._action}",
            ttl=float(max(1, self._deadline - self._nodes.clock.now())),
        )
        self.on_the_way |= dict.fromkeys(self._nodes.grid.push_messages([message]), node)


def _pause(waited: int) -> float:
    """Seconds until the next look: a training of hours is not asked after five times a second."""
    least, most = POLL_SECONDS
    return min(most, max(least, waited / 20))


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
