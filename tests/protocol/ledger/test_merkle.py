"""The tree against the recursive definition of RFC 6962, and proofs that show what they say and nothing
else.
"""

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patronage_protocol.errors import UsageError, VerificationError
from patronage_protocol.ledger import merkle

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "rfc6962.json").read_text())
LEAVES = [merkle.leaf_hash(str(number).encode()) for number in range(70)]


def defined_root(entries: list[bytes]) -> bytes:
    """MTH of RFC 6962, section 2.1, word for word."""
    if not entries:
        return hashlib.sha256(b"").digest()
    if len(entries) == 1:
        return hashlib.sha256(b"\x00" + entries[0]).digest()
    k = 1
    while k * 2 < len(entries):
        k *= 2
    return hashlib.sha256(b"\x01" + defined_root(entries[:k]) + defined_root(entries[k:])).digest()


def node(level: int, index: int) -> bytes:
    return merkle.root_of_leaves(LEAVES[index << level : (index + 1) << level])


def test_the_known_roots_are_found_and_follow_from_the_definition() -> None:
    entries = [bytes.fromhex(leaf) for leaf in VECTORS["leaves"]]
    for size, root in enumerate(VECTORS["roots"]):
        assert merkle.root_of_leaves(map(merkle.leaf_hash, entries[:size])).hex() == root
        assert defined_root(entries[:size]).hex() == root


def test_roots_from_stored_subtrees_are_the_same() -> None:
    for size in range(len(LEAVES) + 1):
        assert merkle.tree_root(size, node) == merkle.root_of_leaves(LEAVES[:size])


def test_every_entry_of_every_tree_is_shown_to_be_in_it() -> None:
    for size in range(1, len(LEAVES) + 1):
        root = merkle.root_of_leaves(LEAVES[:size])
        for index in range(size):
            proof = merkle.inclusion_proof(index, size, node)
            merkle.verify_inclusion(LEAVES[index], index, size, proof, root)
            assert len(proof) <= (size - 1).bit_length()


def test_every_tree_is_shown_to_continue_every_earlier_one() -> None:
    roots = [merkle.root_of_leaves(LEAVES[:size]) for size in range(len(LEAVES) + 1)]
    for new in range(len(LEAVES) + 1):
        for old in range(new + 1):
            proof = merkle.consistency_proof(old, new, node)
            merkle.verify_consistency(old, roots[old], new, roots[new], proof)


@given(st.data())
def test_no_other_index_size_leaf_or_root_passes_with_an_inclusion_proof(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 40))
    index = data.draw(st.integers(0, size - 1))
    proof = list(merkle.inclusion_proof(index, size, node))
    root = merkle.root_of_leaves(LEAVES[:size])
    with pytest.raises(VerificationError):
        merkle.verify_inclusion(LEAVES[index + 1], index, size, proof, root)
    with pytest.raises(VerificationError):
        merkle.verify_inclusion(LEAVES[index], index, size, proof, LEAVES[0][::-1])
    for other in range(size):
        if other != index:
            with pytest.raises(VerificationError):
                merkle.verify_inclusion(LEAVES[index], other, size, proof, root)
    for longer in ([*proof, LEAVES[0]], [LEAVES[0], *proof]):
        with pytest.raises(VerificationError):
            merkle.verify_inclusion(LEAVES[index], index, size, longer, root)
    for gone in range(len(proof)):
        with pytest.raises(VerificationError):
            merkle.verify_inclusion(LEAVES[index], index, size, proof[:gone] + proof[gone + 1 :], root)


@given(st.integers(1, 40), st.integers(1, 40), st.data())
def test_a_changed_consistency_proof_is_refused(one: int, other: int, data: st.DataObject) -> None:
    old, new = sorted((one, other))
    old_root, new_root = (merkle.root_of_leaves(LEAVES[:size]) for size in (old, new))
    proof = list(merkle.consistency_proof(old, new, node))
    for roots in ((LEAVES[50], new_root), (old_root, LEAVES[50])):
        with pytest.raises(VerificationError):
            merkle.verify_consistency(old, roots[0], new, roots[1], proof)
    with pytest.raises(VerificationError):
        merkle.verify_consistency(old, old_root, new, new_root, [*proof, LEAVES[0]])
    if proof:
        place = data.draw(st.integers(0, len(proof) - 1))
        with pytest.raises(VerificationError):
            merkle.verify_consistency(old, old_root, new, new_root, proof[:place] + proof[place + 1 :])
        changed = [*proof[:place], LEAVES[60], *proof[place + 1 :]]
        with pytest.raises(VerificationError):
            merkle.verify_consistency(old, old_root, new, new_root, changed)


