"""Reading a published ledger, strictly: every byte of every file is accounted for.

From the entries alone, the leaf hashes, every tile and the root are computed again and compared with what
lies there. A file that the checkpoint does not call for is refused, and so is one that is missing; blobs
must match their names. Partial tiles of an earlier checkpoint may lie there, and must be the beginning of
the tile that took their place.

Not decided here: whose signature the checkpoint should bear (`authenticate` takes the key), and what
entries mean.
"""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from patronage_protocol import files
from patronage_protocol.errors import FormatError, UnavailableError, UsageError, VerificationError
from patronage_protocol.ledger import merkle
from patronage_protocol.ledger.checkpoints import SignedCheckpoint
from patronage_protocol.ledger.notes import MAX_NOTE_BYTES, VerifierKey
from patronage_protocol.ledger.publish import BLOBS, CHECKPOINT
from patronage_protocol.ledger.store import MAX_BLOB_BYTES
from patronage_protocol.ledger.tiles import (
    ENTRIES,
    MAX_ENTRY_BYTES,
    TILE_WIDTH,
    Tile,
    parse_bundle,
    tiles_of_entries,
    tiles_of_size,
)

__all__ = ["BlobFolder", "PublishedLedger", "read_published"]

_MAX_TILE_BYTES = TILE_WIDTH * (MAX_ENTRY_BYTES + 2)
_DIGEST = re.compile(r"[0-9a-f]{64}\Z", re.ASCII)


class BlobFolder(Mapping[str, bytes]):
    """Blobs by digest, read when they are asked for and checked each time."""

    def __init__(self, folder: Path, digests: frozenset[str]) -> None:
        self._folder = folder
        self._digests = digests

    def __getitem__(self, digest: str) -> bytes:
        if digest not in self._digests:
            raise KeyError(digest)
        path = self._folder / digest
        data = files.read_bytes(path, limit=MAX_BLOB_BYTES)
        if hashlib.sha256(data).hexdigest() != digest:
            raise _refused(f"bytes with SHA-256 {digest}", "other bytes", path)
        return data

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._digests))

    def __len__(self) -> int:
        return len(self._digests)


@dataclass(frozen=True)
class PublishedLedger:
    """What a published folder holds, after its files were checked against each other.

    Attributes:
        entries: every entry, in order.
        signed: the checkpoint whose root was recomputed from them.
        blobs: by digest; hashed once already. Whether an entry refers to them is not looked at here.
    """

    entries: tuple[bytes, ...]
    signed: SignedCheckpoint
    blobs: BlobFolder

    def authenticate(self, key: VerifierKey) -> None:
        """Check that the log with this key signed the checkpoint.

        Raises:
            VerificationError: it did not.
        """
        self.signed.verify(key)


def read_published(folder: Path) -> PublishedLedger:
    """Read and check a published folder.

    The checkpoint is read first, then the files are listed, then all are read. No signature is verified.

    Raises:
        UnavailableError: a file cannot be read.
        FormatError: a file does not parse.
        VerificationError: a file is missing or superfluous, or does not follow from the entries.
    """
    signed = SignedCheckpoint.parse(_read(folder / CHECKPOINT, MAX_NOTE_BYTES))
    try:
        tiles, digests = _listing(folder)
    except OSError as error:
        raise UnavailableError(
            f"a readable folder {folder}", got=error.strerror or str(error), do="check the disk"
        ) from error
    size = signed.checkpoint.size
    needed = set(tiles_of_size(size))
    _require_all(folder, needed, tiles)
    entries = tuple(_entries(folder, needed))
    leaves = [merkle.leaf_hash(entry) for entry in entries]
    root = merkle.root_of_leaves(leaves)
    if root != signed.checkpoint.root:
        raise _refused(
            f"entries with the root {signed.checkpoint.root.hex()}", root.hex(), folder / CHECKPOINT
        )
    _check_tiles(folder, dict(tiles_of_entries(entries, leaves)), tiles)
    for digest in digests:
        _check_blob(folder / BLOBS / digest, digest)
    return PublishedLedger(entries, signed, BlobFolder(folder / BLOBS, frozenset(digests)))


def _listing(folder: Path) -> tuple[set[Tile], set[str]]:
    tiles: set[Tile] = set()
    digests: set[str] = set()
    for name in _regular_files(folder):
        place, _, last = name.rpartition("/")
        if place == BLOBS and _DIGEST.match(last):
            digests.add(last)
        elif name.startswith("tile/"):
            tiles.add(Tile.parse(name))
        elif name != CHECKPOINT:
            raise _refused("the files of a ledger alone", "another file", folder / name)
    return tiles, digests


def _regular_files(folder: Path, below: str = "") -> Iterator[str]:
    """The names of all files, with slashes; what is neither a file nor a folder is refused."""
    with os.scandir(folder / below) as found:
        for item in found:
            name = below + item.name
            if item.is_dir(follow_symlinks=False):
                yield from _regular_files(folder, f"{name}/")
            elif item.is_file(follow_symlinks=False):
                yield name
            else:
                raise _refused("plain files and folders", "a link or a special file", folder / name)


def _require_all(folder: Path, needed: set[Tile], found: set[Tile]) -> None:
    missing = sorted(needed - found)
    if missing:
        raise _refused("every tile of the checkpoint", "no such file", folder / missing[0].path)
    full = {(tile.level, tile.index): tile.width for tile in needed}
    for tile in sorted(found - needed):
        if tile.width >= full.get((tile.level, tile.index), 0):
            raise VerificationError(
                "only files that the checkpoint calls for",
                got="a tile beyond it",
                do="if a publication is under way or broke off, publish again; else refuse the folder",
                where=str(folder / tile.path),
            )


def _entries(folder: Path, needed: set[Tile]) -> Iterator[bytes]:
    for tile in sorted(tile for tile in needed if tile.level == ENTRIES):
        path = folder / tile.path
        try:
            yield from parse_bundle(_read(path, _MAX_TILE_BYTES), tile.width)
        except FormatError as error:
            raise FormatError(error.expected, got=error.got, do=error.do, where=str(path)) from error


def _check_tiles(folder: Path, expected: dict[Tile, bytes], found: set[Tile]) -> None:
    contents = {(tile.level, tile.index): content for tile, content in expected.items()}
    for tile in sorted(found):
        content = expected.get(tile)
        if content is None:
            content = _beginning(contents[tile.level, tile.index], tile)
        if _read(folder / tile.path, _MAX_TILE_BYTES) != content:
            raise _refused("the bytes that follow from the entries", "other bytes", folder / tile.path)


def _beginning(content: bytes, tile: Tile) -> bytes:
    """The first `tile.width` hashes or entries of a wider tile."""
    if tile.level != ENTRIES:
        return content[: tile.width * merkle.HASH_BYTES]
    end = 0
    for _ in range(tile.width):
        end += 2 + int.from_bytes(content[end : end + 2], "big")
    return content[:end]


def _check_blob(path: Path, digest: str) -> None:
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UnavailableError(
            f"a readable file {path}", got=error.strerror or str(error), do="check the path"
        ) from error
    if found != digest:
        raise _refused(f"bytes with SHA-256 {digest}", f"bytes with {found}", path)


def _read(path: Path, limit: int) -> bytes:
    try:
        return files.read_bytes(path, limit=limit)
    except UsageError as error:
        raise _refused(error.expected, error.got, path) from error


def _refused(expected: str, got: str, path: Path) -> VerificationError:
    return VerificationError(expected, got=got, do="get the ledger again, or refuse it", where=str(path))
