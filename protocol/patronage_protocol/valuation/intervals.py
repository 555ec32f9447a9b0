"""Intervals of shares over the sampling of held-out prompts, and the power of a round.

A share is the mean of per-pair shares, because the Shapley value is linear in the game and the game is a
mean over pairs. Pairs with one prompt are not independent, so whole prompts (clusters) are drawn with
replacement. With Phi_c the sum of the pair shares in cluster c and m_c the number of its pairs, a replicate
with counts w is the ratio

    phi* = sum_c w_c Phi_c / sum_c w_c m_c

and the linearised standard error is se^2 = C/(C-1) sum_c (Phi_c - phi m_c)^2 / M^2.

    percentile     quantiles of phi*
    studentised    phi - se * quantiles of (phi* - phi) / se*      (Hall 1988: second-order accurate)

Power: an estimate with standard error se is told from zero at the declared level, with probability `power`,
if the true share is at least (z_{(1+level)/2} + z_power) se.

The draws come from `streams.Stream(seed)`: replicate after replicate, C indices each. A quantile p of B
replicates is read off the sorted ones at position (B - 1) p, with linear interpolation.
"""

from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from patronage_protocol.errors import UsageError
from patronage_protocol.valuation._products import tiled_product
from patronage_protocol.valuation.streams import Stream

__all__ = ["IntervalSpec", "Intervals", "Power", "bootstrap", "power_of_round", "standard_errors"]

REPLICATES_AT_ONCE = 64


@dataclass(frozen=True)
class IntervalSpec:
    """How intervals are made.

    Attributes:
        level: coverage that is declared, in (0, 1).
        replicates: bootstrap replicates, at least 100.
        seed: of the draws; any integer.
        kind: `percentile` or `studentised`.
        power: probability with which the smallest detectable share is detected, in (0.5, 1).

    Raises:
        UsageError: a value out of its range.
    """

    level: float = 0.95
    replicates: int = 2000
    seed: int = 0
    kind: Literal["percentile", "studentised"] = "percentile"
    power: float = 0.8

    def __post_init__(self) -> None:
        in_range = 0 < self.level < 1 and self.replicates >= 100 and 0.5 < self.power < 1
        if not in_range or self.kind not in ("percentile", "studentised"):
            raise UsageError(
                "0 < level < 1, at least 100 replicates, 0.5 < power < 1, kind percentile or studentised",
                got=repr(self),
                do="correct the interval's terms",
            )


@dataclass(frozen=True, eq=False)
class Intervals:
    """An interval for each owner: `lower` and `upper` (n,), at `level`, of that `kind`."""

    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    level: float
    kind: str


@dataclass(frozen=True, eq=False)
class Power:
    """What the round could have told from zero.

    Attributes:
        standard_errors: (n,) cluster-robust.
        detectable: (n,) the true share that each owner's estimate tells from zero with the declared power.
        smallest: the least of them.
        power: the declared power.
        level: the declared level.
    """

    standard_errors: NDArray[np.float64]
    detectable: NDArray[np.float64]
    smallest: float
    power: float
    level: float


def bootstrap(pair_shares: NDArray[np.float64], clusters: NDArray[np.int64], spec: IntervalSpec) -> Intervals:
    """Bootstrap intervals of the means of `pair_shares` (n, M), clusters (M,) being 0 .. C-1.

    Raises:
        UsageError: fewer than two clusters, or too few for studentised intervals.
    """
    totals, counts = _by_cluster(pair_shares, clusters)
    shares = totals.sum(axis=0) / counts.sum()
    if spec.kind == "percentile":
        replicates = _replicates(totals, counts, shares, spec, studentised=False)
        lower, upper = _bounds(replicates, spec.level)
    else:
        replicates = _replicates(totals, counts, shares, spec, studentised=True)
        low, high = _bounds(replicates, spec.level)
        errors = standard_errors(pair_shares, clusters)
        lower, upper = shares - errors * high, shares - errors * low
    return Intervals(lower, upper, spec.level, spec.kind)


def power_of_round(
    pair_shares: NDArray[np.float64], clusters: NDArray[np.int64], spec: IntervalSpec
) -> Power:
    """The power of the round, from the same arguments as `bootstrap`."""
    errors = standard_errors(pair_shares, clusters)
    normal = NormalDist()
    factor = normal.inv_cdf((1 + spec.level) / 2) + normal.inv_cdf(spec.power)
    detectable = factor * errors
    return Power(errors, detectable, float(detectable.min()), spec.power, spec.level)


