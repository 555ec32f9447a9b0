"""Changes of keys as an operator makes them: its own rotation and revocation, and those that owners hand in.

Each is an entry between two rounds; the state machine decides whether it may be. A rotation that a crash cut
short is finished by the next command that opens the folder.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from patronage_protocol.entries import KeyRevoked, KeyRotated
from patronage_protocol.errors import UsageError
from patronage_protocol.joining import read_envelope, write_envelope
from patronage_protocol.keys import PublicKey
from patronage_protocol.ledger.rotation import REVOCATION_FILE, Rotation, read_change, revoke, rotate
from patronage_server.book import Book
from patronage_server.home import OperatorHome

__all__ = ["record_change", "revoke_key", "rotate_key"]


def rotate_key(home: OperatorHome, *, now: int) -> tuple[PublicKey, Path]:
    """Give the operator a new key, encrypted as the old one is; it signs every head from here on.

    Returns:
        The new public key, and where the old private key lies.

    Raises:
        UsageError: there is no ledger yet.
        RemoteProtocolError: the round is not over, or no quorum has cosigned its end.
        UnavailableError: a file cannot be written; doing it again goes on.
    """
    with _book(home, now) as (book, time):
        name, size = book.state.keys.operator, book.ledger.size
        new = home.key_file.make_next()
        statement = rotate(book.ledger.origin, name, size, home.key, new)
        entry = KeyRotated(time=time, party=name, statement=statement)
        book.rotate(entry, new)
    return new.public, home.key_file.promote(home.key)


def revoke_key(home: OperatorHome, reason: str, *, now: int) -> Path:
    """End the ledger: the operator's key counts no more. Returns the statement, for owners to heed.

    Raises:
        UsageError, RemoteProtocolError, UnavailableError: as `rotate_key`.
    """
    with _book(home, now) as (book, time):
        name = book.state.keys.operator
        statement = revoke(book.ledger.origin, name, book.ledger.size, home.key, reason)
        book.record(KeyRevoked(time=time, party=name, statement=statement))
        write_envelope(home.path / REVOCATION_FILE, statement)
    return home.path / REVOCATION_FILE


def record_change(home: OperatorHome, path: Path, *, now: int) -> KeyRotated | KeyRevoked:
    """Record the rotation or revocation that an owner handed in; who revoked its key is registered no more.

    Raises:
        DataError, FormatError: the file holds no such statement.
        UsageError: it is the operator's own, or there is no ledger yet.
        RemoteProtocolError: it breaks a clause; or the round is not over.
    """
    statement = read_envelope(path)
    change = read_change(statement)
    kind = KeyRotated if isinstance(change, Rotation) else KeyRevoked
    with _book(home, now) as (book, time):
        if change.party == book.state.keys.operator:
            raise UsageError(
                "the statement of an owner",
                got="the operator's own",
                do="see: patronage operator rotate-key, revoke-key",
            )
        entry = kind(time=time, party=change.party, statement=statement)
        book.record(entry)
    registration = home.path / "owners" / f"{change.party}.json"
    if kind is KeyRevoked and registration.exists():
        registration.rename(registration.with_suffix(".revoked"))
    return entry


@contextmanager
def _book(home: OperatorHome, now: int) -> Iterator[tuple[Book, int]]:
    """The book after the cosigned end of the last round, and a time that is not before it."""
    if not home.store.exists():
        raise UsageError(
            "a ledger with a round",
            got="none",
            do="nothing was signed yet: found the consortium anew with patronage operator init",
        )
    with home.open_ledger(home.manifest().origin) as ledger:
        book = Book(ledger, home.published)
        time = max(now, book.state.time)
        book.record_end(time)
        yield book, time
