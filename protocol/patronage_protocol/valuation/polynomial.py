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
from patronage_protocol.valuation.harmonics import Expansion, aliasing_period, expand, lattice
from patronage_protocol.valuation.products import product_shares
from patronage_protocol.valuation.quadrature import InclusionRule, inclusion_rule
from patronage_protocol.valuation.semivalues import Semivalue
from patronage_protocol.valuation.utilities import Utility

__all__ = ["Polynomial", "polynomial_shares"]

BLOCK_PAIRS = 64
UNIT = 2.0**-52


@dataclass(frozen=True, eq=False)
class Polynomial:
    """What the polynomial method gives.

    Attributes:
        pair_shares: (n, M).
        error_bound: a bound on the error of every pair share, and on that of their sum over owners.
        frequencies: the largest number of frequencies that a pair needed.
        inclusions: the largest number of inclusion nodes.
    """

    pair_shares: NDArray[np.float64]
    error_bound: float
    frequencies: int
    inclusions: int


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
    plans = [
        _plan(margins[:, columns], columns, float(period[columns[-1]]), task)
        for columns in (order[start : start + BLOCK_PAIRS] for start in range(0, pairs, BLOCK_PAIRS))
    ]
    pair_shares = np.empty((n, pairs))
    for columns, shares in in_order(lambda plan: (plan.columns, plan.shares(margins)), plans, threads):
        pair_shares[:, columns] = shares
    return Polynomial(
        pair_shares,
        max(plan.error_bound for plan in plans),
        max(len(plan.expansion.frequencies) for plan in plans),
        max(len(plan.rule.nodes) for plan in plans),
    )


@dataclass(frozen=True)
class _Task:
    """What all blocks have in common."""

    utility: Utility
    semivalue: Semivalue
    tolerance: float


@dataclass(frozen=True, eq=False)
class _Plan:
    """How one block of pairs is computed, and how far it can be off."""

    columns: NDArray[np.intp]
    expansion: Expansion
    rule: InclusionRule
    error_bound: float

    def shares(self, margins: NDArray[np.float64]) -> NDArray[np.float64]:
        block = np.ascontiguousarray(margins[:, self.columns])
        oscillating = product_shares(block, self.expansion, self.rule)
        return np.asarray(self.expansion.linear * block + oscillating)


def _plan(block: NDArray[np.float64], columns: NDArray[np.intp], period: float, task: _Task) -> _Plan:
    utility, tolerance = task.utility, task.tolerance
    expansion = lattice(int(period)) if utility == "win" else expand(period, utility, tolerance / 4)
    leverage = expansion.leverage(block)
    rule = inclusion_rule(task.semivalue, len(block), tolerance / (4 * max(leverage, 1e-3)))
    rounding = UNIT * (len(block) + 32) * (1.0 + leverage)
    if rounding > tolerance / 4:
        raise UsageError(
            f"a tolerance of at least {4 * rounding:.1e}, which double precision can meet for these margins",
            got=f"{tolerance:.1e}",
            do="ask for less",
        )
    return _Plan(columns, expansion, rule, expansion.error + leverage * rule.error + rounding)


def _periods(margins: NDArray[np.float64], utility: Utility, error: float) -> NDArray[np.float64]:
    if utility != "win":
        return aliasing_period(margins, utility, error)
    positive = np.maximum(margins, 0.0).sum(axis=0)
    return np.asarray(np.maximum(positive, positive - margins.sum(axis=0)))
