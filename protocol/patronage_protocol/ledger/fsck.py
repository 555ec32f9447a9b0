"""`fsck` for the operator's own store: everything is recomputed from the rows, and nothing is changed.

Opening a ledger checks its edge, in time logarithmic in its size. This reads every row: SQLite's own
structure, the numbering of entries, every tile, the root of every head, every signature, every blob.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from patronage_protocol.errors import PatronageError
from patronage_protocol.keys import PublicKey
from patronage_protocol.ledger import merkle
from patronage_protocol.ledger.checkpoints import SignedCheckpoint
from patronage_protocol.ledger.database import Database
from patronage_protocol.ledger.notes import VerifierKey
from patronage_protocol.ledger.schema import APPLICATION_ID
from patronage_protocol.ledger.stored_tree import StoredTree

__all__ = ["FsckReport", "fsck"]


@dataclass(frozen=True)
class FsckReport:
    """What was counted and what was found wrong; `problems` is empty for a sound store."""

    entries: int
    heads: int
    signed_heads: int
    blobs: int
    problems: tuple[str, ...]


def fsck(path: Path) -> FsckReport:
    """Read the store of a ledger from end to end. It may be open elsewhere; what is read is one moment of it.

    Raises:
        UnavailableError: it cannot be read at all.
        FormatError: it is not a ledger.
    """
    database = Database(path, application_id=APPLICATION_ID, read_only=True)
    try:
        with database.snapshot():
            entries = [bytes(row[0]) for row in database.query("SELECT data FROM entries ORDER BY number")]
            leaves = [merkle.leaf_hash(entry) for entry in entries]
            problems = [
                *_structure(database, len(entries)),
                *_tiles(database, leaves),
                *_heads(database, leaves),
                *_signatures(database),
                *_blobs(database),
            ]
            counts = [_count(database, table) for table in ("heads", "signed_heads", "blobs")]
    finally:
        database.close()
    return FsckReport(len(entries), counts[0], counts[1], counts[2], tuple(problems))


def _structure(database: Database, count: int) -> Iterator[str]:
    for row in database.query("PRAGMA integrity_check"):
        if row[0] != "ok":
            yield f"SQLite: {row[0]}"
    for row in database.query("PRAGMA foreign_key_check"):
        yield f"{row[0]}: row {row[1]} refers to nothing"
    if database.one("SELECT min(number), max(number) FROM entries") not in ((0, count - 1), (None, None)):
        yield "entries: the numbers are not 0, 1, 2, ..."


def _tiles(database: Database, leaves: list[bytes]) -> Iterator[str]:
    def fetch(level: int, number: int) -> tuple[bytes, bytes]:
        raise AssertionError((level, number))  # growing from nothing reads no tile

    _, filled = StoredTree(0, [], fetch).extended(leaves)
    expected = {(tile.level, tile.number): tuple(tile[2:]) for tile in filled}
    rows = database.query("SELECT level, number, hashes, middle, root FROM tiles")
    stored = {(row[0], row[1]): row[2:] for row in rows}
    for place in sorted(expected.keys() | stored.keys()):
        if stored.get(place) != expected.get(place):
            yield f"tiles: tile {place[1]} of level {place[0]} does not follow from the entries"


def _heads(database: Database, leaves: list[bytes]) -> Iterator[str]:
    frontier, last = merkle.Frontier(), 0
    for size, root in database.query("SELECT size, root FROM heads ORDER BY size"):
        for leaf in leaves[frontier.size : size]:
            frontier.append(leaf)
        last = size
        if (frontier.size, frontier.root()) != (size, root):
            yield f"heads: the head of {size} entries does not follow from the entries"
    if last != len(leaves):
        yield f"heads: {len(leaves)} entries, but the last head has {last}"


def _signatures(database: Database) -> Iterator[str]:
    log = database.one("SELECT origin FROM log")
    keys = database.query("SELECT since, key FROM keys ORDER BY since")
    if log is None or not keys or keys[0][0] != 0:
        yield "log, keys: no origin, or no key from the start"
        return
    roots: dict[int, bytes] = {0: merkle.EMPTY_ROOT, **dict(database.query("SELECT size, root FROM heads"))}
    for size, note in database.query("SELECT size, note FROM signed_heads ORDER BY size"):
        try:
            signed = SignedCheckpoint.parse(note)
            key = [key for since, key in keys if since <= size][-1]
            signed.verify(VerifierKey.ed25519(log[0], PublicKey.from_base64(key)))
        except PatronageError as error:
            yield f"signed_heads: {size}: {error}"
            continue
        if (signed.checkpoint.size, signed.checkpoint.root) != (size, roots.get(size)):
            yield f"signed_heads: the note at {size} signs another head"


def _blobs(database: Database) -> Iterator[str]:
    for (digest,) in database.query("SELECT digest FROM blobs ORDER BY digest"):
        row = database.one("SELECT data FROM blobs WHERE digest = ?", (digest,))
        if row is None or hashlib.sha256(row[0]).hexdigest() != digest:
            yield f"blobs: {digest} holds other bytes"


def _count(database: Database, table: str) -> int:
    return int(database.query(f"SELECT count(*) FROM {table}")[0][0])  # noqa: S608 - a name from above
