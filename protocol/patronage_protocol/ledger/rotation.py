"""New keys for old: statements that rotate or revoke the key of a log, and the key that follows from them.

A rotation is signed by the old key and by the new one, so that nobody can be given a key that is not
theirs. A revocation says that heads and statements beyond a size are not by the holder; the key signs it
itself, because who stole it gains nothing by that. After a revocation the history has no key until a new
consortium begins.

An envelope is an entry of the ledger. Where it stands decides: a rotation at entry i binds every head above
i.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import Field

from patronage_protocol.canonical import Canonical
from patronage_protocol.envelopes import Envelope, seal
from patronage_protocol.errors import VerificationError
from patronage_protocol.keys import PrivateKey, PublicKey
from patronage_protocol.ledger.checkpoints import SignedCheckpoint
from patronage_protocol.ledger.notes import VerifierKey
from patronage_protocol.manifest import PublicKeyText

__all__ = [
    "REVOCATION_TYPE",
    "ROTATION_TYPE",
    "KeyHistory",
    "Revocation",
    "Rotation",
    "revoke",
    "rotate",
]

ROTATION_TYPE = "application/vnd.patronage.key-rotation.v1+json"
REVOCATION_TYPE = "application/vnd.patronage.key-revocation.v1+json"

Size = Annotated[int, Field(ge=0, le=2**53 - 1)]


class Rotation(Canonical):
    """`old` hands over to `new` in a ledger that has `size` entries before this one."""

    schema_version: Literal[1]
    origin: str
    size: Size
    old: PublicKeyText
    new: PublicKeyText


class Revocation(Canonical):
    """`key` is not to be relied on for anything beyond the first `size` entries."""

    schema_version: Literal[1]
    origin: str
    size: Size
    key: PublicKeyText
    reason: Annotated[str, Field(min_length=1, max_length=500)]


def rotate(origin: str, size: int, old: PrivateKey, new: PrivateKey) -> Envelope:
    """The statement that `new` follows `old` from entry `size` on, signed by both."""
    statement = Rotation(schema_version=1, origin=origin, size=size, old=old.public.text, new=new.public.text)
    return seal(ROTATION_TYPE, statement.encode(), old).countersign(new)


def revoke(origin: str, size: int, key: PrivateKey, reason: str) -> Envelope:
    """The statement that nothing by `key` beyond `size` entries counts, signed by it."""
    statement = Revocation(schema_version=1, origin=origin, size=size, key=key.public.text, reason=reason)
    return seal(REVOCATION_TYPE, statement.encode(), key)


@dataclass(frozen=True)
class KeyHistory:
    """Which key must sign the heads of a log, by size.

    Attributes:
        origin: the log.
        keys: (size of the first head that this key signs, key), ascending; the first begins at 0.
        revoked_after: the last size that counts, or None.
    """

    origin: str
    keys: tuple[tuple[int, PublicKey], ...]
    revoked_after: int | None = None

    @classmethod
    def begin(cls, origin: str, first: PublicKey) -> Self:
        """The history of a log with the key that everybody knows from the start."""
        return cls(origin, ((0, first),))

    def follow(self, statements: Iterable[tuple[int, Envelope]]) -> Self:
        """The history after these statements, each with the number of the entry that it is.

        Raises:
            FormatError: a payload is not a statement.
            VerificationError: it is not signed as it must be, or names another log, key or place.
        """
        history = self
        for index, envelope in statements:
            history = history._after(index, envelope)
        return history

    def verifier_at(self, size: int) -> VerifierKey:
        """The key that must have signed the head of `size` entries.

        Raises:
            VerificationError: the key was revoked before.
        """
        if self.revoked_after is not None and size > self.revoked_after:
            raise _refused(
                f"a head of at most {self.revoked_after} entries, where the key was revoked", str(size)
            )
        return VerifierKey.ed25519(self.origin, [key for since, key in self.keys if since <= size][-1])

    def verify(self, signed: SignedCheckpoint) -> None:
        """Check that the right key signed this head.

        Raises:
            VerificationError: it did not, or was revoked.
        """
        signed.verify(self.verifier_at(signed.checkpoint.size))

    def _after(self, index: int, envelope: Envelope) -> Self:
        if self.revoked_after is not None:
            raise _refused("no statement after a revocation", f"one at entry {index}")
        current = self.keys[-1][1]
        if envelope.payloadType == REVOCATION_TYPE:
            revocation = Revocation.decode(envelope.open(REVOCATION_TYPE, current))
            if (revocation.origin, revocation.key) != (self.origin, current.text) or revocation.size > index:
                raise _refused(f"a revocation of the key {current.text} of {self.origin}", "another")
            return type(self)(self.origin, self.keys, revocation.size)
        rotation = Rotation.decode(envelope.unverified_payload)
        new = PublicKey.from_base64(rotation.new)
        envelope.open(ROTATION_TYPE, current, new)
        stated = (rotation.origin, rotation.size, rotation.old)
        if stated != (self.origin, index, current.text) or any(new == key for _, key in self.keys):
            raise _refused(
                f"a rotation of {self.origin} at entry {index} from {current.text} to a fresh key",
                f"one of {rotation.origin} at {rotation.size} from {rotation.old}",
            )
        return type(self)(self.origin, (*self.keys, (index + 1, new)))


def _refused(expected: str, got: str) -> VerificationError:
    return VerificationError(expected, got=got, do="do not rely on what it signs", where="keys")
