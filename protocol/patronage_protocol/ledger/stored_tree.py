"""A Merkle tree that grows by tiles: full tiles lie in storage, the right edge in memory.

An append touches O(log n) hashes. The hash of any perfect subtree, and so any proof, needs at most one tile
for every eight levels of the tree (three for a million entries).
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from patronage_protocol.ledger.merkle import HASH_BYTES, Frontier, NodeSource
from patronage_protocol.ledger.tiles import TILE_HEIGHT, node_in_tile, perfect_root

__all__ = ["FullTile", "StoredTree", "nodes_of_leaves"]

CACHED_TILES = 512
KNOWN_NODES = 1024

MIDDLE_HEIGHT = 4
MIDDLE_WIDTH = 1 << MIDDLE_HEIGHT
"""Hashes under one hash of `middle`: with those, a node costs at most 7 hashes instead of 127."""


class FullTile(NamedTuple):
    """A full tile: its place, its 256 hashes, the 16 roots over 16 of them each, and the root over all."""

    level: int
    number: int
    hashes: bytes
    middle: bytes
    root: bytes


class StoredTree:
    """The tree over `size` entries.

    `edge[l]` holds the hashes of the partial tile of level l; `fetch(level, number)` gives `hashes` and
    `middle` of a full one.
    """

    def __init__(
        self, size: int, edge: Sequence[Sequence[bytes]], fetch: Callable[[int, int], tuple[bytes, bytes]]
    ) -> None:
        # Two rows for each level: the hashes of its partial tile, and the roots over 16 of them each.
        # Trees that grew from each other share all rows but the first: those are replaced, never changed.
        self._rows = [row for hashes in edge or [[]] for row in (list(hashes), _middle(hashes))]
        self._fetch = lru_cache(maxsize=CACHED_TILES)(fetch)
        self._known: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._size = size  # asked for nodes while the frontier is made
        self._frontier = Frontier.of(size, self.node)
        self._root: bytes | None = None

    @property
    def size(self) -> int:
        """Number of entries."""
        return self._size

    @property
    def root(self) -> bytes:
        """The RFC 6962 root."""
        if self._root is None:
            self._root = self._frontier.root()
        return self._root

    def extended(self, leaves: Iterable[bytes]) -> tuple["StoredTree", list[FullTile]]:
        """The tree with further leaf hashes, and the tiles that became full. This one stays as it is.

        The new tree may be asked for nodes only once those tiles can be fetched.
        """
        twin = object.__new__(StoredTree)
        twin._rows = [self._rows[0].copy(), *self._rows[1:]]
        twin._fetch, twin._known = self._fetch, self._known
        twin._frontier, twin._root = self._frontier.copy(), None
        filled: list[FullTile] = []
        for leaf in leaves:
            risen = twin._frontier.append(leaf)
            twin._rows[0].append(leaf)
            if len(risen) > MIDDLE_HEIGHT:
                twin._rise(risen[MIDDLE_HEIGHT::MIDDLE_HEIGHT], filled)
        twin._size = twin._frontier.size
        return twin, filled

    def node(self, level: int, index: int) -> bytes:
        """The hash of a perfect subtree: a `merkle.NodeSource`. Once there, such a hash never changes."""
        known = self._known.get((level, index))
        if known is None:
            if len(self._known) >= KNOWN_NODES:
                self._known.popitem(last=False)
            known = self._known[level, index] = self._compute(level, index)
        return known

    def _compute(self, level: int, index: int) -> bytes:
        tile_level, tile_index, first, count = node_in_tile(level, index)
        if tile_index < self._size >> TILE_HEIGHT * (tile_level + 1):
            hashes, middle = self._fetch(tile_level, tile_index)
            if count < MIDDLE_WIDTH:
                return perfect_root(_split(hashes, first, count))
            return perfect_root(_split(middle, first // MIDDLE_WIDTH, count // MIDDLE_WIDTH))
        row = self._rows[2 * tile_level]
        if count >= MIDDLE_WIDTH:
            row, first, count = self._rows[2 * tile_level + 1], first // MIDDLE_WIDTH, count // MIDDLE_WIDTH
        return perfect_root(row[first : first + count])

    def _rise(self, roots: list[bytes], filled: list[FullTile]) -> None:
        """Take the roots of perfect subtrees of 16, 256, ... entries that end here; put away full tiles."""
        for row, root in enumerate(roots, 1):
            level, half = divmod(row, 2)
            if not half:
                hashes, middle = self._rows[row - 2 : row]
                number = (self._frontier.size >> TILE_HEIGHT * level) - 1
                filled.append(FullTile(level - 1, number, b"".join(hashes), b"".join(middle), root))
                self._rows[row - 2 : row] = [[], []]
            if row == len(self._rows):
                self._rows += [[], []]
            self._rows[row] = [*self._rows[row], root]


def nodes_of_leaves(leaves: Sequence[bytes]) -> NodeSource:
    """A node source over leaf hashes in memory."""
    stored: dict[tuple[int, int], FullTile] = {}

    def fetch(level: int, number: int) -> tuple[bytes, bytes]:
        tile = stored[level, number]
        return tile.hashes, tile.middle

    tree, filled = StoredTree(0, [], fetch).extended(leaves)
    stored |= {(tile.level, tile.number): tile for tile in filled}
    return tree.node


def _middle(hashes: Sequence[bytes]) -> list[bytes]:
    """The roots over each whole group of MIDDLE_WIDTH hashes."""
    groups = (hashes[at : at + MIDDLE_WIDTH] for at in range(0, len(hashes), MIDDLE_WIDTH))
    return [perfect_root(group) for group in groups if len(group) == MIDDLE_WIDTH]


def _split(hashes: bytes, first: int, count: int) -> list[bytes]:
    return [hashes[at * HASH_BYTES : (at + 1) * HASH_BYTES] for at in range(first, first + count)]
