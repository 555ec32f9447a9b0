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
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from patronage_protocol.canonical import Canonical, Digest, Name, sha256
from patronage_protocol.errors import FormatError
from patronage_protocol.evidence.framing import join, numbers, split
from patronage_protocol.fixed_point import int32_matrix
from patronage_protocol.valuation.pools import CandidatePools

__all__ = ["PoolEvidence", "PoolHeader"]


class PoolHeader(Canonical):
    """What the numbers are.

    Args:
        players: names of the n players.
        adapters: SHA-256 of each player's adapter, in the same order.
        candidates: SHA-256 of the operator's list of candidates.
        sources: for each of the M prompts an index into `labels`.
        labels: what the report calls the sources.
        size: K, the candidates of each prompt.
        from_base: how many of them were drawn from pi_0; these come first.
        objectives: the names of the O objectives.
        scale_bits: numbers are in units of 2**-scale_bits.
    """

    schema_version: Literal[1] = 1
    players: Annotated[tuple[Name, ...], Field(min_length=1)]
    adapters: tuple[Digest, ...]
    candidates: Digest
    sources: Annotated[tuple[int, ...], Field(min_length=1)]
    labels: tuple[str, ...]
    size: Annotated[int, Field(ge=2)]
    from_base: Annotated[int, Field(ge=1)]
    objectives: Annotated[tuple[Name, ...], Field(min_length=1)]
    scale_bits: Annotated[int, Field(ge=16, le=24)]

    @property
    def prompts(self) -> int:
        """M."""
        return len(self.sources)

    @property
    def rows(self) -> int:
        """n + 1 + O."""
        return len(self.players) + 1 + len(self.objectives)


@dataclass(frozen=True)
class PoolEvidence:
    """A header and the int32 numbers of shape (n + 1 + O, M, K) that it describes."""

    header: PoolHeader
    values: NDArray[np.int32]

    @classmethod
    def from_pools(cls, header: PoolHeader, pools: CandidatePools) -> Self:
        """Round pools of these players, prompts, candidates and objectives to the header's fixed point.

        Raises:
            UsageError: a number is out of range.
            FormatError: header and pools do not agree.
        """
        rows = np.concatenate([pools.log_ratios, pools.proposal[None], pools.rewards])
        evidence = cls(header, int32_matrix(rows, header.scale_bits))
        _check(evidence)
        return evidence

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
        header = PoolHeader.decode(head)
        evidence = cls(header, numbers(body, (header.rows, header.prompts, header.size)))
        _check(evidence)
        return evidence


def _check(evidence: PoolEvidence) -> None:
    header, shape = evidence.header, evidence.values.shape
    problems = {
        "a number for every player, prompt and candidate": shape
        == (header.rows, header.prompts, header.size),
        "one adapter digest a player": len(header.adapters) == len(header.players),
        "distinct players in sorted order": list(header.players) == sorted(set(header.players)),
        "distinct objectives": len(set(header.objectives)) == len(header.objectives),
        "sources that are indices of labels": all(0 <= s < len(header.labels) for s in header.sources),
        "no more candidates from the base model than there are": header.from_base <= header.size,
        "numbers within ±(2**31 - 1)": bool((evidence.values > -(2**31)).all()),
    }
    for expected, holds in problems.items():
        if not holds:
            raise FormatError(f"pool evidence with {expected}", got=f"shape {shape}", do="refuse it")
