"""The commitment to the held-out pairs: a salted Merkle root, from which single pairs can be opened.

    salt_j = HMAC-SHA256(secret, "patronage held-out salt v1" || u64be(j))
    leaf_j = RFC 8785 bytes of {pair, salt_j}      root = the tree of RFC 6962 over leaf_0, ..., leaf_{M-1}

Index j is that of the margins. A leaf that is not opened tells nothing about its pair, however few texts are
likely, because its salt is 32 unknown bytes. The operator keeps one secret instead of M salts, and an opening
reveals its own salt and no other. Whether the pairs were well chosen is not shown.

Owners' slices are sets of their own, with secrets and roots of their own; pairs are numbered through, the
operator's first, and a leaf's salt and place are those within its set.
"""

import hmac
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, TypeAlias

from pydantic import Field

from patronage_protocol.canonical import Canonical, Digest
from patronage_protocol.errors import UsageError
from patronage_protocol.held_out_terms import HeldOutTerms, SliceTerms
from patronage_protocol.ledger.merkle import (
    inclusion_proof,
    leaf_hash,
    node_hash,
    root_of_leaves,
    verify_inclusion,
)
from patronage_protocol.preferences import PreferencePair

__all__ = [
    "SECRET_BYTES",
    "HeldOutCommitment",
    "HeldOutOpening",
    "HeldOutSet",
    "HeldOutSets",
    "check_opening",
]

HeldOutCommitment: TypeAlias = HeldOutTerms
"""What the manifest says about held-out pairs is the commitment to them."""

SECRET_BYTES = 32
"""The length of a secret that is drawn; a longer one will do."""

_SALT_DOMAIN = b"patronage held-out salt v1"


class HeldOutOpening(Canonical):
    """One held-out pair, shown to be among those committed to by `proof`, an inclusion proof of RFC 6962."""

    index: Annotated[int, Field(ge=0)]
    pair: PreferencePair
    salt: Digest
    proof: Annotated[tuple[Digest, ...], Field(max_length=64)]


class HeldOutSet:
    """The operator's side: the pairs in their order, and the secret that salts them."""

    def __init__(self, pairs: tuple[PreferencePair, ...], secret: bytes) -> None:
        """Take the pairs; `secret` is of at least 32 random bytes and never leaves the operator.

        Raises:
            UsageError: no pairs, or a secret that is too short.
        """
        if not pairs:
            raise UsageError("at least one held-out pair", got="none", do="name a file with pairs")
        if len(secret) < SECRET_BYTES:
            raise UsageError(
                f"a secret of at least {SECRET_BYTES} bytes", got=f"{len(secret)} bytes", do="draw a new one"
            )
        self.pairs = pairs
        self._secret = secret

    @cached_property
    def commitment(self) -> HeldOutCommitment:
        """The Merkle root, the number of pairs and that of different prompts."""
        return HeldOutTerms(
            root=root_of_leaves(self._levels[0]).hex(),
            pairs=len(self.pairs),
            prompts=len({pair.prompt_digest for pair in self.pairs}),
        )

    def open(self, index: int) -> HeldOutOpening:
        """Reveal one pair with its salt and its place in the tree.

        Raises:
            UsageError: there is no pair of that index.
        """
        proof = inclusion_proof(index, len(self.pairs), lambda level, k: self._levels[level][k])
        return HeldOutOpening(
            index=index,
            pair=self.pairs[index],
            salt=self._salt(index),
            proof=tuple(sibling.hex() for sibling in proof),
        )

    @cached_property
    def _levels(self) -> list[list[bytes]]:
        """Hashes of the perfect subtrees, by level and index."""
        levels = [[_leaf(pair, self._salt(j)) for j, pair in enumerate(self.pairs)]]
        while len(below := levels[-1]) > 1:
            levels.append([node_hash(below[k], below[k + 1]) for k in range(0, len(below) - 1, 2)])
        return levels

    def _salt(self, index: int) -> Digest:
        return hmac.digest(self._secret, _SALT_DOMAIN + index.to_bytes(8, "big"), "sha256").hex()


class HeldOutSets:
    """All held-out pairs of a round: the operator's, and the slices of owners, sorted by name."""

    def __init__(self, own: HeldOutSet, slices: Mapping[str, HeldOutSet]) -> None:
        self._own = own
        self._slices = dict(sorted(slices.items()))

    @property
    def commitment(self) -> HeldOutCommitment:
        """To the operator's pairs."""
        return self._own.commitment

    @property
    def slices(self) -> tuple[SliceTerms, ...]:
        """The commitments to the slices."""
        return tuple(
            SliceTerms(owner=owner, **part.commitment.model_dump()) for owner, part in self._slices.items()
        )

    @property
    def pairs(self) -> tuple[PreferencePair, ...]:
        """The pairs in the order of their indices."""
        return tuple(pair for part in self._sets for pair in part.pairs)

    def open(self, index: int) -> HeldOutOpening:
        """Reveal one pair with its salt and its place in the tree of its set.

        Raises:
            UsageError: there is no pair of that index.
        """
        number, place = _place(index, [len(part.pairs) for part in self._sets])
        return self._sets[number].open(place).model_copy(update={"index": index})

    @property
    def _sets(self) -> tuple[HeldOutSet, ...]:
        return (self._own, *self._slices.values())


def check_opening(opening: HeldOutOpening, *commitments: HeldOutCommitment) -> None:
    """Check that the opened pair is the one at its index among those that were committed to.

    Args:
        opening: of a pair of any of the sets.
        commitments: to the sets, in the order in which their pairs are numbered.

    Raises:
        VerificationError: it is another pair, at another place, or in another set.
    """
    number, place = _place(opening.index, [one.pairs for one in commitments])
    commitment = commitments[number]
    verify_inclusion(
        _leaf(opening.pair, opening.salt),
        place,
        commitment.pairs,
        [bytes.fromhex(sibling) for sibling in opening.proof],
        bytes.fromhex(commitment.root),
    )


def _place(index: int, sizes: list[int]) -> tuple[int, int]:
    """The set that a pair is in, and its index there; beyond all pairs, one beyond the last set."""
    for number, size in enumerate(sizes[:-1]):
        if index < size:
            return number, index
        index -= size
    return len(sizes) - 1, index


class _Leaf(Canonical):
    pair: PreferencePair
    salt: Digest


def _leaf(pair: PreferencePair, salt: Digest) -> bytes:
    return leaf_hash(_Leaf(pair=pair, salt=salt).encode())
