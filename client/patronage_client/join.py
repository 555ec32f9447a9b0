"""`patronage owner join`: from an invitation to a node that takes part, for as long as the owner wants.

The invitation is checked against the operator's key in owner.toml, its terms are shown, and accepted once.
Then the node runs: a SuperNode that speaks with the operator, and the executor that does its tasks with what
is installed here. Either is started again when it ends.
"""

import logging
import threading
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import httpx
from flwr.app import ConfigRecord, RecordDict
from flwr.clientapp import ClientApp

from patronage_client.executor import Executor
from patronage_client.home import OwnerHome
from patronage_client.node import NodeFiles, SuperNode
from patronage_client.reach import check_door, check_node
from patronage_protocol.errors import RemoteProtocolError, UnavailableError, UsageError
from patronage_protocol.files import write_atomic
from patronage_protocol.joining import Invitation, read_envelope
from patronage_protocol.manifest import Manifest
from patronage_protocol.messages import MAX_REASON, Refusal, sign_statement
from patronage_protocol.wire import RECORD, Field

__all__ = ["Agree", "read_invitation", "take_part"]

log = logging.getLogger("patronage.owner")

POLL_SECONDS = 0.5
RESTART_SECONDS = (1.0, 60.0)
"""The first and the longest pause before a SuperNode that ended is started again; it doubles in between."""

SETTLED_SECONDS = 60.0
"""A SuperNode that ran for so long is started again after the first pause."""

Agree = Callable[[Manifest], bool]
"""Asks the owner whether it accepts the terms."""


def read_invitation(home: OwnerHome, path: Path) -> Invitation:
    """The invitation in a file, checked against what this owner knows.

    Raises:
        VerificationError: the operator of owner.toml did not sign it, under that key or a successor.
        FormatError, DataError: it is of another version, or no invitation.
        RemoteProtocolError: it does not name this owner with its key.
    """
    envelope = read_envelope(path)
    claimed = Invitation.claimed(envelope)
    home.operator.heed(claimed.rotations)
    invitation = Invitation.open(envelope, home.operator.current(claimed.manifest.origin))
    party = invitation.manifest.owner(home.config.name)
    if party is None or not home.holds(party.key):
        raise RemoteProtocolError(
            f"the owner {home.config.name} with the key {home.key.public.text}",
            got="another key" if party else "an invitation of others",
            do="send registration.json to the operator and ask for a new invitation",
            where=str(path),
        )
    return invitation


def take_part(
    home: OwnerHome, path: Path, *, agree: Agree, ended: threading.Event, ready: Callable[[], None]
) -> None:
    """Join with the invitation in `path` and answer until `ended` is set.

    Args:
        home: the owner's folder.
        path: the invitation.
        agree: asked once for each manifest that was not accepted before.
        ended: set to stop.
        ready: called when the operator has let the node in and it starts.

    Raises:
        PatronageError: the invitation, the operator's machine or the registration is not as it must be.
        UsageError: the owner does not accept the terms.
    """
    invitation = read_invitation(home, path)
    manifest = invitation.manifest
    if not home.accepts(manifest.digest):
        if not agree(manifest):
            raise UsageError(
                f"acceptance of the manifest {manifest.digest}",
                got="none",
                do="nothing was started; join again when the terms suit you",
            )
        home.accept(manifest.digest)
    files = NodeFiles(home.path / "node")
    with files.alone():
        write_atomic(files.certificate_authority, invitation.certificate.encode())
        write_atomic(files.invitation, read_envelope(path).encode())
        check_door(invitation.address, invitation.certificate)
        check_node(invitation.address, files)
        ready()
        _Node(home, invitation, files, ended).run()


class _Node:
    """The SuperNode and the executor, kept going."""

    def __init__(
        self, home: OwnerHome, invitation: Invitation, files: NodeFiles, ended: threading.Event
    ) -> None:
        self._home = home
        self._invitation = invitation
        self._files = files
        self._ended = ended
        self._supernode = SuperNode(files, invitation.address)

    def run(self) -> None:
        """Work until `ended` is set."""
        pause = RESTART_SECONDS[0]
        try:
            while not self._ended.is_set():
                began = time.monotonic()
                self._supernode.start()
                self._work()
                self._supernode.stop()
                if time.monotonic() - began > SETTLED_SECONDS:
                    pause = RESTART_SECONDS[0]
                if not self._ended.wait(pause):
                    log.warning("the SuperNode has ended; starting it again")
                    self._clear_the_way()
                pause = min(2 * pause, RESTART_SECONDS[1])
        finally:
            self._supernode.stop()

    def _work(self) -> None:
        """Do tasks for as long as the SuperNode is there."""
        executor = Executor(
            address=self._supernode.runtime,
            secret=self._files.secret(),
            pinned=self._invitation.bundle,
            app=lambda: self._app,
            refuse=self._refuse,
        )
        up = False
        while self._supernode.running and not self._ended.is_set():
            try:
                busy = executor.take_one()
                up = True
            except httpx.HTTPError as error:
                busy = False
                if up:
                    log.warning("a task was lost: %s", error)
            if not busy:
                self._ended.wait(POLL_SECONDS)

    @cached_property
    def _app(self) -> ClientApp:
        """The ClientApp of the installed package, loaded when the first task is here: it brings torch."""
        from patronage_client.app import client_app  # noqa: PLC0415

        passphrase = self._home.key_file.passphrase
        return client_app(unlock=lambda _: passphrase)

    def _clear_the_way(self) -> None:
        try:
            check_node(self._invitation.address, self._files)
        except UnavailableError as error:
            log.warning("%s", error)

    def _refuse(self, reason: str) -> RecordDict:
        """A signed refusal, so that the operator can show who refused and why."""
        manifest = self._invitation.manifest
        refusal = Refusal(
            consortium=manifest.consortium,
            round=manifest.round,
            manifest=manifest.digest,
            author=self._home.config.name,
            reason=reason[:MAX_REASON],
        )
        statement = sign_statement(refusal, self._home.key).encode()
        return RecordDict({RECORD: ConfigRecord({Field.STATEMENT: statement})})
