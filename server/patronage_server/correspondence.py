"""The operator's side of the conversation: who sits at which node, what is asked, what comes back.

An owner is where its own signature says it is: nodes are asked with the offer, and the acceptance or
refusal that comes back, signed by a key of the manifest, tells whose node it was.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType

from patronage_protocol.envelopes import Envelope, sign_detached
from patronage_protocol.errors import FormatError, RemoteProtocolError, VerificationError
from patronage_protocol.keys import PrivateKey, PublicKey
from patronage_protocol.ledger.rotation import KeyStatements
from patronage_protocol.manifest import MANIFEST_TYPE, Manifest
from patronage_protocol.messages import Acceptance, Refusal, S, Statement, read_statement, sign_statement
from patronage_protocol.wire import Action, Field
from patronage_server.nodes import Answer, Nodes

__all__ = ["Correspondence"]

log = logging.getLogger("patronage.operator")

MAX_PROBLEM = 500
WAIT_SECONDS = 5.0
LOCATE_SECONDS = 60


class Correspondence:
    """Requests to the owners of one manifest and their answers.

    Attributes:
        problems: the last thing that went wrong with an owner or node, in words.
    """

    def __init__(
        self, manifest: Manifest, key: PrivateKey, nodes: Nodes, rotations: Sequence[Envelope] = ()
    ) -> None:
        """Take the terms, the operator's key, where its nodes are, and how its key came about."""
        self._manifest = manifest
        self._rotations = KeyStatements(statements=tuple(rotations)).encode()
        self._key = key
        self._nodes = nodes
        self._node_of: dict[str, int] = {}
        self._offered: set[int] = set()
        self.problems: dict[str, str] = {}

    def new_nodes(self) -> tuple[int, ...]:
        """Connected nodes that have not been offered the terms."""
        return tuple(node for node in self._nodes.ids() if node not in self._offered)

    def offer(self, deadline: int) -> Iterator[tuple[str, Envelope]]:
        """Offer the terms to every new node, and to those that come until the others have answered.

        Yields each owner that answers, with its signed answer. A node that has not answered when this ends
        counts as new again.
        """
        data = self._manifest.encode()
        offer = {
            Field.MANIFEST: data,
            Field.SIGNATURE: sign_detached(MANIFEST_TYPE, data, self._key),
            Field.ROTATIONS: self._rotations,
        }
        open_offers: set[int] = set()

        def to_new() -> dict[int, dict[str, bytes]]:
            asked = dict.fromkeys(self.new_nodes(), offer)
            self._offered |= set(asked)
            open_offers.update(asked)
            return asked

        try:
            for answer in self._nodes.ask(Action.OFFER, to_new(), deadline=deadline, more=to_new):
                open_offers.discard(answer.node)
                with self.blame(f"node {answer.node}"):
                    envelope = _envelope(answer)
                    owner = self._author(envelope)
                    self._node_of[owner] = answer.node
                    yield owner, envelope
        finally:
            self._offered -= open_offers

    def ask(
        self,
        action: str,
        kind: type[Statement],
        owners: Iterable[str],
        deadline: int,
        *,
        own: Callable[[str], Mapping[str, object]] = lambda _owner: {},
        until: Callable[[], int] | None = None,
        beside: Mapping[str, bytes] = MappingProxyType({}),
        **fields: object,
    ) -> Iterator[tuple[str, Answer]]:
        """Send each owner a request of `kind`; yield the answers that are no problems, as they come.

        Args:
            action: one of `wire.Action`.
            kind: the request, which has a field `owner`.
            owners: whom to ask; one whose node is unknown is asked where it is first.
            deadline: Unix seconds.
            own: what the request to one owner says.
            until: the last second that is waited for, looked at all the time; the deadline if left out.
            beside: byte strings that go with every request, by `wire.Field`.
            fields: what the request says to all.
        """
        until = until or (lambda: deadline)
        waiting = set(owners)
        while waiting and self._nodes.clock.now() <= until():
            self._locate(waiting, until())
            owner_at = {self._node_of[owner]: owner for owner in sorted(waiting) if owner in self._node_of}
            requests = {
                node: {**self._sealed(kind, owner=owner, **fields, **own(owner)), **beside}
                for node, owner in owner_at.items()
            }
            for answer in self._nodes.ask(action, requests, deadline=deadline, until=until):
                waiting.discard(owner_at[answer.node])
                with self.blame(owner_at[answer.node]):
                    _check_problem(answer)
                    yield owner_at[answer.node], answer
            waiting -= set(owner_at.values())
            if waiting:
                self._nodes.clock.sleep(WAIT_SECONDS)

    def read(self, owner: str, answer: Answer, kind: type[S]) -> S:
        """The statement of `kind` in an answer, signed by the owner.

        Raises:
            RemoteProtocolError, FormatError, VerificationError: it holds none.
        """
        party = self._manifest.owner(owner)
        assert party is not None, "owners of the manifest are asked"
        key = PublicKey.from_base64(party.key)
        envelope = Envelope.decode(answer.statement)
        return read_statement(envelope, kind, manifest=self._manifest, author=owner, key=key)

    def _locate(self, owners: Iterable[str], deadline: int) -> None:
        """Find out who sits at the new nodes: after a restart, or when an owner has come back.

        A node that is silent for a minute holds nobody up.
        """
        missing = set(owners) - self._node_of.keys()
        if missing and self.new_nodes():
            for owner, _ in self.offer(min(deadline, self._nodes.clock.now() + LOCATE_SECONDS)):
                missing.discard(owner)
                if not missing:
                    break

    @contextmanager
    def blame(self, who: str) -> Iterator[None]:
        """What somebody else did wrong is logged and has no effect; our own failures pass through."""
        try:
            yield
        except (RemoteProtocolError, FormatError, VerificationError) as error:
            self.problems[who] = str(error)[:MAX_PROBLEM]
            log.warning("%s: %s", who, error)

    def _author(self, envelope: Envelope) -> str:
        """The owner that signed this acceptance or refusal."""
        kind = Refusal if envelope.payloadType == Refusal.media_type else Acceptance
        owner = kind.decode(envelope.unverified_payload).author
        party = self._manifest.owner(owner)
        if party is None:
            raise RemoteProtocolError(
                "an owner of the manifest", got=owner, do="it is not used", where="open §owners"
            )
        key = PublicKey.from_base64(party.key)
        read_statement(envelope, kind, manifest=self._manifest, author=owner, key=key)
        return owner

    def _sealed(self, kind: type[Statement], **fields: object) -> dict[str, bytes]:
        header = {
            "consortium": self._manifest.consortium,
            "round": self._manifest.round,
            "manifest": self._manifest.digest,
            "author": self._manifest.operator.name,
        }
        request = kind.model_validate({**header, **fields})
        return {Field.STATEMENT: sign_statement(request, self._key).encode()}


def _envelope(answer: Answer) -> Envelope:
    _check_problem(answer)
    return Envelope.decode(answer.statement)


def _check_problem(answer: Answer) -> None:
    if answer.problem:
        raise RemoteProtocolError("an answer", got=answer.problem, do="nothing was recorded")
