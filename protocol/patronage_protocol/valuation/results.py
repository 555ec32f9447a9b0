"""What a valuation returns: shares, how sure they are, and how they were computed. Frozen; knows no files."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from patronage_protocol.valuation.intervals import Intervals, Power

__all__ = ["Certificate", "Method", "Saturation", "ValuationResult"]

Method = Literal["enumeration", "polynomial", "closed_form", "sampling"]


@dataclass(frozen=True, eq=False)
class Certificate:
    """How the shares were computed, and how far they can be off.

    Attributes:
        method: the method that was used.
        reason: why that one.
        error_bound: what no share, and no pair share of an exact method, is further from the truth than; for
            `sampling` the largest standard error.
        efficiency_gap: the largest |sum of shares - v(N)|, over single pairs where pair shares were
            computed; None where the semivalue is not efficient.
        tolerance: what the gap was held against: a larger one is an error.
        nodes: the numbers of nodes, coalitions or permutations.
    """

    method: Method
    reason: str
    error_bound: float
    efficiency_gap: float | None
    tolerance: float
    nodes: Mapping[str, int]


@dataclass(frozen=True, eq=False)
class Saturation:
    """Aumann-Shapley shares less Shapley shares: what an owner would gain or lose if splitting were neutral.

    Attributes:
        shares: (n,) Aumann-Shapley shares.
        gaps: (n,) their difference from the Shapley shares.
        lower: (n,) lower bounds of the gaps, or None without intervals.
        upper: (n,) upper bounds of the gaps, or None without intervals.
    """

    shares: NDArray[np.float64]
    gaps: NDArray[np.float64]
    lower: NDArray[np.float64] | None
    upper: NDArray[np.float64] | None

    @property
    def saturated(self) -> bool | None:
        """Whether the interval of some gap excludes zero; None without intervals."""
        if self.lower is None or self.upper is None:
            return None
        return bool(np.any((self.lower > 0) | (self.upper < 0)))


@dataclass(frozen=True, eq=False)
class ValuationResult:
    """The shares of n owners on M held-out pairs.

    Attributes:
        shares: (n,) in units of utility.
        pair_shares: (n, M) shares on single pairs, whose mean over pairs are the shares; None if not kept.
        grand: v(N), the utility of the coalition of all.
        coalition_values: (2^n,) v(S), bit i of the index for owner i; None unless enumerated.
        intervals: None if not asked for.
        power: None without intervals.
        saturation: None unless the utility is smooth, the composition `sum` and the semivalue Shapley.
        certificate: method and error.
        utility: the utility's name.
        weights: the composition's name.
        semivalue: the semivalue's name.
    """

    shares: NDArray[np.float64]
    pair_shares: NDArray[np.float64] | None
    grand: float
    coalition_values: NDArray[np.float64] | None
    intervals: Intervals | None
    power: Power | None
    saturation: Saturation | None
    certificate: Certificate
    utility: str
    weights: str
    semivalue: str
