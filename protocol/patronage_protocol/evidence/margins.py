r"""The margins as published: the one file from which every share and payout is recomputed.

    file   = header "\\n" matrix
    header = RFC 8785 JSON: players, clusters and sources of the pairs, scale, digests of the scored adapters
    matrix = int32, little-endian, row by row: one row a player, one column a held-out pair

A margin is a[i, j] = beta * (logratio_i(x_j, y+_j) - logratio_i(x_j, y-_j)), dimensionless, in units of
2**-scale_bits.
"""

from dataclasses import dataclass
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from patronage_protocol.canonical import Canonical, Digest, Name, sha256
from patronage_protocol.errors import FormatError
from patronage_protocol.evidence.framing import join, numbers, split
from patronage_protocol.fixed_point import int32_matrix
from patronage_protocol.valuation import Margins

__all__ = ["EvidenceHeader", "MarginEvidence", "SliceColumns", "check_shape"]


class SliceColumns(Canonical):
    """The pairs first, ..., first + pairs - 1 are those that `owner` contributed and is not scored on."""

    owner: Name
    first: Annotated[int, Field(ge=0)]
    pairs: Annotated[int, Field(gt=0)]

    @property
    def columns(self) -> slice:
        """The columns of these pairs."""
        return slice(self.first, self.first + self.pairs)


class EvidenceHeader(Canonical):
    """What the rows and columns are.

    Args:
        players: names of the n players, the rows.
        adapters: SHA-256 of each player's adapter, in the same order.
        clusters: for each of the M pairs the number of its prompt, counted from 0 in order of appearance.
        sources: for each pair an index into `labels`.
        labels: what the report calls the sources.
        slices: which of the last pairs are owners' slices, in order; they share no prompt with other pairs.
        scale_bits: the matrix is in units of 2**-scale_bits.
    """

    schema_version: Literal[1] = 1
    players: Annotated[tuple[Name, ...], Field(min_length=1)]
    adapters: tuple[Digest, ...]
    clusters: Annotated[tuple[int, ...], Field(min_length=1)]
    sources: tuple[int, ...]
    labels: tuple[str, ...]
    slices: tuple[SliceColumns, ...] = ()
    scale_bits: Annotated[int, Field(ge=16, le=24)]


@dataclass(frozen=True)
class MarginEvidence:
    """A header and the int32 matrix of shape (players, pairs) that it describes."""

    header: EvidenceHeader
    values: NDArray[np.int32]

    @classmethod
    def from_margins(cls, header: EvidenceHeader, margins: NDArray[np.float64]) -> Self:
        """Round margins of shape (n, M), float64, to the header's fixed point.

        Raises:
            UsageError: a margin is not finite or out of range.
            FormatError: the shapes do not agree.
        """
        evidence = cls(header, int32_matrix(margins, header.scale_bits))
        check_shape(evidence)
        return evidence

    @property
    def margins(self) -> Margins:
        """The published margins, for the valuation engine."""
        return Margins(self.values, self.header.scale_bits)

    @property
    def clusters(self) -> NDArray[np.int64]:
        """The prompt number of each pair, shape (M,)."""
        return np.array(self.header.clusters, dtype=np.int64)

    @property
    def scored(self) -> NDArray[np.bool_]:
        """On which pairs each player is scored, shape (n, M): on all but its own slice."""
        scored = np.ones((len(self.header.players), len(self.header.clusters)), dtype=np.bool_)
        for part in self.header.slices:
            if part.owner in self.header.players:
                scored[self.header.players.index(part.owner), part.columns] = False
        return scored

    @property
    def digest(self) -> str:
        """SHA-256 of the file."""
        return sha256(self.encode())

    def encode(self) -> bytes:
        """The bytes of the file."""
        return join(self.header, self.values)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read a file.

        Raises:
            FormatError: it is not exactly what `encode` writes.
        """
        head, body = split(data)
        header = EvidenceHeader.decode(head)
        evidence = cls(header, numbers(body, (len(header.players), len(header.clusters))))
        check_shape(evidence)
        return evidence


def check_shape(evidence: MarginEvidence) -> None:
    """Refuse a header and a matrix that do not belong together.

    Raises:
        FormatError: says what they should have in common.
    """
    header, shape = evidence.header, evidence.values.shape
    problems = {
        "one row a player and one column a pair": shape == (len(header.players), len(header.clusters)),
        "one adapter digest a player": len(header.adapters) == len(header.players),
        "distinct players in sorted order": list(header.players) == sorted(set(header.players)),
        "one source a pair": len(header.sources) == len(header.clusters),
        "sources that are indices of labels": all(0 <= s < len(header.labels) for s in header.sources),
        "clusters numbered in order of appearance": _in_order_of_appearance(header.clusters),
        "slices of distinct owners in sorted order, one after the other, at the end": _at_the_end(header),
        "slices that share no prompt with other pairs": _apart(header),
        "margins within ±(2**31 - 1)": bool((evidence.values > -(2**31)).all()),
    }
    for expected, holds in problems.items():
        if not holds:
            raise FormatError(
                f"margin evidence with {expected}", got=f"a matrix of shape {shape}", do="refuse it"
            )


def _in_order_of_appearance(clusters: tuple[int, ...]) -> bool:
    seen = 0
    for cluster in clusters:
        if not 0 <= cluster <= seen:
            return False
        seen += cluster == seen
    return True


def _at_the_end(header: EvidenceHeader) -> bool:
    """The pairs that are nobody's slice come first, and there are some."""
    owners = [part.owner for part in header.slices]
    place = len(header.clusters) - sum(part.pairs for part in header.slices)
    for part in header.slices:
        if place < 1 or part.first != place:
            return False
        place += part.pairs
    return owners == sorted(set(owners))


def _apart(header: EvidenceHeader) -> bool:
    """Clusters are numbered in order of appearance: those of a slice are all above those before it."""
    return all(
        0 < part.first < len(header.clusters)
        and min(header.clusters[part.first :]) > max(header.clusters[: part.first])
        for part in header.slices
    )
