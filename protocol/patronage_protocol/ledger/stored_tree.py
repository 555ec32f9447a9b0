"""A Merkle tree that grows by tiles: full tiles lie in storage, the right edge in memory.

An append touches O(log n) hashes. The hash of any perfect subtree, and so any proof, needs at most one tile
for every eight levels of the tree (three for a million entries).
"""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from patronage_protocol.ledger.merkle import HASH_BYTES, Frontier, NodeSource
from patronage_protocol.ledger.tiles import TILE_WIDTH, node_in_tile, perfect_root

__all__ = ["FullTile", "StoredTree", "nodes_of_leaves"]

CACHED_TILES = 512
KNOWN_NODES = 8192

MIDDLE_WIDTH = 16
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
        self._edge = [list(hashes) for hashes in edge]
        self._full = [size // TILE_WIDTH ** (level + 1) for level in range(len(self._edge))]
        self._fetch = lru_cache(maxsize=CACHED_TILES)(fetch)
        self._known: dict[tuple[int, int], bytes] = {}
        self._frontier = Frontier.of(size, self.node)
        self._root: bytes | None = None

    @property
    def size(self) -> int:
        """Number of entries."""
        return self._frontier.size

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
        twin._edge = [hashes.copy() for hashes in self._edge]
        twin._full = self._full.copy()
        twin._fetch, twin._known = self._fetch, self._known
        twin._frontier, twin._root = self._frontier.copy(), None
        filled: list[FullTile] = []
        for leaf in leaves:
            twin._frontier.append(leaf)
            twin._push(leaf, filled)
        return twin, filled

    def node(self, level: int, index: int) -> bytes:
        """The hash of a perfect subtree: a `merkle.NodeSource`. Once there, such a hash never changes."""
        known = self._known.get((level, index))
        if known is None:
            if len(self._known) >= KNOWN_NODES:
                self._known.clear()
            known = self._known[level, index] = self._compute(level, index)
        return known

    def _compute(self, level: int, index: int) -> bytes:
        tile_level, tile_index, first, count = node_in_tile(level, index)
        if tile_index < self._full[tile_level]:
            hashes, middle = self._fetch(tile_level, tile_index)
            if count < MIDDLE_WIDTH:
                return perfect_root(_split(hashes, first, count))
            return perfect_root(_split(middle, first // MIDDLE_WIDTH, count // MIDDLE_WIDTH))
        return perfect_root(self._edge[tile_level][first : first + count])

    def _push(self, leaf: bytes, filled: list[FullTile]) -> None:
        carried, level = leaf, 0
        while True:
            if level == len(self._edge):
                self._edge.append([])
                self._full.append(0)
            hashes = self._edge[level]
            hashes.append(carried)
            if len(hashes) < TILE_WIDTH:
                return
            middle = [
                perfect_root(hashes[at : at + MIDDLE_WIDTH]) for at in range(0, TILE_WIDTH, MIDDLE_WIDTH)
            ]
            carried = perfect_root(middle)
            filled.append(FullTile(level, self._full[level], b"".join(hashes), b"".join(middle), carried))
            self._full[level] += 1
            hashes.clear()
            level += 1


def nodes_of_leaves(leaves: Sequence[bytes]) -> NodeSource:
    """A node source over leaf hashes in memory."""
    stored: dict[tuple[int, int], FullTile] = {}

    def fetch(level: int, number: int) -> tuple[bytes, bytes]:
        tile = stored[level, number]
        return tile.hashes, tile.middle

    tree, filled = StoredTree(0, [], fetch).extended(leaves)
    stored |= {(tile.level, tile.number): tile for tile in filled}
    return tree.node


def _split(hashes: bytes, first: int, count: int) -> list[bytes]:
    return [hashes[at * HASH_BYTES : (at + 1) * HASH_BYTES] for at in range(first, first + count)]
