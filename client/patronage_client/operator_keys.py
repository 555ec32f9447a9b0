"""The operator's key as an owner knows it: the one in owner.toml, and where its own statements led.

    operator-keys.json      rotations and revocations, in the order in which they came

A statement is taken from whoever brings it, since its signatures say whose word it is.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from patronage_protocol.envelopes import Envelope
from patronage_protocol.errors import VerificationError
from patronage_protocol.files import read_bytes, write_atomic
from patronage_protocol.keys import PublicKey
from patronage_protocol.ledger.rotation import KeyHistory, KeyStatements, Rotation, read_change

__all__ = ["OperatorKeys"]

MAX_STATEMENTS = 4 * 2**20


@dataclass(frozen=True)
class OperatorKeys:
    """What an owner knows of its operator's keys.

    Attributes:
        path: where the statements are kept.
        first: the key that the owner was given over a channel that it trusts.
    """

    path: Path
    first: PublicKey

    def history(self, origin: str) -> KeyHistory:
        """The keys of the operator of a ledger, from the first one on.

        Raises:
            FormatError, RemoteProtocolError: the file that keeps them is damaged.
        """
        return self._history(origin, self._kept())

    def current(self, origin: str) -> PublicKey:
        """The key of the operator of a ledger now. One that it gave up in any ledger counts in none.

        Raises:
            VerificationError: the operator revoked it, or rotated it away elsewhere and not here.
            FormatError, RemoteProtocolError: as `history`.
        """
        key = self.history(origin).current
        given_up = (key for elsewhere in self._origins() for key in self.history(elsewhere).retired)
        if key is None or key in given_up:
            raise VerificationError(
                f"an operator of {origin} with a key",
                got="one that revoked it, or gave it up in another ledger",
                do="take part no more; ask the operator for its rotation, or a new consortium",
                where="keys",
            )
        return key

    def everywhere(self) -> tuple[PublicKey, ...]:
        """The operator's keys now in whatever ledgers it has changed them; the first one if in none.

        Raises:
            VerificationError, FormatError, RemoteProtocolError: as `current`.
        """
        return tuple(map(self.current, self._origins())) or (self.first,)

    def heed(self, statements: Iterable[Envelope]) -> int:
        """Follow the operator's key through its own statements; those about unknown keys are passed over.

        Returns:
            How many were new.

        Raises:
            FormatError, RemoteProtocolError: one is none, or is not the word of the key that it names, or of
                one that was given up.
            UnavailableError: what was learnt cannot be kept.
        """
        kept = list(known := self._kept())
        for statement in statements:
            change = read_change(statement)
            history = self._history(change.origin, kept)
            named = change.old if isinstance(change, Rotation) else change.key
            if statement not in kept and any(named == span.key.text for span in history.spans):
                history.after(change.size, statement)
                kept.append(statement)
        if len(kept) > len(known):
            write_atomic(self.path, KeyStatements(statements=tuple(kept)).encode())
        return len(kept) - len(known)

    def _origins(self) -> list[str]:
        return sorted({read_change(statement).origin for statement in self._kept()})

    def _kept(self) -> tuple[Envelope, ...]:
        if not self.path.exists():
            return ()
        return KeyStatements.decode(read_bytes(self.path, limit=MAX_STATEMENTS)).statements

    def _history(self, origin: str, statements: Iterable[Envelope]) -> KeyHistory:
        history = KeyHistory.begin(origin, origin.partition("/")[0], self.first)
        changes = ((read_change(statement), statement) for statement in statements)
        return history.follow((change.size, one) for change, one in changes if change.origin == origin)
