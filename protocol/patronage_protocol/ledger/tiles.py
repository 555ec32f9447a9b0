"""Tiles (https://c2sp.org/tlog-tiles): where the hashes and entries of a log lie, as paths and bytes.

    tile/<L>/<N>[.p/<W>]         hashes: W or 256 roots of perfect subtrees of 256**L entries
    tile/entries/<N>[.p/<W>]     entries: each a big-endian uint16 length and that many bytes

<N> is written in groups of three digits, all but the last with an `x` before it. Everything here is pure.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from patronage_protocol.errors import FormatError, UsageError
from patronage_protocol.ledger.merkle import node_hash

__all__ = [
    "ENTRIES",
    "MAX_ENTRY_BYTES",
    "TILE_HEIGHT",
    "TILE_WIDTH",
    "Tile",
    "bundle",
    "node_in_tile",
    "parse_bundle",
    "perfect_root",
    "tiles_of_entries",
    "tiles_of_size",
]

TILE_HEIGHT = 8
TILE_WIDTH = 256
MAX_ENTRY_BYTES = 65_535

ENTRIES = -1
"""The level of entry bundles, which have paths like those of level 0."""

_PATH = re.compile(
    r"tile/(?P<level>entries|0|[1-9][0-9]?)/(?P<index>(?:x[0-9]{3}/)*[0-9]{3})"
    r"(?:\.p/(?P<width>[1-9][0-9]{0,2}))?\Z",
    re.ASCII,
)


@dataclass(frozen=True, order=True)
class Tile:
    """The name of a tile or of an entry bundle.

    Attributes:
        level: 0 to 63, or ENTRIES.
        index: position among the tiles of this level.
        width: number of hashes or entries in it, 1 to 256; a narrower one is partial.
    """

    level: int
    index: int
    width: int = TILE_WIDTH

    @property
    def path(self) -> str:
        """The path below the folder of the log."""
        groups = [f"{self.index % 1000:03d}"]
        rest = self.index // 1000
        while rest:
            groups.append(f"x{rest % 1000:03d}")
            rest //= 1000
        level = "entries" if self.level == ENTRIES else str(self.level)
        partial = "" if self.width == TILE_WIDTH else f".p/{self.width}"
        return f"tile/{level}/{'/'.join(reversed(groups))}{partial}"

    @classmethod
    def parse(cls, path: str) -> Self:
        """Read a path, which must be exactly what `path` writes.

        Raises:
            FormatError: it is not the path of a tile.
        """
        match = _PATH.match(path)
        if match:
            level = ENTRIES if match["level"] == "entries" else int(match["level"])
            index = int(match["index"].replace("x", "").replace("/", ""))
            tile = cls(level, index, int(match["width"] or TILE_WIDTH))
            if tile.path == path and level <= 63 and tile.width <= TILE_WIDTH:
                return tile
        raise FormatError("the path of a tile", got=repr(path[:80]), do="refuse the file")


def tiles_of_size(size: int) -> Iterator[Tile]:
    """Every tile and bundle that a log of `size` entries needs: the full ones, and one partial per level."""
    yield from _tiles_of_level(ENTRIES, size)
    level, count = 0, size
    while count:
        yield from _tiles_of_level(level, count)
        level, count = level + 1, count // TILE_WIDTH


def tiles_of_entries(entries: Sequence[bytes], leaves: Sequence[bytes]) -> Iterator[tuple[Tile, bytes]]:
    """The same tiles with their bytes, from all entries and their leaf hashes."""
    for tile in _tiles_of_level(ENTRIES, len(entries)):
        start = tile.index * TILE_WIDTH
        yield tile, bundle(entries[start : start + tile.width])
    level, hashes = 0, list(leaves)
    while hashes:
        above: list[bytes] = []
        for tile in _tiles_of_level(level, len(hashes)):
            start = tile.index * TILE_WIDTH
            content = hashes[start : start + tile.width]
            if tile.width == TILE_WIDTH:
                above.append(perfect_root(content))
            yield tile, b"".join(content)
        level, hashes = level + 1, above


def bundle(entries: Iterable[bytes]) -> bytes:
    """Entries as they lie in a bundle.

    Raises:
        UsageError: one is longer than 65,535 bytes.
    """
    parts: list[bytes] = []
    for entry in entries:
        if len(entry) > MAX_ENTRY_BYTES:
            raise UsageError(
                f"an entry of at most {MAX_ENTRY_BYTES} bytes",
                got=f"{len(entry)} bytes",
                do="store it as a blob and let the entry hold its digest",
            )
        parts += (len(entry).to_bytes(2, "big"), entry)
    return b"".join(parts)


def parse_bundle(data: bytes, width: int) -> list[bytes]:
    """The `width` entries of a bundle.

    Raises:
        FormatError: the bytes hold fewer, or more.
    """
    entries: list[bytes] = []
    place = 0
    while place < len(data) and len(entries) < width:
        end = place + 2 + int.from_bytes(data[place : place + 2], "big")
        if place + 2 > len(data) or end > len(data):
            break
        entries.append(data[place + 2 : end])
        place = end
    if place != len(data) or len(entries) != width:
        raise FormatError(
            f"a bundle of exactly {width} entries",
            got=f"{len(entries)} entries and {len(data) - place} further bytes",
            do="refuse it; get the log again",
        )
    return entries


def node_in_tile(level: int, index: int) -> tuple[int, int, int, int]:
    """Where a perfect subtree of 2**level entries is: tile level, tile index, first hash, hash count."""
    tile_level, height = divmod(level, TILE_HEIGHT)
    tile_index, first = divmod(index << height, TILE_WIDTH)
    return tile_level, tile_index, first, 1 << height


def perfect_root(hashes: Sequence[bytes]) -> bytes:
    """The root over 2**k subtree roots of one level."""
    while len(hashes) > 1:
        hashes = [node_hash(hashes[i], hashes[i + 1]) for i in range(0, len(hashes), 2)]
    return hashes[0]


def _tiles_of_level(level: int, count: int) -> Iterator[Tile]:
    full, rest = divmod(count, TILE_WIDTH)
    for index in range(full):
        yield Tile(level, index)
    if rest:
        yield Tile(level, full, rest)
