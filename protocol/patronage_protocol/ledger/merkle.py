"""The Merkle tree of RFC 6962: roots, inclusion proofs, consistency proofs, and their verification.

    leaf = SHA-256(00 || entry)    node = SHA-256(01 || left || right)    root of the empty tree = SHA-256("")

Proofs are made from a `NodeSource`, a function that gives the hash of any perfect subtree; where those
hashes are kept is not decided here. Verification follows RFC 9162, sections 2.1.3.2 and 2.1.4.2, which
describe the same tree.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence

from patronage_protocol.errors import UsageError, VerificationError

__all__ = [
    "EMPTY_ROOT",
    "HASH_BYTES",
    "Frontier",
    "NodeSource",
    "consistency_proof",
    "inclusion_proof",
    "leaf_hash",
    "node_hash",
    "prefix_path",
    "prefix_root",
    "root_from_inclusion",
    "root_of_leaves",
    "tree_root",
    "verify_consistency",
    "verify_inclusion",
]

HASH_BYTES = 32

EMPTY_ROOT = hashlib.sha256(b"").digest()
"""The root of the tree without entries."""

NodeSource = Callable[[int, int], bytes]
"""(level, index) to the hash of the perfect subtree of 2**level entries that begins at index * 2**level."""


def leaf_hash(entry: bytes) -> bytes:
    """The hash of one entry (RFC 6962, section 2.1)."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node (RFC 6962, section 2.1)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class Frontier:
    """The perfect subtrees on the right edge of a growing tree: enough to append and to tell the root.

    Holds one hash for every bit set in `size`, the largest subtree first. An append costs one node hash on
    average and log2(size) at most.
    """

    def __init__(self, leaves: Iterable[bytes] = ()) -> None:
        self.size = 0
        self._hashes: list[bytes] = []
        for leaf in leaves:
            self.append(leaf)

    def append(self, leaf: bytes) -> list[bytes]:
        """Add one leaf hash; return the roots of the perfect subtrees that end with it, by height."""
        risen, height = [leaf], self.size
        while height & 1:
            leaf = node_hash(self._hashes.pop(), leaf)
            risen.append(leaf)
            height >>= 1
        self._hashes.append(leaf)
        self.size += 1
        return risen

    def copy(self) -> "Frontier":
        """An independent frontier of the same tree."""
        twin = object.__new__(Frontier)
        twin.size, twin._hashes = self.size, self._hashes.copy()
        return twin

    @classmethod
    def of(cls, size: int, node: NodeSource) -> "Frontier":
        """The frontier of the first `size` entries, from stored subtrees."""
        frontier = cls()
        frontier.size = size
        for level in reversed(range(size.bit_length())):
            if size >> level & 1:
                frontier._hashes.append(node(level, (size >> level) - 1))
        return frontier

    def root(self) -> bytes:
        """The Merkle tree hash of everything appended so far."""
        if not self._hashes:
            return EMPTY_ROOT
        root = self._hashes[-1]
        for left in self._hashes[-2::-1]:
            root = node_hash(left, root)
        return root


def root_of_leaves(leaves: Iterable[bytes]) -> bytes:
    """The Merkle tree hash over these leaf hashes."""
    return Frontier(leaves).root()


def tree_root(size: int, node: NodeSource) -> bytes:
    """The root of the first `size` entries, from stored subtrees."""
    return Frontier.of(size, node).root()


def inclusion_proof(index: int, size: int, node: NodeSource) -> tuple[bytes, ...]:
    """PATH(index, D[size]) of RFC 6962, section 2.1.1: from the leaf's sibling up to the root's child.

    Raises:
        UsageError: there is no such entry in a tree of that size.
    """
    if not 0 <= index < size:
        raise UsageError(
            f"an index below the size {size}", got=str(index), do="ask for an entry of that tree"
        )
    proof: list[bytes] = []
    low, high = 0, size
    while high - low > 1:
        middle = low + _split(high - low)
        if index < middle:
            proof.append(_subtree(middle, high, node))
            high = middle
        else:
            proof.append(_subtree(low, middle, node))
            low = middle
    return tuple(reversed(proof))


def consistency_proof(old: int, new: int, node: NodeSource) -> tuple[bytes, ...]:
    """PROOF(old, D[new]) of RFC 6962, section 2.1.2; empty when `old` is 0 or `new`.

    Raises:
        UsageError: `old` is larger than `new`.
    """
    if not 0 <= old <= new:
        raise UsageError(f"an old size of at most {new}", got=str(old), do="ask in the other order")
    if old in (0, new):
        return ()
    proof: list[bytes] = []
    low, high = 0, new
    while old != high:
        middle = low + _split(high - low)
        if old <= middle:
            proof.append(_subtree(middle, high, node))
            high = middle
        else:
            proof.append(_subtree(low, middle, node))
            low = middle
    if low:
        proof.append(_subtree(low, high, node))
    return tuple(reversed(proof))


