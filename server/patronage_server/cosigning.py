"""Asking owners to cosign the ledger's head, as witnesses that compare it with the last head they saw.

A witness that has answered is asked no more: what it signed is in the store, and stays there through a
restart. One that saw another size last says so with that head, and is asked once more from there.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from patronage_protocol.errors import LocalProtocolError, RemoteProtocolError
from patronage_protocol.ledger.checkpoints import SignedCheckpoint
from patronage_protocol.ledger.cosignatures import cosignature_time
from patronage_protocol.ledger.notes import parse_signatures
from patronage_protocol.ledger.store import Ledger
from patronage_protocol.ledger.witness import request_cosignature, store_cosignatures
from patronage_protocol.manifest import Manifest
from patronage_protocol.messages import Cosignature, CosignatureRequest
from patronage_protocol.wire import Action
from patronage_protocol.witnessing import in_order, witness_key, witness_policy
from patronage_server.clock import Clock
from patronage_server.correspondence import Correspondence

__all__ = ["STRAGGLER_SECONDS", "Cosigning"]

STRAGGLER_SECONDS = (6, 60)
"""A round with its quorum waits as long again for the others, within these bounds: two polls, a minute."""


@dataclass(frozen=True)
class Cosigning:
    """The cosignatures of the head that the ledger has now.

    Attributes:
        ledger: the operator's store.
        manifest: whose witnesses are asked.
        owners: the conversation with them.
        clock: the operator's time.
    """

    ledger: Ledger
    manifest: Manifest
    owners: Correspondence
    clock: Clock

    @property
    def head(self) -> SignedCheckpoint:
        """The head as the operator and its witnesses have signed it so far."""
        return in_order(self.ledger.checkpoint, self.manifest)

    @property
    def witnesses(self) -> tuple[str, ...]:
        """The owners that have cosigned it, in the manifest's order."""
        return tuple(self._times())

    def in_time(self, deadline: int) -> tuple[str, ...]:
        """Those of them that did so by the deadline (Unix seconds), by the time that they signed."""
        return tuple(owner for owner, time in self._times().items() if time <= deadline)

    def _times(self) -> dict[str, int]:
        head = self.head
        found = {
            owner: cosignature_time(head, witness_key(self.manifest, owner))
            for owner in self.manifest.witness.owners
        }
        return {owner: time for owner, time in found.items() if time is not None}

    def gather(self, deadline: int) -> SignedCheckpoint:
        """Ask the witnesses that have not cosigned, until all have, or a quorum has and the others are late.

        The others are waited for too: each that has seen the head is one more that no fork gets past.

        Args:
            deadline: Unix seconds; after it nobody is waited for.

        Returns:
            The head with what came, be it a quorum or not.

        Raises:
            LocalProtocolError: a witness holds a head of ours that this store does not continue.
            UnavailableError: the store failed.
        """
        patience = _Patience(self, deadline, began=self.clock.now())
        patience.look()
        cosigned = self.witnesses
        missing = [owner for owner in self.manifest.witness.owners if owner not in cosigned]
        sizes = {owner: self._last_size(owner) for owner in missing}
        corrected: set[str] = set()
        while sizes and self.clock.now() <= patience.until():
            again = self._once(sizes, patience)
            sizes = {owner: size for owner, size in again.items() if owner not in corrected}
            corrected |= sizes.keys()
        return self.head

    def _once(self, sizes: Mapping[str, int], patience: "_Patience") -> dict[str, int]:
        """Ask each witness once from the size given; returns those that saw another size last, with it."""
        again: dict[str, int] = {}

        def own(owner: str) -> dict[str, object]:
            return {"request": request_cosignature(self.ledger, sizes[owner]).encode().decode()}

        answers = self.owners.ask(
            Action.COSIGN, CosignatureRequest, sizes, patience.deadline, own=own, until=patience.until
        )
        for owner, answer in answers:
            with self.owners.blame(owner):
                size = self._take(owner, self.owners.read(owner, answer, Cosignature), sizes[owner])
                if size is not None:
                    again[owner] = size
            patience.look()
        return again

    def _last_size(self, owner: str) -> int:
        key = witness_key(self.manifest, owner)
        return self.ledger.last_cosigned(key.name, key.keyid)

    def _take(self, owner: str, answer: Cosignature, asked_from: int) -> int | None:
        """Store a cosignature; or the size from which the witness has to be asked."""
        if answer.line:
            request = request_cosignature(self.ledger, asked_from)
            lines = parse_signatures(answer.line)
            key = witness_key(self.manifest, owner)
            if [(line.name, line.keyid) for line in lines] != [(key.name, key.keyid)]:
                raise RemoteProtocolError(
                    f"the cosignature of {key.name} alone",
                    got=", ".join(line.name for line in lines),
                    do="it is not used",
                    where="witness §lines",
                )
            store_cosignatures(self.ledger, request, lines, witness_policy(self.manifest))
            return None
        return self._seen_size(owner, answer.seen)

    def _seen_size(self, owner: str, note: str) -> int:
        """The size of the head that a witness saw last, which must be one of ours."""
        if not note:
            return 0
        seen = SignedCheckpoint.parse(note.encode())
        self.ledger.verify_own(seen)
        head = seen.checkpoint
        if head.size > self.ledger.size or head.root != self.ledger.root_at(head.size):
            raise LocalProtocolError(
                f"a store that continues the signed head of {head.size} entries that {owner} has seen",
                got=f"{self.ledger.size} entries that do not",
                do="stop: this store is an old backup; restore the missing entries from the published files",
                where="witness §head",
            )
        return head.size


@dataclass
class _Patience:
    """How long is waited: until the deadline for a quorum, and as long as that took for the others."""

    cosigning: Cosigning
    deadline: int
    began: int
    _until: int | None = None

    def look(self) -> None:
        """See whether there is a quorum now."""
        if self._until is None and len(self.cosigning.witnesses) >= self.cosigning.manifest.witness.quorum:
            now = self.cosigning.clock.now()
            least, most = STRAGGLER_SECONDS
            self._until = min(self.deadline, now + min(most, max(least, now - self.began)))

    def until(self) -> int:
        """The last second to wait for, as things stand."""
        return self.deadline if self._until is None else self._until
