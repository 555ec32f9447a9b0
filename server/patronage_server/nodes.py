"""Asking the owners' nodes through a Flower Grid.

An answer is matched to its request by `reply_to_message_id`, never by the node that it claims to come from.
Who an answer is from in truth is what the statement in it is signed by; that is the round's business.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
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

        A node that was lost, or whose app crashed, is asked again, after pauses that double; if it has given
        no answer when the deadline passes, its last failure is yielded. What an owner itself answers, be it
        a problem in words, is final.

        Args:
            action: one of `wire.Action`.
            requests: node to the byte strings of its request.
            deadline: Unix seconds.
            more: looked at every few seconds for nodes that have come since.
            until: the last second that is waited for, looked at all the time; the deadline if left out.
        """
        until = until or (lambda: deadline)
        asked: dict[str, int] = {}
        wanted = dict(requests)
        failures: dict[int, _Failure] = {}
        last = self.clock.now()
        look = last + MORE_SECONDS
        self._push(action, wanted, asked, deadline)
        while (asked or failures) and self.clock.now() <= until():
            replies = list(self.grid.pull_messages(list(asked))) if asked else []
            for reply in replies:
                node = asked.pop(reply.metadata.reply_to_message_id, None)
                if node is None:
                    continue
                answer = _answer(node, reply)
                if reply.has_error():
                    failures[node] = _Failure.after(failures.get(node), answer, self.clock.now())
                else:
                    failures.pop(node, None)
                    yield answer
            now = self.clock.now()
            again = {node: wanted[node] for node, failure in failures.items() if failure.due(now)}
            if more is not None and now >= look:
                look = now + MORE_SECONDS
                new = dict(more())
                wanted |= new
                again |= new
            for node in again.keys() & failures.keys():
                failures[node] = replace(failures[node], at=None)
            self._push(action, again, asked, deadline)
            if not replies:
                self.clock.sleep(_pause(now - last) if asked else _until_next(failures, now, until()))
            else:
                last = now
        yield from (failure.answer for failure in failures.values())

    def _push(self, action: str, requests: Requests, asked: dict[str, int], deadline: int) -> None:
        seconds = float(max(1, deadline - self.clock.now()))
        for node, fields in requests.items():
            message = Message(
                RecordDict({RECORD: ConfigRecord(dict(fields))}),
                node,
                f"{CATEGORY.get(action, MessageType.QUERY)}.{action}",
                ttl=seconds,
            )
            asked |= dict.fromkeys(self.grid.push_messages([message]), node)


@dataclass(frozen=True)
class _Failure:
    """A node without an answer of its own: what it gave instead, and when it is asked again."""

    answer: Answer
    pause: int
    at: int | None

    @classmethod
    def after(cls, before: "_Failure | None", answer: Answer, now: int) -> "_Failure":
        pause = FIRST_PAUSE if before is None else 2 * before.pause
        return cls(answer, pause, now + pause)

    def due(self, now: int) -> bool:
        return self.at is not None and now >= self.at


def _pause(waited: int) -> float:
    """Seconds until the next look: a training of hours is not asked after five times a second."""
    least, most = POLL_SECONDS
    return min(most, max(least, waited / 20))


def _until_next(failures: Mapping[int, _Failure], now: int, deadline: int) -> float:
    """Seconds until somebody is asked again, or until the deadline has passed."""
    times = [failure.at for failure in failures.values() if failure.at is not None]
    return float(max(1, min([*times, deadline + 1]) - now))


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
