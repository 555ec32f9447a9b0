r"""The margins as published: the one file from which every share and payout is recomputed.

    file   = header "\\n" matrix
    header = RFC 8785 JSON: players, clusters and sources of the pairs, scale, digests of the scored adapters
    matrix = int32, little-endian, row by row: one row a player, one column a held-out pair

A margin is a[i, j] = beta * (logratio_i(x_j, y+_j) - logratio_i(x_j, y-_j)), dimensionless, in units of
2**-scale_bits.
"""

from dataclasses import dataclass
from typing import Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from patronage_protocol.canonical import Canonical, Name
from patronage_protocol.evidence.framing import Framed, FramedHeader, read
from patronage_protocol.fixed_point import int32_matrix
from patronage_protocol.valuation import Margins

__all__ = ["EvidenceHeader", "MarginEvidence", "SliceColumns"]


class SliceColumns(Canonical):
    """The pairs first, ..., first + pairs - 1 are those that `owner` contributed and is not scored on."""

    owner: Name
    first: Annotated[int, Field(ge=0)]
    pairs: Annotated[int, Field(gt=0)]

    @property
    def columns(self) -> slice:
        """The columns of these pairs."""
        return slice(self.first, self.first + self.pairs)


class EvidenceHeader(FramedHeader):
    """What the rows and columns are, besides what every header says.

    Args:
        clusters: for each of the M pairs the number of its prompt, counted from 0 in order of appearance.
        slices: which of the last pairs are owners' slices, in order; they share no prompt with other pairs.
    """

    clusters: Annotated[tuple[int, ...], Field(min_length=1)]
    slices: tuple[SliceColumns, ...] = ()

    @property
    def shape(self) -> tuple[int, int]:
        """(n, M)."""
        return len(self.players), len(self.clusters)

    def requirements(self) -> dict[str, bool]:
        """What a header must have, in words, and whether it has it."""
        return {
            **super().requirements(),
            "one source a pair": len(self.sources) == len(self.clusters),
            "clusters numbered in order of appearance": _in_order_of_appearance(self.clusters),
            "slices of distinct owners in sorted order, one after the other, at the end": _at_the_end(self),
            "slices that share no prompt with other pairs": _apart(self),
        }


@dataclass(frozen=True)
class MarginEvidence(Framed[EvidenceHeader]):
    """A header and the int32 matrix of shape (players, pairs) that it describes."""

    KIND = "margin evidence"
    SHAPE = "one row a player and one column a pair"

    @classmethod
    def from_margins(cls, header: EvidenceHeader, margins: NDArray[np.float64]) -> Self:
        """Round margins of shape (n, M), float64, to the header's fixed point.

        Raises:
            UsageError: a margin is not finite or out of range.
            FormatError: the shapes do not agree.
        """
        return cls(header, int32_matrix(margins, header.scale_bits)).checked()

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

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read a file.

        Raises:
            FormatError: it is not exactly what `encode` writes.
        """
        return cls(*read(data, EvidenceHeader)).checked()


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
