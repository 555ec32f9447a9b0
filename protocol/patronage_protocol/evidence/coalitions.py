r"""The margins of every coalition as published, where adapters compose in weight space and no sum gives them.

    file   = header "\\n" matrix
    header = that of margin evidence
    matrix = int32, little-endian: one row for each of the 2^n - 1 coalitions with a member, in bitmask order

Bit i of a coalition's number is set where player i is in it. The empty coalition is the base model, and its
margin is zero.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from patronage_protocol.errors import FormatError, UsageError
from patronage_protocol.evidence.framing import join, numbers, split
from patronage_protocol.evidence.margins import EvidenceHeader, MarginEvidence
from patronage_protocol.fixed_point import int32_matrix
from patronage_protocol.manifest import MOST_PLAYERS_MERGED

__all__ = ["CoalitionEvidence"]


@dataclass(frozen=True)
class CoalitionEvidence(MarginEvidence):
    """Margins of all coalitions; `values` are those of the single players.

    Attributes:
        coalitions: int32 (2^n, pairs) in bitmask order, in units of 2**-scale_bits; row 0 is zero.
    """

    coalitions: NDArray[np.int32]

    @classmethod
    def from_margins(cls, header: EvidenceHeader, margins: NDArray[np.float64]) -> Self:
        """Round the margins (2^n - 1, M) of the coalitions with a member to the header's fixed point.

        Raises:
            UsageError: a margin is not finite or out of range, or there are other than 2^n - 1 rows.
            FormatError: the shapes do not agree.
        """
        rows = (1 << len(header.players)) - 1
        if len(margins) != rows:
            raise UsageError(
                f"margins of {rows} coalitions", got=f"{len(margins)}", do="score each of them once"
            )
        return cls._of(header, int32_matrix(margins, header.scale_bits))

    @property
    def reals(self) -> NDArray[np.float64]:
        """The published margins (2^n, M) as numbers; exact."""
        return np.ldexp(self.coalitions.astype(np.float64), -self.header.scale_bits)

    def encode(self) -> bytes:
        """The bytes of the file."""
        return join(self.header, self.coalitions[1:])

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read a file.

        Raises:
            FormatError: it is not exactly what `encode` writes.
        """
        head, body = split(data)
        header = EvidenceHeader.decode(head)
        if len(header.players) > MOST_PLAYERS_MERGED:
            raise FormatError(
                f"coalitions of at most {MOST_PLAYERS_MERGED} players",
                got=f"{len(header.players)}",
                do="refuse it",
            )
        shape = ((1 << len(header.players)) - 1, len(header.clusters))
        return cls._of(header, numbers(body, shape))

    @classmethod
    def _of(cls, header: EvidenceHeader, matrix: NDArray[np.int32]) -> Self:
        coalitions = np.concatenate([np.zeros((1, matrix.shape[1]), dtype=np.int32), matrix])
        singles = coalitions[[1 << player for player in range(len(header.players))]]
        evidence = cls(header, singles, coalitions).checked()
        if not (coalitions > -(2**31)).all():
            raise FormatError("margins within ±(2**31 - 1)", got="-2**31", do="refuse it")
        return evidence
