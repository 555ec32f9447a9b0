"""Look at the ledger while another process writes it: what has happened, and whether anybody is driving."""

import sqlite3
from pathlib import Path

from patronage_protocol.entries import (
    Aborted,
    Accepted,
    AnyEntry,
    Closed,
    Committed,
    Declined,
    Evaluated,
    Finished,
    Forfeited,
    Judged,
    KeyRevoked,
    KeyRotated,
    Opened,
    OwnerStatement,
    Paid,
    Questioned,
    Refunded,
    Revealed,
    Shown,
    Valued,
    Witnessed,
    decode_entry,
)
from patronage_protocol.ledger.checkpoints import SignedCheckpoint
from patronage_protocol.ledger.database import Database
from patronage_protocol.ledger.notes import NoteSignature
from patronage_protocol.ledger.schema import APPLICATION_ID
from patronage_protocol.rounds import Phase, Round, follow
from patronage_protocol.witnessing import has_quorum

__all__ = ["end_is_cosigned", "entries_since", "is_driven", "last_round", "line_of", "signing_key"]

WORDS: dict[type[AnyEntry], str] = {
    Opened: "terms published",
    Accepted: "accepted the terms",
    Declined: "declined",
    Committed: "trained and committed",
    Closed: "commitments closed",
    Revealed: "revealed its adapter",
    Evaluated: "coalitions scored on the held-out pairs",
    Valued: "shares computed",
    Witnessed: "a quorum of owners cosigned the ledger",
    Questioned: "said which held-out pairs it wants opened",
    Shown: "a held-out pair opened",
    Finished: "round final",
    KeyRotated: "has a new key",
    KeyRevoked: "revoked its key",
}
ABORTED = {
    "players": "aborted: too few adapters",
    "witnesses": "aborted: too few witnesses cosigned",
    "rewards": "aborted: a reward cannot score the answers",
}


def entries_since(ledger: Path, number: int) -> tuple[AnyEntry, ...]:
    """The entries from `number` on; none while there is no ledger.

    Raises:
        UnavailableError, FormatError: the file cannot be read, or is no ledger.
    """
    if not ledger.exists():
        return ()
    database = Database(ledger, application_id=APPLICATION_ID, read_only=True)
    try:
        rows = database.query("SELECT data FROM entries WHERE number >= ? ORDER BY number", (number,))
    finally:
        database.close()
    return tuple(decode_entry(row[0]) for row in rows)


def last_round(ledger: Path) -> Round | None:
    """Where the last round stands; None without a ledger or before its first entry.

    Raises:
        PatronageError: the file cannot be read, or its entries break the rules.
    """
    if not ledger.exists():
        return None
    database = Database(ledger, application_id=APPLICATION_ID, read_only=True)
    try:
        with database.snapshot():
            rows = database.query("SELECT data FROM entries ORDER BY number")
            blobs: dict[str, bytes] = dict(database.query("SELECT digest, data FROM blobs"))
    finally:
        database.close()
    rounds: tuple[Round, ...] = ()
    for row in rows:
        rounds = follow(rounds, decode_entry(row[0]), blobs.__getitem__)
    return rounds[-1] if rounds else None


def end_is_cosigned(ledger: Path, state: Round) -> bool:
    """Whether the head at the end of the last round stands under the quorum that it asks for.

    Raises:
        PatronageError: the file cannot be read.
    """
    if state.phase is not Phase.FINAL or not state.awaits_witnesses:
        return state.phase is Phase.FINAL
    database = Database(ledger, application_id=APPLICATION_ID, read_only=True)
    size = state.tree.size
    try:
        with database.snapshot():
            notes = database.query("SELECT note FROM signed_heads WHERE size = ?", (size,))
            rows = database.query("SELECT name, keyid, signature FROM cosignatures WHERE size = ?", (size,))
    finally:
        database.close()
    if not notes:
        return False
    signed = SignedCheckpoint.parse(notes[0][0])
    note = signed.note.with_signatures(*(NoteSignature(*row) for row in rows))
    return has_quorum(SignedCheckpoint(signed.checkpoint, note), state.manifest)


def is_driven(ledger: Path) -> bool:
    """Whether some process has the ledger open for writing. Looks for an instant, and takes nothing."""
    lock = ledger.with_name(f"{ledger.name}.lock")
    if not lock.exists():
        return False
    connection = sqlite3.connect(f"{lock.absolute().as_uri()}?mode=ro", uri=True, timeout=0)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:
        return True
    finally:
        connection.close()
    return False


def signing_key(ledger: Path) -> str:
    """The public key that signs the heads of a ledger now, base64.

    Raises:
        UnavailableError, FormatError: the file cannot be read, or is no ledger.
    """
    database = Database(ledger, application_id=APPLICATION_ID, read_only=True)
    try:
        row = database.one("SELECT key FROM keys ORDER BY since DESC LIMIT 1")
    finally:
        database.close()
    return str(row[0]) if row else ""


def line_of(entry: AnyEntry) -> str:
    """What an entry says, for a person."""
    if isinstance(entry, OwnerStatement | KeyRotated | KeyRevoked):
        who = entry.owner if isinstance(entry, OwnerStatement) else entry.party
        return f"{who} {WORDS[type(entry)]}"
    if isinstance(entry, Judged):
        return f"{entry.owner} {'admitted' if entry.accepted else 'rejected: ' + entry.reason}"
    if isinstance(entry, Forfeited):
        return f"{entry.owner} forfeited: {entry.reason}"
    if isinstance(entry, Paid):
        return f"{entry.owner} is paid {entry.amount} minor units: {entry.reason}"
    if isinstance(entry, Refunded):
        return f"{entry.amount} minor units are refunded: {entry.reason}"
    return ABORTED[entry.reason] if isinstance(entry, Aborted) else WORDS[type(entry)]