def standard_errors(pair_shares: NDArray[np.float64], clusters: NDArray[np.int64]) -> NDArray[np.float64]:
    """Cluster-robust standard errors (n,) of the means of `pair_shares` (n, M).

    Raises:
        UsageError: fewer than two clusters.
    """
    totals, counts = _by_cluster(pair_shares, clusters)
    residuals = totals - totals.sum(axis=0) / counts.sum() * counts[:, None]
    number = len(counts)
    squares = np.add.reduce(residuals**2, axis=0)
    return np.asarray(np.sqrt(number / (number - 1) * squares) / counts.sum())


def _by_cluster(
    pair_shares: NDArray[np.float64], clusters: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums of pair shares (C, n) and numbers of pairs (C,) of every cluster."""
    number = int(clusters.max()) + 1
    if number < 2:
        raise UsageError(
            "at least two clusters of held-out pairs for an interval",
            got=f"{number}",
            do="hold out more prompts, or pass interval=None",
        )
    totals = np.stack([np.bincount(clusters, weights=row, minlength=number) for row in pair_shares], axis=1)
    counts = np.bincount(clusters, minlength=number)
    return totals.astype(np.float64), counts.astype(np.float64)


def _replicates(
    totals: NDArray[np.float64],
    counts: NDArray[np.float64],
    shares: NDArray[np.float64],
    spec: IntervalSpec,
    *,
    studentised: bool,
) -> NDArray[np.float64]:
    """phi*, or (phi* - phi) / se*: (replicates, n)."""
    stream = Stream(spec.seed)
    number, owners = totals.shape
    columns = [totals, counts[:, None]]
    if studentised:
        columns += [totals**2, totals * counts[:, None], counts[:, None] ** 2]
    table = np.concatenate(columns, axis=1)
    result = np.empty((spec.replicates, owners))
    for start in range(0, spec.replicates, REPLICATES_AT_ONCE):
        rows = min(REPLICATES_AT_ONCE, spec.replicates - start)
        drawn = stream.indices(rows * number, number).reshape(rows, number)
        flat = (drawn + number * np.arange(rows)[:, None]).reshape(-1)
        weights = np.bincount(flat, minlength=rows * number).reshape(rows, number).astype(np.float64)
        sums = tiled_product(weights, table)
        estimate = sums[:, :owners] / sums[:, owners, None]
        result[start : start + rows] = (
            _studentise(estimate, sums, shares, number) if studentised else estimate
        )
    return result


def _studentise(
    estimate: NDArray[np.float64], sums: NDArray[np.float64], shares: NDArray[np.float64], number: int
) -> NDArray[np.float64]:
    owners = len(shares)
    pairs = sums[:, owners, None]
    squares, cross = sums[:, owners + 1 : 2 * owners + 1], sums[:, 2 * owners + 1 : 3 * owners + 1]
    residual = squares - 2 * estimate * cross + estimate**2 * sums[:, -1:]
    errors = np.sqrt(number / (number - 1) * np.maximum(residual, 0.0)) / pairs
    scale = np.abs(estimate) + np.abs(shares)
    if np.any((errors <= 1e-12 * scale) & (np.abs(estimate - shares) > 1e-12 * scale)):
        raise UsageError(
            "clusters enough for studentised intervals",
            got=f"{number}, of which a replicate drew only alike ones",
            do="hold out more prompts, or use percentile intervals",
        )
    return np.where(errors > 0, (estimate - shares) / np.where(errors > 0, errors, 1.0), 0.0)


def _bounds(replicates: NDArray[np.float64], level: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The (1 - level)/2 and (1 + level)/2 quantiles of each column."""
    ordered = np.sort(replicates, axis=0)
    return _quantile(ordered, (1 - level) / 2), _quantile(ordered, (1 + level) / 2)


def _quantile(ordered: NDArray[np.float64], probability: float) -> NDArray[np.float64]:
    position = (len(ordered) - 1) * probability
    below = min(int(position), len(ordered) - 2)
    fraction = position - below
    return np.asarray(ordered[below] + fraction * (ordered[below + 1] - ordered[below]))