def test_a_fork_has_no_consistency_proof_of_the_usual_lengths() -> None:
    fork = [*LEAVES[:4], LEAVES[60], *LEAVES[5:9]]

    def forked(level: int, index: int) -> bytes:
        return merkle.root_of_leaves(fork[index << level : (index + 1) << level])

    proof = merkle.consistency_proof(6, 9, forked)
    with pytest.raises(VerificationError):
        merkle.verify_consistency(6, merkle.root_of_leaves(LEAVES[:6]), 9, merkle.root_of_leaves(fork), proof)


@pytest.mark.parametrize(
    ("old", "old_root", "new", "new_root"),
    [
        (0, LEAVES[0], 3, LEAVES[1]),
        (0, LEAVES[0], 0, LEAVES[0]),
        (0, merkle.EMPTY_ROOT, 0, bytes(32)),
        (0, merkle.EMPTY_ROOT, 0, b"\xff" * 32),
        (2, LEAVES[0], 2, LEAVES[1]),
        (3, LEAVES[0], 2, LEAVES[0]),
        (1, LEAVES[0], 2, LEAVES[0]),
    ],
)
def test_a_tree_without_proof_continues_only_itself_and_nothing(
    old: int, old_root: bytes, new: int, new_root: bytes
) -> None:
    with pytest.raises(VerificationError):
        merkle.verify_consistency(old, old_root, new, new_root, ())


def test_a_proof_of_what_is_not_there_cannot_be_asked_for() -> None:
    for index, size in [(-1, 3), (3, 3), (0, 0)]:
        with pytest.raises(UsageError):
            merkle.inclusion_proof(index, size, node)
        with pytest.raises(VerificationError):
            merkle.root_from_inclusion(LEAVES[0], index, size, ())
    with pytest.raises(UsageError):
        merkle.consistency_proof(4, 3, node)


@given(st.integers(0, 60), st.integers(0, 9))
def test_a_copied_frontier_grows_alone(size: int, more: int) -> None:
    frontier = merkle.Frontier(LEAVES[:size])
    twin = frontier.copy()
    for leaf in LEAVES[size : size + more]:
        twin.append(leaf)
    assert frontier.root() == merkle.root_of_leaves(LEAVES[:size])
    assert twin.root() == merkle.root_of_leaves(LEAVES[: size + more])


def test_an_index_beyond_the_tree_is_refused_with_every_proof() -> None:
    """In a tree of one, index 1 needs no hash either: only the bound keeps it out."""
    for size in range(1, 9):
        root = merkle.root_of_leaves(LEAVES[:size])
        for index in (size, size + 1, -1):
            for proof in ([], *([LEAVES[k]] * k for k in range(1, 4))):
                for leaf in LEAVES[:size]:
                    with pytest.raises(VerificationError, match=f"index {index} in a tree of {size}"):
                        merkle.verify_inclusion(leaf, index, size, proof, root)


def test_a_larger_tree_cannot_pass_for_a_smaller_one() -> None:
    """A root of two entries, said to be of one: the proof is longer than any in a tree of one."""
    for large in range(2, 20):
        root = merkle.root_of_leaves(LEAVES[:large])
        for index in range(large):
            proof = merkle.inclusion_proof(index, large, node)
            for small in range(1, large):
                for place in range(small):
                    if len(proof) > (small - 1).bit_length():
                        with pytest.raises(VerificationError, match="more hashes"):
                            merkle.verify_inclusion(LEAVES[index], place, small, proof, root)


@pytest.mark.parametrize(("old", "new"), [(0, 3), (3, 3), (4, 3), (-1, 3)])
def test_a_prefix_is_shorter_than_its_tree_and_not_empty(old: int, new: int) -> None:
    root = merkle.root_of_leaves(LEAVES[:3])
    for path in ((), (root,), (LEAVES[0],), (LEAVES[0], LEAVES[1])):
        with pytest.raises(VerificationError, match="a path in a tree that holds, got none for"):
            merkle.prefix_root(old, new, root, path)


def test_a_prefix_needs_a_path() -> None:
    with pytest.raises(VerificationError, match="none for 2 of 3 entries"):
        merkle.prefix_root(2, 3, merkle.root_of_leaves(LEAVES[:3]), ())
