"""Semivalues of additive games in polynomial time, to a tolerance that is proved and then checked.

A utility is a sum of sines (`harmonics`), the sine of a coalition's margin is a product game (`products`),
and the semivalue of a product game is a polynomial integral (`quadrature`). The cost is M Q T n for M
pairs, Q frequencies, T nodes and n owners. Exact quadrature for product games: Jiang et al., QuadraSHAP,
arXiv 2605.05870.

Pairs are sorted by the period that they need and handled in blocks of like ones. A block is the unit of
work of a thread, so results do not depend on the number of threads.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patronage_protocol.errors import UsageError
from patronage_protocol.valuation._threads import in_order
from patronage_protocol.valuation.guard import choose_guard
from patronage_protocol.valuation.harmonics import Expansion, aliasing_period, expand, lattice
from patronage_protocol.valuation.interpolation import Interpolation
from patronage_protocol.valuation.products import product_shares
from patronage_protocol.valuation.quadrature import InclusionRule, inclusion_rule
from patronage_protocol.valuation.semivalues import Semivalue
from patronage_protocol.valuation.utilities import Utility

__all__ = ["Polynomial", "lattice_work", "polynomial_shares"]

GROUP_PAIRS = 512
"""Pairs that share nodes and tables."""
SPREAD = 1.5
"""The largest ratio of periods in a group: all its pairs take the frequencies of the largest."""
BLOCK_PAIRS = 64
"""Pairs that are computed together: the unit of work of a thread."""
FEW_OWNERS = 32
"""Up to here interpolation has nothing to gain."""
UNIT = 2.0**-52


@dataclass(frozen=True, eq=False)
class Polynomial:
    """What the polynomial method gives.

    Attributes:
        pair_shares: (n, M).
        error_bound: a bound on the error of every pair share, and on that of their sum over owners.
        frequencies: the largest number of frequencies that a pair needed.
        inclusions: the largest number of inclusion nodes.
        interpolation: the largest number of interpolation nodes, 0 where nothing was interpolated.
        direct: the most owners of a pair that were computed directly.
    """

    pair_shares: NDArray[np.float64]
    error_bound: float
    frequencies: int
    inclusions: int
    interpolation: int
    direct: int


def polynomial_shares(
    margins: NDArray[np.float64], utility: Utility, semivalue: Semivalue, *, tolerance: float, threads: int
) -> Polynomial:
    """The semivalue of every owner on every pair.

    Args:
        margins: (n, M); integers, as float64, for `win`.
        utility: the utility.
        semivalue: any but leave-one-out.
        tolerance: the error allowed.
        threads: how many threads work on blocks of pairs.

    Raises:
        UsageError: the tolerance cannot be met in double precision, or the margins are too large.
    """
    n, pairs = margins.shape
    period = _periods(margins, utility, tolerance / 4)
    order = np.argsort(period, kind="stable")
    task = _Task(utility, semivalue, tolerance)
    groups = _groups(order, period)
    plans = [_plan(margins[:, group], float(period[group[-1]]), task) for group in groups]
    blocks = [
        (plan, group[start : start + BLOCK_PAIRS])
        for plan, group in zip(plans, groups, strict=True)
        for start in range(0, len(group), BLOCK_PAIRS)
    ]

    def work(block: tuple[_Plan, NDArray[np.intp]]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        plan, columns = block
        return columns, plan.shares(np.ascontiguousarray(margins[:, columns]))

    pair_shares = np.empty((n, pairs))
    for columns, shares in in_order(work, blocks, threads):
        pair_shares[:, columns] = shares
    return Polynomial(
        pair_shares,
        max(plan.error_bound for plan in plans),
        max(len(plan.expansion.frequencies) for plan in plans),
        max(len(plan.rule.nodes) for plan in plans),
        max(plan.interpolation.guard.nodes if plan.interpolation else 0 for plan in plans),
        max(plan.interpolation.guard.direct if plan.interpolation else n for plan in plans),
    )


def lattice_work(margins: NDArray[np.float64]) -> float:
    """How many factors the polynomial method multiplies for `win` on integer margins (n, M)."""
    n, pairs = margins.shape
    points = pairs * float(_periods(margins, "win", 0.0).mean()) / 2
    return float(points * n * ((n + 1) // 2))


def _groups(order: NDArray[np.intp], period: NDArray[np.float64]) -> list[NDArray[np.intp]]:
    """Pairs in ascending order of period, in groups that are not too large and not too different."""
    groups: list[NDArray[np.intp]] = []
    start = 0
    while start < len(order):
        most = np.searchsorted(period[order], SPREAD * period[order[start]], side="right")
        stop = min(start + GROUP_PAIRS, max(start + 1, int(most)))
        groups.append(order[start:stop])
        start = stop
    return groups


@dataclass(frozen=True)
class _Task:
    """What all groups have in common."""

    utility: Utility
    semivalue: Semivalue
    tolerance: float


@dataclass(frozen=True, eq=False)
class _Plan:
    """How one group of pairs is computed, and how far it can be off."""

    expansion: Expansion
    rule: InclusionRule
    interpolation: Interpolation | None
    error_bound: float

    def shares(self, margins: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.interpolation is None:
            oscillating = product_shares(margins, self.expansion, self.rule)
        else:
            oscillating = self.interpolation.shares(margins)
        return np.asarray(self.expansion.linear * margins + oscillating)


def _plan(margins: NDArray[np.float64], period: float, task: _Task) -> _Plan:
    """A quarter of the tolerance for each of aliasing, truncation, quadrature, interpolation and rounding."""
    quarter, n = task.tolerance / 4, len(margins)
    expansion = lattice(int(period)) if task.utility == "win" else expand(period, task.utility, quarter)
    leverage = expansion.leverage(margins)
    rule = inclusion_rule(task.semivalue, n, quarter / max(leverage, 1e-3))
    rounding = UNIT * (n + 32) * (1.0 + leverage)
    if rounding > quarter:
        raise UsageError(
            f"a tolerance of at least {4 * rounding:.1e}, which double precision can meet for these margins",
            got=f"{task.tolerance:.1e}",
            do="ask for less",
        )
    bound = expansion.error + leverage * rule.error + rounding
    if n > FEW_OWNERS and not expansion.lattice and margins.any():
        guard = choose_guard(margins, expansion, rule, quarter - rounding)
        if guard is not None:
            return _Plan(expansion, rule, Interpolation(expansion, rule, guard), bound + guard.error)
    return _Plan(expansion, rule, None, bound)


def _periods(margins: NDArray[np.float64], utility: Utility, error: float) -> NDArray[np.float64]:
    if utility != "win":
        return aliasing_period(margins, utility, error)
    positive = np.maximum(margins, 0.0).sum(axis=0)
    return np.asarray(np.maximum(positive, positive - margins.sum(axis=0)))
