"""The operator's ledger: entries in a SQLite file, one Merkle tree over them, signed heads.

The order of steps:

    append      1. entries, filled tiles and the new head are committed, and on disk before it returns
    checkpoint  2. the second place is asked whether the head signed last is a prefix of this one
                3. the head is signed, and the signed head is committed, on disk
                4. the second place is told; only then is the checkpoint given out

A size is never signed with two roots: heads are rows that cannot be changed, and what is signed is the row.
A crash anywhere leaves a store that `open` takes as it is. A ledger knows nothing of what an entry means,
and holds no clock.
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from patronage_protocol.errors import (
    FormatError,
    LocalProtocolError,
    UnavailableError,
    UsageError,
    VerificationError,
)
from patronage_protocol.keys import PrivateKey, PublicKey
from patronage_protocol.ledger import merkle
from patronage_protocol.ledger.checkpoints import Checkpoint, SignedCheckpoint
from patronage_protocol.ledger.database import Database, Row
from patronage_protocol.ledger.guard import Guard
from patronage_protocol.ledger.notes import Note, NoteSignature, VerifierKey
from patronage_protocol.ledger.schema import APPLICATION_ID, SCHEMA
from patronage_protocol.ledger.stored_tree import StoredTree
from patronage_protocol.ledger.tiles import MAX_ENTRY_BYTES, TILE_WIDTH

__all__ = ["MAX_BLOB_BYTES", "Ledger"]

MAX_BLOB_BYTES = 500_000_000
"""Half of what SQLite can hold in one value."""

_RESERVE = 1_000_000
"""Bytes of write-ahead log that are there before the first append: about 200 entries of 1 KiB."""


class Ledger:
    """A log that this process alone appends to. Use it as a context manager, or call `close`."""

    def __init__(self, database: Database, key: PrivateKey, guard: Path | None) -> None:
        """Take an open database; `create` and `open` are the doors."""
        self._database = database
        self._key = key
        self.origin = self._own_origin()
        self._keys = self._own_keys()
        self._guard = None if guard is None else Guard(guard, self.verify_own)
        self._tree = self._load_tree()
        self._signed: SignedCheckpoint | None = None
        self._ask_second_place()

    @classmethod
    def create(cls, path: Path, origin: str, key: PrivateKey, *, guard: Path | None = None) -> Self:
        """Make an empty ledger at `path`.

        Args:
            path: the SQLite file; it gets neighbours with the endings `-wal`, `-shm` and `.lock`.
            origin: the name of the log, such as "consortium.example/rounds".
            key: signs every head.
            guard: a file in a second place for the head signed last.

        Raises:
            UsageError: there is something at `path`, or in the second place.
            FormatError: the origin is not a key name.
            UnavailableError: it cannot be written.
        """
        empty = Checkpoint(origin, 0, merkle.EMPTY_ROOT)
        if guard is not None and guard.exists():
            raise UsageError(
                f"no head in the second place {guard}", got="one of another ledger", do="choose another place"
            )
        rows: dict[str, list[Row]] = {"log": [(empty.origin,)], "keys": [(0, key.public.text)]}
        database = Database.create(
            path, application_id=APPLICATION_ID, schema=SCHEMA, rows=rows, reserve=_RESERVE
        )
        return cls._take(database, key, guard)

    @classmethod
    def open(cls, path: Path, key: PrivateKey, *, guard: Path | None = None) -> Self:
        """Open the ledger at `path` and go on where it stands.

        Raises:
            UnavailableError: it is not there, cannot be read, or another process has it open.
            UsageError: it belongs to another key.
            FormatError: it is not a ledger.
            VerificationError: its content does not hash to its head, or it is older than the second place.
        """
        return cls._take(Database(path, application_id=APPLICATION_ID, reserve=_RESERVE), key, guard)

    def close(self) -> None:
        """Give the file back."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def size(self) -> int:
        """Number of entries."""
        return self._tree.size

    @property
    def root(self) -> bytes:
        """The RFC 6962 root over all entries."""
        return self._tree.root

    @property
    def verifier(self) -> VerifierKey:
        """The key that signs heads now."""
        return self._keys[-1][1]

    @property
    def checkpoint(self) -> SignedCheckpoint:
        """The latest head, signed by the log, with every cosignature stored for it.

        The head is signed when it is asked for the first time, and the signature kept.

        Raises:
            VerificationError: the store does not continue the head in the second place; nothing was signed.
            UnavailableError: the storage or the second place failed; nothing was given out.
        """
        if self._signed is None or self._signed.checkpoint.size != self.size:
            self._signed = self._sign_head()
        lines = self._database.query(
            "SELECT name, keyid, signature FROM cosignatures WHERE size = ? ORDER BY rowid", (self.size,)
        )
        note = self._signed.note.with_signatures(*(NoteSignature(*line) for line in lines))
        return SignedCheckpoint(self._signed.checkpoint, note)

    def append(self, entries: Sequence[bytes]) -> Checkpoint:
        """Append all of `entries` or none, and return the new head, which is not signed yet.

        When this returns, the entries are on disk. When it raises, open the ledger again and look at
        `size`: an entry whose acknowledgement was lost may be there.

        Raises:
            UsageError: an entry is longer than 65,535 bytes.
            UnavailableError: the storage failed, or another process has appended.
            VerificationError: the store does not continue the head in the second place; nothing was done.
        """
        self._require_room(entries)
        return self._commit(entries) if entries else Checkpoint(self.origin, self.size, self.root)

    def rotate(self, key: PrivateKey, statement: bytes) -> Checkpoint:
        """Append `statement`, and sign every later head with `key`: one transaction.

        Args:
            key: the new key; the next `open` asks for it.
            statement: the entry that tells the world, such as `rotation.rotate(...)` encoded.

        Raises:
            UsageError: the key has signed for this ledger before.
            UnavailableError, VerificationError: as `append`; nothing was changed.
        """
        verifier = VerifierKey.ed25519(self.origin, key.public)
        if any(known == verifier for _, known in self._keys):
            raise UsageError("a key that never signed here", got=key.public.text, do="make a new one")
        self._require_room([statement])
        self._signed = self._sign_head()  # what was appended under the old key is signed by it
        head = self._commit([statement], key)
        self._key = key
        self._keys = self._own_keys()
        return head

    def verify_own(self, signed: SignedCheckpoint) -> None:
        """Check that the key of this ledger at that size signed a checkpoint.

        Raises:
            VerificationError: it did not.
        """
        signed.verify([key for since, key in self._keys if since <= signed.checkpoint.size][-1])

    def entry(self, number: int) -> bytes:
        """Entry `number`, from 0.

        Raises:
            UsageError: there is none.
        """
        row = self._database.one("SELECT data FROM entries WHERE number = ?", (number,))
        if row is None:
            raise UsageError(f"an entry below {self.size}", got=str(number), do="ask for one that is there")
        return bytes(row[0])

    def entries(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Entries from `start` to before `stop`, in order."""
        stop = self.size if stop is None else min(stop, self.size)
        for first in range(start, stop, TILE_WIDTH):
            rows = self._database.query(
                "SELECT data FROM entries WHERE number >= ? AND number < ? ORDER BY number",
                (first, min(first + TILE_WIDTH, stop)),
            )
            yield from (row[0] for row in rows)

    def root_at(self, size: int) -> bytes:
        """The root of the first `size` entries.

        Raises:
            UsageError: the ledger is shorter.
        """
        self._require_size(size)
        return merkle.tree_root(size, self.node)

    def inclusion_proof(self, index: int, size: int | None = None) -> tuple[bytes, ...]:
        """The proof that entry `index` is in the tree of `size` entries, by default the latest.

        Raises:
            UsageError: there is no such entry or no such tree.
        """
        size = self.size if size is None else size
        self._require_size(size)
        return merkle.inclusion_proof(index, size, self.node)

    def consistency_proof(self, old: int, new: int | None = None) -> tuple[bytes, ...]:
        """The proof that the tree of `new` entries, by default the latest, begins with that of `old`.

        Raises:
            UsageError: the ledger is shorter, or `old` is larger than `new`.
        """
        new = self.size if new is None else new
        self._require_size(new)
        return merkle.consistency_proof(old, new, self.node)

    def node(self, level: int, index: int) -> bytes:
        """The hash of the perfect subtree of 2**level entries that begins at index * 2**level."""
        return self._tree.node(level, index)

    def add_cosignatures(self, size: int, cosignatures: Sequence[NoteSignature]) -> None:
        """Store cosignatures of the head at `size`, which the caller has verified; known ones are skipped.

        Raises:
            UsageError: no head of that size was signed.
            UnavailableError: the storage failed.
        """
        if self._database.one("SELECT 1 FROM signed_heads WHERE size = ?", (size,)) is None:
            raise UsageError(
                "the size of a signed head", got=str(size), do="cosign a checkpoint of this ledger"
            )
        rows = [(size, line.name, line.keyid, line.signature) for line in cosignatures]
        self._database.write(("INSERT INTO cosignatures VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", rows))

    def last_cosigned(self, name: str, keyid: bytes) -> int:
        """The size of the largest head of which a cosignature by this key is stored, or 0."""
        row = self._database.one(
            "SELECT max(size) FROM cosignatures WHERE name = ? AND keyid = ?", (name, keyid)
        )
        return int(row[0]) if row and row[0] is not None else 0

    def put_blob(self, data: bytes) -> str:
        """Store `data` under its SHA-256, which is returned; storing it twice is storing it once.

        Raises:
            UsageError: it is larger than MAX_BLOB_BYTES.
            UnavailableError: the storage failed.
        """
        if len(data) > MAX_BLOB_BYTES:
            raise UsageError(
                f"a blob of at most {MAX_BLOB_BYTES} bytes", got=f"{len(data)} bytes", do="split it"
            )
        digest = hashlib.sha256(data).hexdigest()
        self._database.write(("INSERT INTO blobs VALUES (?, ?) ON CONFLICT DO NOTHING", [(digest, data)]))
        return digest

    def blob(self, digest: str) -> bytes:
        """The blob with this SHA-256.

        Raises:
            UsageError: there is none.
            VerificationError: what is stored under it has another digest.
        """
        row = self._database.one("SELECT data FROM blobs WHERE digest = ?", (digest,))
        if row is None:
            raise UsageError("the digest of a stored blob", got=digest, do="store it first")
        if hashlib.sha256(row[0]).hexdigest() != digest:
            raise VerificationError(
                f"a blob with SHA-256 {digest}", got="other bytes", do="restore the store", where="ledger"
            )
        return bytes(row[0])

    def blobs(self) -> tuple[str, ...]:
        """The digests of all blobs, sorted."""
        return tuple(row[0] for row in self._database.query("SELECT digest FROM blobs ORDER BY digest"))

    @classmethod
    def _take(cls, database: Database, key: PrivateKey, guard: Path | None) -> Self:
        try:
            return cls(database, key, guard)
        except BaseException:
            database.close()
            raise

    def _own_origin(self) -> str:
        row = self._database.one("SELECT origin FROM log")
        if row is None:
            raise FormatError("a ledger with a name", got="none", do="restore it")
        return str(row[0])

    def _own_keys(self) -> tuple[tuple[int, VerifierKey], ...]:
        rows = self._database.query("SELECT since, key FROM keys ORDER BY since")
        if not rows or rows[-1][1] != self._key.public.text:
            raise UsageError(
                f"the key {rows[-1][1] if rows else ''} of this ledger",
                got=self._key.public.text,
                do="load the key that made it, or the last that it was rotated to",
            )
        return tuple(
            (since, VerifierKey.ed25519(self.origin, PublicKey.from_base64(text))) for since, text in rows
        )

    def _load_tree(self) -> StoredTree:
        size, root = self._head()
        edge: list[list[bytes]] = []
        count = size
        while count:
            first = count - count % TILE_WIDTH
            if not edge:
                rows = self._database.query(
                    "SELECT data FROM entries WHERE number >= ? ORDER BY number", (first,)
                )
                edge.append([merkle.leaf_hash(row[0]) for row in rows])
            else:
                rows = self._database.query(
                    "SELECT root FROM tiles WHERE level = ? AND number >= ? ORDER BY number",
                    (len(edge) - 1, first),
                )
                edge.append([row[0] for row in rows])
            if len(edge[-1]) != count - first:
                raise self._damaged(f"{len(edge[-1])} hashes on the edge of level {len(edge) - 1}")
            count //= TILE_WIDTH
        tree = StoredTree(size, edge, self._tile)
        if tree.root != root:
            raise self._damaged(f"entries with the root {tree.root.hex()}")
        return tree

    def _tile(self, level: int, number: int) -> tuple[bytes, bytes]:
        row = self._database.one(
            "SELECT hashes, middle FROM tiles WHERE level = ? AND number = ?", (level, number)
        )
        if row is None:
            raise self._damaged(f"no tile {number} of level {level}")
        return bytes(row[0]), bytes(row[1])

    def _head(self) -> tuple[int, bytes]:
        row = self._database.one("SELECT number, root FROM entries ORDER BY number DESC LIMIT 1")
        if row is None:
            return 0, merkle.EMPTY_ROOT
        if row[1] is None:
            raise self._damaged("no head")
        return int(row[0]) + 1, bytes(row[1])

    def _commit(self, entries: Sequence[bytes], next_key: PrivateKey | None = None) -> Checkpoint:
        self._ask_second_place()
        tree, filled = self._tree.extended(map(merkle.leaf_hash, entries))
        head = Checkpoint(self.origin, tree.size, tree.root)
        rows: list[Row] = [(number, None, entry) for number, entry in enumerate(entries, self.size)]
        rows[-1] = (head.size - 1, head.root, entries[-1])
        statements: list[tuple[str, Sequence[Row]]] = [("INSERT INTO entries VALUES (?, ?, ?)", rows)]
        if filled:
            statements.append(("INSERT INTO tiles VALUES (?, ?, ?, ?, ?)", filled))
        if next_key:
            statements.append(("INSERT INTO keys VALUES (?, ?)", [(head.size, next_key.public.text)]))
        try:
            self._database.write(*statements)
        except LocalProtocolError as error:  # our numbers do not follow on what is there
            raise UnavailableError(
                f"{self.size} entries in {self._database.path}, as when it was opened",
                got="entries by another process",
                do="find the other process, then open the ledger again",
            ) from error
        self._tree = tree
        return head

    def _sign_head(self) -> SignedCheckpoint:
        size, root = self._head()
        stored = self._database.one("SELECT note FROM signed_heads WHERE size = ?", (size,))
        self._ask_second_place()
        if stored is None:
            if self._guard is not None and self._guard.is_empty:
                # From here on a signed head without a second place is a loss, and not a start cut short.
                self._guard.record(Checkpoint(self.origin, 0, merkle.EMPTY_ROOT).sign(self._key))
            signed = Checkpoint(self.origin, size, root).sign(self._key)
            self._database.write(("INSERT INTO signed_heads VALUES (?, ?)", [(size, signed.encode())]))
        else:
            signed = SignedCheckpoint(Checkpoint(self.origin, size, root), Note.parse(stored[0]))
            self.verify_own(signed)
        if self._guard is not None:
            self._guard.record(signed)
        return signed

    def _require_room(self, entries: Sequence[bytes]) -> None:
        longest = max(map(len, entries), default=0)
        if longest > MAX_ENTRY_BYTES:
            raise UsageError(
                f"an entry of at most {MAX_ENTRY_BYTES} bytes",
                got=f"{longest} bytes",
                do="store it with put_blob and let the entry hold its digest",
            )

    def _ask_second_place(self) -> None:
        if self._guard is not None:
            signed_before = self._database.one("SELECT 1 FROM signed_heads LIMIT 1") is not None
            self._guard.check(self.size, self.root_at, expected=signed_before)

    def _require_size(self, size: int) -> None:
        if not 0 <= size <= self.size:
            raise UsageError(f"a size of at most {self.size}", got=str(size), do="ask for a tree that was")

    def _damaged(self, got: str) -> VerificationError:
        return VerificationError(
            f"entries that hash to the head of {self._database.path}",
            got=got,
            do="stop; rebuild it from the published files or a backup",
            where="ledger",
        )
