"""New keys for old: statements that rotate or revoke the key of one party of a ledger, and what follows.

A rotation is signed by the old key and by the new one, so that nobody can be given a key that is not
theirs. A revocation ends a key without a successor; the key signs it itself, because who stole it gains
nothing by that.

An envelope is an entry of the ledger. Where it stands decides: a rotation at entry i binds every head above
i, a revocation at entry i makes the head that ends with it the last one that counts.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Literal, NoReturn, Self

from pydantic import Field

from patronage_protocol.canonical import Canonical, Name
from patronage_protocol.envelopes import Envelope, seal
from patronage_protocol.errors import RemoteProtocolError, VerificationError
from patronage_protocol.keys import PrivateKey, PublicKey
from patronage_protocol.ledger.checkpoints import SignedCheckpoint
from patronage_protocol.ledger.notes import VerifierKey
from patronage_protocol.manifest import PublicKeyText

__all__ = [
    "REVOCATION_FILE",
    "REVOCATION_TYPE",
    "ROTATION_FILE",
    "ROTATION_TYPE",
    "KeyHistory",
    "KeySpan",
    "KeyStatements",
    "Revocation",
    "Rotation",
    "read_change",
    "revoke",
    "rotate",
]

ROTATION_TYPE = "application/vnd.patronage.key-rotation.v1+json"
REVOCATION_TYPE = "application/vnd.patronage.key-revocation.v1+json"

ROTATION_FILE = "key-rotation.json"
REVOCATION_FILE = "key-revocation.json"
"""What a party calls the file in which it hands such a statement over."""

Size = Annotated[int, Field(ge=0, le=2**53 - 1)]


class Rotation(Canonical):
    """`old` hands over to `new`, as the key of `party`, in a ledger with at least `size` entries before it.

    A log's own rotation has exactly so many before it.
    """

    schema_version: Literal[1]
    origin: str
    party: Name
    size: Size
    old: PublicKeyText
    new: PublicKeyText


class Revocation(Canonical):
    """`key` of `party` is not to be relied on from here on; at least `size` entries stand before this one."""

    schema_version: Literal[1]
    origin: str
    party: Name
    size: Size
    key: PublicKeyText
    reason: Annotated[str, Field(min_length=1, max_length=500)]


class KeyStatements(Canonical):
    """Rotations and revocations in the order of their ledger, as they travel and are kept."""

    statements: tuple[Envelope, ...] = ()


def rotate(origin: str, party: str, size: int, old: PrivateKey, new: PrivateKey) -> Envelope:
    """The statement that `new` follows `old` as the key of `party`, signed by both."""
    statement = Rotation(
        schema_version=1, origin=origin, party=party, size=size, old=old.public.text, new=new.public.text
    )
    return seal(ROTATION_TYPE, statement.encode(), old).countersign(new)


def revoke(origin: str, party: str, size: int, key: PrivateKey, reason: str) -> Envelope:
    """The statement that nothing by `key` counts any more, signed by it."""
    statement = Revocation(
        schema_version=1, origin=origin, party=party, size=size, key=key.public.text, reason=reason
    )
    return seal(REVOCATION_TYPE, statement.encode(), key)


def read_change(envelope: Envelope) -> Rotation | Revocation:
    """What an envelope says, before anybody looked at its signatures: to find out whose keys to ask for.

    Raises:
        FormatError: it is neither a rotation nor a revocation.
    """
    kind = Revocation if envelope.payloadType == REVOCATION_TYPE else Rotation
    return kind.decode(envelope.unverified_payload)


@dataclass(frozen=True)
class KeySpan:
    """A key, and the heads for which it speaks: those of `since` to `until` entries (None: without end).

    Keys of one `chain` follow one another by rotations; a party that comes back begins another.
    """

    since: int
    key: PublicKey
    until: int | None = None
    chain: int = 0


@dataclass(frozen=True)
class KeyHistory:
    """The keys of one party of a ledger, by the size of the head.

    Attributes:
        origin: the ledger.
        party: whose keys they are.
        spans: ascending; there is a gap where a key was revoked and the party came back with another.
        statements: the rotations and revocations that led here.
    """

    origin: str
    party: str
    spans: tuple[KeySpan, ...]
    statements: tuple[Envelope, ...] = ()

    @classmethod
    def begin(cls, origin: str, party: str, first: PublicKey, *, since: int = 0) -> Self:
        """The history of a party with the key that everybody knows from the start."""
        return cls(origin, party, (KeySpan(since, first),))

    @property
    def current(self) -> PublicKey | None:
        """The key that speaks for the party now; None where it was revoked."""
        last = self.spans[-1]
        return last.key if last.until is None else None

    @property
    def retired(self) -> tuple[PublicKey, ...]:
        """The keys that were rotated away or revoked."""
        return tuple(span.key for span in self.spans if span.until is not None)

    def follow(self, statements: Iterable[tuple[int, Envelope]]) -> Self:
        """The history after these statements, each with the number of the entry that it is.

        Raises:
            FormatError, RemoteProtocolError: as `after`.
        """
        history = self
        for index, envelope in statements:
            history = history.after(index, envelope)
        return history

    def after(self, index: int, envelope: Envelope) -> Self:
        """The history after one statement, which is entry `index`.

        Raises:
            FormatError: the payload is not a statement, or its new key is not an acceptable one.
            RemoteProtocolError: it breaks a clause, `rotate §...` or `revoke §...`.
        """
        change = read_change(envelope)
        word = "revoke" if isinstance(change, Revocation) else "rotate"
        if (change.origin, change.party) != (self.origin, self.party) or change.size > index:
            _refuse(
                f"a statement by {self.party} for entry {index} of {self.origin}",
                f"one by {change.party} for entry {change.size} of {change.origin}",
                f"{word} §place",
            )
        current, named = self.current, change.old if isinstance(change, Rotation) else change.key
        if current is None or named != current.text:
            _refuse(f"the key {current.text if current else 'of nobody'}", named, f"{word} §key")
        last = self.spans[-1]
        if isinstance(change, Revocation):
            self._require_signed(envelope, REVOCATION_TYPE, current)
            spans: tuple[KeySpan, ...] = (replace(last, until=index + 1),)
        else:
            new = PublicKey.from_base64(change.new)
            if any(new == span.key for span in self.spans):
                _refuse("a key that was never used", change.new, "rotate §fresh")
            self._require_signed(envelope, ROTATION_TYPE, current, new)
            spans = (replace(last, until=index), KeySpan(index + 1, new, chain=last.chain))
        return replace(self, spans=(*self.spans[:-1], *spans), statements=(*self.statements, envelope))

    def come_back(self, key: PublicKey, *, since: int) -> Self:
        """The history of a party whose key was revoked, with one that has nothing to do with the old one."""
        return replace(self, spans=(*self.spans, KeySpan(since, key, chain=self.spans[-1].chain + 1)))

    def successor(self, key: bytes, size: int) -> PublicKey | None:
        """The key that speaks at `size` in the chain of rotations that `key` belongs to, if any does."""
        chains = {span.chain for span in self.spans if span.key.raw == key}
        return next((span.key for span in self._at(size) if span.chain in chains), None)

    def key_at(self, size: int) -> PublicKey | None:
        """The key that spoke for the party under the head of `size` entries; None if there was none."""
        return next((span.key for span in self._at(size)), None)

    def verifier_at(self, size: int) -> VerifierKey:
        """The key that must have signed the head of `size` entries, where the party is the log.

        Raises:
            VerificationError: the key was revoked before.
        """
        key = self.key_at(size)
        if key is None:
            raise VerificationError(
                f"a head of at most {self.spans[-1].until} entries, where the key was revoked",
                got=str(size),
                do="do not rely on what it signs",
                where="keys",
            )
        return VerifierKey.ed25519(self.origin, key)

    def verify(self, signed: SignedCheckpoint) -> None:
        """Check that the right key signed this head.

        Raises:
            VerificationError: it did not, or was revoked.
        """
        signed.verify(self.verifier_at(signed.checkpoint.size))

    def _at(self, size: int) -> Iterator[KeySpan]:
        for span in self.spans:
            if span.since <= size and (span.until is None or size <= span.until):
                yield span

    @staticmethod
    def _require_signed(envelope: Envelope, kind: str, *keys: PublicKey) -> None:
        try:
            envelope.open(kind, *keys)
        except VerificationError as error:
            word = "revoke" if kind == REVOCATION_TYPE else "rotate"
            _refuse(error.expected, error.got, f"{word} §signatures")


def _refuse(expected: str, got: str, clause: str) -> NoReturn:
    raise RemoteProtocolError(expected, got=got, do="the keys stay as they are", where=clause)
