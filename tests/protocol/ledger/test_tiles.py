"""Tiles: paths with one spelling, bundles with no byte to spare, and the same tree from tiles as from
leaves.
"""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patronage_protocol.errors import FormatError, UsageError
from patronage_protocol.ledger import merkle
from patronage_protocol.ledger.stored_tree import FullTile, StoredTree
from patronage_protocol.ledger.tiles import (
    ENTRIES,
    Tile,
    bundle,
    parse_bundle,
    tiles_of_entries,
    tiles_of_size,
)

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "c2sp.json").read_text())


@pytest.mark.parametrize("case", VECTORS["tile_paths"], ids=lambda case: case["path"])
def test_the_paths_of_the_specification_are_written_and_read(case: dict[str, object]) -> None:
    tile = Tile.parse(str(case["path"]))
    assert (tile.level, tile.index, tile.width) == (case["level"], case["index"], case["width"])
    assert tile.path == case["path"]


@given(st.builds(Tile, st.integers(-1, 63), st.integers(0, 2**55), st.integers(1, 256)))
def test_every_path_is_read_back(tile: Tile) -> None:
    assert Tile.parse(tile.path) == tile


@pytest.mark.parametrize(
    "path",
    [
        "",
        "tile/0/0",
        "tile/0/000/",
        "tile/00/000",
        "tile/64/000",
        "tile/-1/000",
        "tile/0/x000/000",
        "tile/0/x001/x000",
        "tile/0/001/000",
        "tile/0/000.p/0",
        "tile/0/000.p/256",
        "tile/0/000.p/01",
        "tile/0/000.p/999",
        "tile/0/000.p",
        "tile/entries/000\n",
        "tile/0/\u0661\u0661\u0661",
        "/tile/0/000",
        "tile/0/../000",
    ],
)
def test_what_is_nearly_a_path_is_refused(path: str) -> None:
    with pytest.raises(FormatError):
        Tile.parse(path)


def test_a_log_of_seventy_thousand_entries_has_the_tiles_of_the_specification() -> None:
    tiles = list(tiles_of_size(70_000))
    widths = {level: [tile.width for tile in tiles if tile.level == level] for level in (ENTRIES, 0, 1, 2)}
    assert widths[0] == [256] * 273 + [112] == widths[ENTRIES]
    assert widths[1] == [256, 17]
    assert widths[2] == [1]
    assert len(tiles) == 2 * 274 + 2 + 1


def test_a_log_of_256_entries_has_a_full_tile_and_one_above() -> None:
    assert list(tiles_of_size(256)) == [Tile(ENTRIES, 0), Tile(0, 0), Tile(1, 0, 1)]
    assert list(tiles_of_size(0)) == []


@given(st.lists(st.binary(max_size=40), max_size=8))
def test_a_bundle_is_read_back(entries: list[bytes]) -> None:
    assert parse_bundle(bundle(entries), len(entries)) == entries


def test_a_bundle_has_exactly_its_entries() -> None:
    data = bundle([b"a", b"", b"ccc"])
    for width in (0, 2, 4):
        with pytest.raises(FormatError):
            parse_bundle(data, width)
    for end in range(len(data)):
        with pytest.raises(FormatError):
            parse_bundle(data[:end], 3)
    with pytest.raises(FormatError):
        parse_bundle(data + b"\x00", 3)
    with pytest.raises(UsageError, match="65535"):
        bundle([bytes(65_536)])


@settings(max_examples=20)
@given(st.lists(st.integers(1, 700), min_size=1, max_size=4))
def test_a_tree_that_grew_by_tiles_has_the_roots_and_nodes_of_its_leaves(steps: list[int]) -> None:
    stored: dict[tuple[int, int], FullTile] = {}
    tree = StoredTree(0, [], lambda level, number: stored[level, number][2:4])
    leaves: list[bytes] = []
    for step in steps:
        new = [merkle.leaf_hash(str(len(leaves) + k).encode()) for k in range(step)]
        leaves += new
        tree, filled = tree.extended(new)
        stored |= {(tile.level, tile.number): tile for tile in filled}
        assert (tree.size, tree.root) == (len(leaves), merkle.root_of_leaves(leaves))
    for level in range(len(leaves).bit_length()):
        for index in range(0, len(leaves) >> level, 7):
            part = leaves[index << level : (index + 1) << level]
            assert tree.node(level, index) == merkle.root_of_leaves(part)
    expected = dict(tiles_of_entries([b""] * len(leaves), leaves))
    assert set(expected) == set(tiles_of_size(len(leaves)))
    for (level, number), tile in stored.items():
        assert expected[Tile(level, number)] == tile.hashes


def test_extending_a_tree_leaves_the_old_one_as_it_was() -> None:
    tree = StoredTree(0, [], lambda level, number: (b"", b""))
    tree, _ = tree.extended([merkle.leaf_hash(b"a")])
    tree.extended([merkle.leaf_hash(b"b")])
    assert (tree.size, tree.root) == (1, merkle.leaf_hash(b"a"))
