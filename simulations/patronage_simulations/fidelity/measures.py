"""From margins of all coalitions to shares, and how far apart two vectors of shares are.

A relative error has a part along the true shares (everybody is paid in the same proportion: money does not
see it) and a part across them:

    phi_hat = c phi + r,  r orthogonal to phi
    (||phi_hat - phi|| / ||phi||)^2 = (c - 1)^2 + (||r|| / ||phi||)^2
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patronage_protocol.errors import UsageError
from patronage_protocol.fixed_point import to_fixed
from patronage_protocol.payout import largest_remainder
from patronage_protocol.valuation.enumeration import shares_from_values
from patronage_protocol.valuation.semivalues import Semivalue
from patronage_protocol.valuation.utilities import Utility, utility_of

__all__ = [
    "Agreement",
    "agreement",
    "bootstrap_shares",
    "payout_difference",
    "relative_error",
    "shares_of",
    "spearman_step",
]

SHAPLEY = Semivalue()


@dataclass(frozen=True)
class Agreement:
    """How near estimated shares are to true ones.

    Attributes:
        error: ||phi_hat - phi|| / ||phi||.
        scale: c, the factor between them along phi.
        shape: ||r|| / ||phi||, the part of the error that is across phi.
        pearson: correlation over the owners; NaN where a side is constant.
        spearman: rank correlation, ties at their mean rank; it moves in steps, see `spearman_step`.
        payout: the largest difference of one owner's payout, in minor units.
    """

    error: float
    scale: float
    shape: float
    pearson: float
    spearman: float
    payout: int


def shares_of(margins: NDArray[np.float64], utility: Utility, *, scale_bits: int) -> NDArray[np.float64]:
    """Shapley shares of each pair (n, M), from margins (2^n, M) in bitmask order; their mean is the share.

    Margins are rounded to units of 2**-scale_bits, as they are published: `win` is defined on these alone.

    Raises:
        UsageError: margins of another number of coalitions, or of the empty one that are not zero.
    """
    count = len(margins)
    if count < 2 or count & (count - 1) or margins[0].any():
        raise UsageError(
            "margins of all 2^n coalitions in bitmask order, zero for the empty one",
            got=f"{count} rows" if count & (count - 1) else "a first row that is not zero",
            do="score every coalition, and put zeros first",
        )
    published = np.ldexp(np.rint(np.ldexp(margins, scale_bits)), -scale_bits)
    return shares_from_values(utility_of(published, utility), SHAPLEY)


def agreement(
    estimate: NDArray[np.float64], truth: NDArray[np.float64], *, budget: int, seed: str = "00" * 32
) -> Agreement:
    """Compare shares (n,) with true shares (n,); payouts split `budget` in minor units by positive shares."""
    along = float(estimate @ truth / (truth @ truth))
    return Agreement(
        error=relative_error(estimate, truth),
        scale=along,
        shape=float(np.linalg.norm(estimate - along * truth) / np.linalg.norm(truth)),
        pearson=_correlation(estimate, truth),
        spearman=_correlation(_ranks(estimate), _ranks(truth)),
        payout=payout_difference(estimate, truth, budget=budget, seed=seed),
    )


def relative_error(estimate: NDArray[np.float64], truth: NDArray[np.float64]) -> float:
    """||estimate - truth|| / ||truth||."""
    return float(np.linalg.norm(estimate - truth) / np.linalg.norm(truth))


def payout_difference(
    estimate: NDArray[np.float64], truth: NDArray[np.float64], *, budget: int, seed: str
) -> int:
    """The largest difference of one owner's payout in minor units, negative shares counting as zero.

    Where nobody has a positive share the budget is refunded, so everybody gets nothing.
    """
    left, right = (_payouts(shares, budget, seed) for shares in (estimate, truth))
    return max(abs(left[owner] - right[owner]) for owner in left)


def bootstrap_shares(
    pair_shares: NDArray[np.float64], clusters: NDArray[np.int64], *, replicates: int, seed: int
) -> NDArray[np.float64]:
    """Shares (replicates, n) of held-out sets drawn anew, whole prompts at a time, from (n, M)."""
    sums = np.zeros((int(clusters.max()) + 1, len(pair_shares)))
    np.add.at(sums, clusters, pair_shares.T)
    sizes = np.bincount(clusters).astype(np.float64)
    drawn = np.random.default_rng(seed).multinomial(
        len(sizes), np.full(len(sizes), 1 / len(sizes)), size=replicates
    )
    return np.asarray((drawn @ sums) / (drawn @ sizes)[:, None])


def spearman_step(owners: int) -> float:
    """The smallest change of Spearman's rho between two rankings of n owners without ties: 12 / (n^3 - n)."""
    return 12 / (owners**3 - owners)


def _payouts(shares: NDArray[np.float64], budget: int, seed: str) -> Mapping[str, int]:
    weights = {str(owner): max(0, to_fixed(float(share))) for owner, share in enumerate(shares)}
    if not any(weights.values()):
        return weights
    return largest_remainder(budget, weights, seed=seed)


def _correlation(left: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    x, y = left - left.mean(), right - right.mean()
    norms = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / norms if norms > 0 else float("nan")


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    below = (values[None, :] < values[:, None]).sum(axis=1)
    equal = (values[None, :] == values[:, None]).sum(axis=1)
    return np.asarray(below + (equal - 1) / 2, dtype=np.float64)
