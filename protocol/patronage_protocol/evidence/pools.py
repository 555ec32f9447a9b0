r"""The candidate pools as published: what shares and payouts of a game on generations are recomputed from.

    file    = header "\\n" numbers
    header  = RFC 8785 JSON: players, prompts and their sources, candidates, objectives, digests
    numbers = int32, little-endian, row by row; a row holds prompt after prompt, K candidates each:
              a row a player         log pi_i(y) - log pi_0(y), nats
              one row                log g(y) - log pi_0(y), nats, g the model of all players
              a row an objective     the reward of y

All are in units of 2**-scale_bits. The texts are not in the file: `candidates` is the digest of the list of
them, which the operator keeps and can show.
"""

from dataclasses import dataclass
from typing import Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from patronage_protocol.canonical import Digest, Name
from patronage_protocol.evidence.framing import Framed, FramedHeader, read
from patronage_protocol.fixed_point import int32_matrix
from patronage_protocol.valuation.pools import CandidatePools

__all__ = ["PoolEvidence", "PoolHeader"]


class PoolHeader(FramedHeader):
    """What the numbers are, besides what every header says.

    Args:
        candidates: SHA-256 of the operator's list of candidates.
        sources: one for each of the M prompts.
        size: K, the candidates of each prompt.
        from_base: how many of them were drawn from pi_0; these come first.
        objectives: the names of the O objectives.
    """

    candidates: Digest
    sources: Annotated[tuple[int, ...], Field(min_length=1)]
    size: Annotated[int, Field(ge=2)]
    from_base: Annotated[int, Field(ge=1)]
    objectives: Annotated[tuple[Name, ...], Field(min_length=1)]

    @property
    def prompts(self) -> int:
        """M."""
        return len(self.sources)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(n + 1 + O, M, K)."""
        return len(self.players) + 1 + len(self.objectives), self.prompts, self.size

    def requirements(self) -> dict[str, bool]:
        """What a header must have, in words, and whether it has it."""
        return {
            **super().requirements(),
            "distinct objectives": len(set(self.objectives)) == len(self.objectives),
            "no more candidates from the base model than there are": self.from_base <= self.size,
        }


@dataclass(frozen=True)
class PoolEvidence(Framed[PoolHeader]):
    """A header and the int32 numbers of shape (n + 1 + O, M, K) that it describes."""

    KIND = "pool evidence"
    SHAPE = "a number for every player, prompt and candidate"

    @classmethod
    def from_pools(cls, header: PoolHeader, pools: CandidatePools) -> Self:
        """Round pools of these players, prompts, candidates and objectives to the header's fixed point.

        Raises:
            UsageError: a number is out of range.
            FormatError: header and pools do not agree.
        """
        rows = np.concatenate([pools.log_ratios, pools.proposal[None], pools.rewards])
        return cls(header, int32_matrix(rows, header.scale_bits)).checked()

    @property
    def pools(self) -> CandidatePools:
        """The published pools, for the valuation engine; float64, exact."""
        players = len(self.header.players)
        reals = np.ldexp(self.values.astype(np.float64), -self.header.scale_bits)
        return CandidatePools(
            log_ratios=reals[:players],
            proposal=reals[players],
            from_base=self.header.from_base,
            rewards=reals[players + 1 :],
        )

    @property
    def clusters(self) -> NDArray[np.int64]:
        """Every pool belongs to a prompt of its own, shape (M,)."""
        return np.arange(self.header.prompts, dtype=np.int64)

    @property
    def scored(self) -> NDArray[np.bool_]:
        """Every player is scored on every prompt, shape (n, M)."""
        return np.ones((len(self.header.players), self.header.prompts), dtype=np.bool_)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read a file.

        Raises:
            FormatError: it is not exactly what `encode` writes.
        """
        return cls(*read(data, PoolHeader)).checked()
