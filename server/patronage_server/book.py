"""The operator's book: the ledger's store and the round that its entries add up to.

An entry is written only after the state machine has taken it, so whatever is in the store can be replayed,
and a restarted operator stands where it stood.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from patronage_protocol.entries import AnyEntry, KeyRotated, Opened, Paid, Witnessed, decode_entry
from patronage_protocol.envelopes import sign_detached
from patronage_protocol.errors import LocalProtocolError, VerificationError
from patronage_protocol.keys import PrivateKey
from patronage_protocol.ledger.publish import publish
from patronage_protocol.ledger.receipts import Receipt, make_receipt
from patronage_protocol.ledger.store import Ledger
from patronage_protocol.manifest import MANIFEST_TYPE, Manifest
from patronage_protocol.rounds import Phase, Round, follow
from patronage_protocol.strict import base64_text
from patronage_protocol.witnessing import has_quorum, in_order

__all__ = ["Book"]

Listener = Callable[[AnyEntry, Round], None]


class Book:
    """An open ledger and the state that its entries lead to.

    `listener` is called after each entry that was stored, with the new state.
    """

    def __init__(self, ledger: Ledger, published: Path, listener: Listener | None = None) -> None:
        self._ledger = ledger
        self._published = published
        self._listener = listener
        self._rounds: tuple[Round, ...] = ()
        for entry in ledger.entries():
            self._rounds = follow(self._rounds, decode_entry(entry), ledger.blob)
        self._require_own_key()

    @property
    def ledger(self) -> Ledger:
        """The store."""
        return self._ledger

    @property
    def rounds(self) -> tuple[Round, ...]:
        """All rounds of the ledger, the last as it stands."""
        return self._rounds

    @property
    def state(self) -> Round:
        """Where the round stands.

        Raises:
            LocalProtocolError: no round was opened.
        """
        if not self._rounds:
            raise LocalProtocolError("a ledger with a round", got="an empty one", do="open a round first")
        return self._rounds[-1]

    @property
    def cosigned_end(self) -> bool:
        """Whether the last head stands under the quorum that the end of the round asks for, if it does."""
        return not self.state.awaits_witnesses or has_quorum(self._ledger.checkpoint, self.state.manifest)

    def open_round(self, manifest: Manifest, key: PrivateKey, time: int) -> None:
        """Open the round, unless the book already holds it; the cosigned end of the round before goes first.

        Raises:
            RemoteProtocolError: an earlier round is not final, no quorum cosigned its end, or this is not the
                one that follows it.
        """
        if any(known.manifest.digest == manifest.digest for known in self._rounds):
            return
        data = manifest.encode()
        signature = base64_text(sign_detached(MANIFEST_TYPE, data, key))
        opened = Opened(time=time, manifest=self._ledger.put_blob(data), signature=signature)
        self.record(*self._end(time), opened)

    def record_end(self, time: int) -> None:
        """Record the cosigned end of the last round, after which keys may change; once.

        Raises:
            RemoteProtocolError: no quorum cosigned it.
        """
        self.record(*self._end(time))

    def rotate(self, entry: KeyRotated, key: PrivateKey) -> None:
        """Record the operator's own rotation; `key` signs every later head.

        Raises:
            RemoteProtocolError, FormatError: it breaks the rules; nothing was stored.
            UnavailableError: it could not be stored; the key is the old one.
        """
        histories = self._followed(entry)
        self._ledger.rotate(key, entry.encode())
        self._take((entry,), histories)

    def record(self, *entries: AnyEntry) -> None:
        """Take entries into the round and store them, all or none.

        Raises:
            RemoteProtocolError, FormatError, VerificationError: one breaks the rules; nothing was stored.
            UnavailableError: they could not be stored; the state is as it was.
        """
        histories = self._followed(*entries)
        self._ledger.append([entry.encode() for entry in entries])
        self._take(entries, histories)

    def check(self, *entries: AnyEntry) -> None:
        """Raise what `record` would raise for breaking the rules, and store nothing."""
        self._followed(*entries)

    def closing_receipt(self) -> str:
        """The proof that the list of commitments is in the ledger, under the head that a quorum cosigned."""
        signed = self.state.witnessed[0]
        size = signed.checkpoint.size
        proof = self._ledger.inclusion_proof(size - 1, size)
        return Receipt(size - 1, proof, signed, self._ledger.entry(size - 1)).encode().decode()

    def publish(self) -> None:
        """Write the static ledger that everybody reads."""
        publish(self._ledger, self._published)

    def receipts(self) -> dict[str, str]:
        """For each owner of the last round the proof that its payment is in the ledger."""
        receipts: dict[str, str] = {}
        for index, data in enumerate(self._ledger.entries()):
            entry = decode_entry(data)
            if isinstance(entry, Opened):
                receipts.clear()
            if isinstance(entry, Paid):
                receipts[entry.owner] = make_receipt(self._ledger, index).encode().decode()
        return receipts

    def _end(self, time: int) -> tuple[Witnessed, ...]:
        """The entry that is still missing for the cosigned end of the last round."""
        if not self._rounds or self.state.phase is not Phase.FINAL or not self.state.awaits_witnesses:
            return ()
        end = in_order(self._ledger.checkpoint, self.state.manifest)
        return (Witnessed(time=time, checkpoint=end.encode().decode()),)

    def _followed(self, *entries: AnyEntry) -> list[tuple[Round, ...]]:
        """The rounds after each of these entries."""
        histories, rounds = [], self._rounds
        for entry in entries:
            rounds = follow(rounds, entry, self._ledger.blob)
            histories.append(rounds)
        return histories

    def _take(self, entries: Sequence[AnyEntry], histories: Sequence[tuple[Round, ...]]) -> None:
        """What was stored becomes the state, and the listener hears of it."""
        self._rounds = histories[-1] if histories else self._rounds
        if self._listener is not None:
            for entry, rounds in zip(entries, histories, strict=True):
                self._listener(entry, rounds[-1])

    def _require_own_key(self) -> None:
        if self._rounds and self.state.keys.log.verifier_at(self._ledger.size) != self._ledger.verifier:
            raise VerificationError(
                f"a store that signs with the key that its entries name, {self.state.keys.log.current}",
                got=self._ledger.verifier.text,
                do="stop; restore the store from a backup or the published files",
                where="ledger",
            )
