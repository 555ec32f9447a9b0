"""Publishing: the ledger as a folder of static files, which any web server can serve and anybody can copy.

    checkpoint              the latest signed head with its cosignatures
    tile/...                hashes and entries (https://c2sp.org/tlog-tiles)
    blobs/sha256/<digest>   what entries refer to by digest

Everything that a checkpoint needs is on disk before the checkpoint is renamed into its place, so a reader
never sees a head whose tiles are not there. The folder can be deleted and published again. Partial tiles of
earlier checkpoints stay until the full tile is there, as the specification asks; nothing else that lies in
the folder is touched.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from patronage_protocol import files
from patronage_protocol.errors import UnavailableError, VerificationError
from patronage_protocol.ledger.checkpoints import SignedCheckpoint
from patronage_protocol.ledger.merkle import NodeSource
from patronage_protocol.ledger.notes import MAX_NOTE_BYTES
from patronage_protocol.ledger.store import Ledger
from patronage_protocol.ledger.tiles import ENTRIES, TILE_HEIGHT, TILE_WIDTH, Tile, bundle, tiles_of_size

__all__ = ["CHECKPOINT", "blob_path", "publish"]

CHECKPOINT = "checkpoint"
BLOBS = "blobs/sha256"

_LEFTOVER = re.compile(r"\..+\.part\Z")


def publish(ledger: Ledger, folder: Path, *, blobs: Iterable[str] | None = None) -> None:
    """Bring `folder` up to the latest checkpoint of `ledger`.

    A tile or blob that is there is left alone: they never change, and are written whole.

    Args:
        ledger: the open ledger.
        folder: is made where it is missing.
        blobs: digests of the blobs to publish; by default all that the ledger holds.

    Raises:
        UsageError: a digest is not in the ledger.
        VerificationError: the checkpoint in the folder is no earlier one of this ledger; nothing was touched.
        UnavailableError: a file cannot be written; the checkpoint that was published before is still whole.
    """
    try:
        _require_continuation(ledger, folder)
        _make_folder(folder)
        _sweep(folder)
        signed = ledger.checkpoint
        for tile in tiles_of_size(signed.checkpoint.size):
            if not (folder / tile.path).exists():
                _write(folder / tile.path, _content(ledger, tile))
        for digest in ledger.blobs() if blobs is None else sorted(set(blobs)):
            if not (folder / blob_path(digest)).exists():
                _write(folder / blob_path(digest), ledger.blob(digest))
        _write(folder / CHECKPOINT, signed.encode())
        _drop_outgrown(folder, signed.checkpoint.size)
    except OSError as error:
        raise UnavailableError(
            f"a folder {folder} that can be read and written",
            got=error.strerror or str(error),
            do="see to the disk, then publish again; what was published before is still whole",
        ) from error


def blob_path(digest: str) -> str:
    """The path of a blob below the folder of the log."""
    return f"{BLOBS}/{digest}"


def _require_continuation(ledger: Ledger, folder: Path) -> None:
    # What was published is what the world has seen: never replace it by a head that forks from it.
    if not (folder / CHECKPOINT).exists():
        return
    there = SignedCheckpoint.parse(files.read_bytes(folder / CHECKPOINT, limit=MAX_NOTE_BYTES))
    ledger.verify_own(there)
    head = there.checkpoint
    if head.size > ledger.size or head.root != ledger.root_at(head.size):
        raise VerificationError(
            f"a ledger that continues the checkpoint published in {folder}",
            got=f"{ledger.size} entries, beside a checkpoint of {head.size}",
            do="stop: this store is an old backup, or not the one that published; keep both",
            where="ledger",
        )


def _content(ledger: Ledger, tile: Tile) -> bytes:
    start = tile.index * TILE_WIDTH
    if tile.level == ENTRIES:
        return bundle(ledger.entries(start, start + tile.width))
    node: NodeSource = ledger.node
    return b"".join(node(tile.level * TILE_HEIGHT, start + place) for place in range(tile.width))


def _write(path: Path, data: bytes) -> None:
    _make_folder(path.parent)
    files.write_atomic(path, data)


def _make_folder(folder: Path) -> None:
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    for place in reversed(missing):
        place.mkdir(exist_ok=True)
        files.fsync_folder(place.parent)


def _sweep(folder: Path) -> None:
    # What a killed process left half-written, by the name that `write_atomic` gives it.
    parts = [*folder.glob("*.part"), *(folder / "tile").rglob("*.part"), *(folder / BLOBS).glob("*.part")]
    for path in parts:
        if _LEFTOVER.match(path.name):
            path.unlink(missing_ok=True)


def _drop_outgrown(folder: Path, size: int) -> None:
    for partials in (folder / "tile").rglob("*.p"):
        full = Tile.parse(partials.relative_to(folder).as_posix().removesuffix(".p"))
        count = size // TILE_WIDTH ** (max(full.level, 0) + 1)
        if full.index < count and (folder / full.path).exists():
            for path in partials.iterdir():
                path.unlink()
            partials.rmdir()