def prefix_path(old: int, new: int, node: NodeSource) -> tuple[bytes, ...]:
    """The consistency proof with its first hash always written out, for 0 < old < new.

    RFC 6962 leaves that hash out where `old` is a power of two, because it is then the old root, which the
    verifier has. A proof that a log forked needs it: there, the root signed is not the root in the tree.
    """
    proof = consistency_proof(old, new, node)
    return (tree_root(old, node), *proof) if old & (old - 1) == 0 else proof


def prefix_root(old: int, new: int, new_root: bytes, path: Sequence[bytes]) -> bytes:
    """The root of the first `old` entries, as a `prefix_path` in the tree (`new`, `new_root`) shows it.

    Raises:
        VerificationError: the path does not lead to `new_root`.
    """
    if not 0 < old < new or not path:
        raise _refused("a path in a tree", f"none for {old} of {new} entries")
    found_old, found_new = _roots_from_consistency(old, new, list(path))
    if found_new != new_root:
        raise _refused("a path in a tree", "one that leads to another root")
    return found_old


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Check that `leaf`, a leaf hash, is entry `index` of the tree with `size` entries and this `root`.

    Raises:
        VerificationError: the proof does not show that.
    """
    if root_from_inclusion(leaf, index, size, proof) != root:
        raise _refused("an inclusion proof", "one that leads to another root")


def root_from_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes]) -> bytes:
    """The root to which an inclusion proof leads (RFC 9162, section 2.1.3.2).

    Raises:
        VerificationError: the proof has not the length of such a path, or the index is not in the tree.
    """
    if not 0 <= index < size:
        raise _refused("an inclusion proof", f"index {index} in a tree of {size} entries")
    inner, last = index, size - 1
    result = leaf
    for sibling in proof:
        if last == 0:
            raise _refused("an inclusion proof", "more hashes than the path has")
        if inner & 1 or inner == last:
            result = node_hash(sibling, result)
            while not inner & 1 and inner:
                inner, last = inner >> 1, last >> 1
        else:
            result = node_hash(result, sibling)
        inner, last = inner >> 1, last >> 1
    if last:
        raise _refused("an inclusion proof", "fewer hashes than the path has")
    return result


def verify_consistency(
    old_size: int, old_root: bytes, new_size: int, new_root: bytes, proof: Sequence[bytes]
) -> None:
    """Check that the tree (`new_size`, `new_root`) begins with the tree (`old_size`, `old_root`).

    RFC 9162, section 2.1.4.2. Equal sizes need equal roots and no proof. Everything is consistent with the
    empty tree, whose root is EMPTY_ROOT.

    Raises:
        VerificationError: the proof does not show that.
    """
    if old_size > new_size:
        raise _refused("a consistency proof", f"a tree that shrank from {old_size} to {new_size}")
    if old_size in (0, new_size):
        expected = EMPTY_ROOT if old_size == 0 else new_root
        if proof or old_root != expected or (new_size == 0 and new_root != EMPTY_ROOT):
            raise _refused("a consistency proof", f"another root for the same size {old_size}")
        return
    path = [old_root, *proof] if old_size & (old_size - 1) == 0 else list(proof)
    if not path or _roots_from_consistency(old_size, new_size, path) != (old_root, new_root):
        raise _refused("a consistency proof", "one that leads to other roots")


def _roots_from_consistency(old_size: int, new_size: int, path: list[bytes]) -> tuple[bytes, bytes]:
    inner, last = old_size - 1, new_size - 1
    while inner & 1:
        inner, last = inner >> 1, last >> 1
    old = new = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise _refused("a consistency proof", "more hashes than the path has")
        if inner & 1 or inner == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while not inner & 1 and inner:
                inner, last = inner >> 1, last >> 1
        else:
            new = node_hash(new, sibling)
        inner, last = inner >> 1, last >> 1
    if last:
        raise _refused("a consistency proof", "fewer hashes than the path has")
    return old, new


def _split(width: int) -> int:
    """The largest power of two below `width`, which is at least 2."""
    return 1 << (width - 1).bit_length() - 1


def _subtree(low: int, high: int, node: NodeSource) -> bytes:
    """MTH(D[low:high]) where `low` is a multiple of every perfect subtree inside."""
    width = high - low
    if width & (width - 1) == 0:
        level = width.bit_length() - 1
        return node(level, low >> level)
    middle = low + _split(width)
    return node_hash(_subtree(low, middle, node), _subtree(middle, high, node))


def _refused(what: str, got: str) -> VerificationError:
    return VerificationError(
        f"{what} that holds", got=got, do="do not rely on this tree; keep both as evidence"
    )
