"""Rules: from few trainings to the margins of all coalitions, shape (2^n, M) in bitmask order.

Those that need the owners' adapters alone (n trainings) are `policy` and what the models of
`patronage_server.composition` and `factors` say. The others use one training more, of all owners together,
with no pair leaving home: either a round in which gradients are averaged at every step, which is training on
the union, or a chain in which each owner goes on from the adapter of the one before.

Write A_S for the margins of an arithmetic rule, G for those of the grand coalition as trained, k = |S|.

    anchored    A_S + h(S) (G - A_N)      what arithmetic misses is put down to pairs of owners:
                                          h(S) = (sum over i < k in S of m_i m_k) / (the same over N)
    blended     the same on each held-out pair, with m_i / mean m + |a_i| / mean |a| for m_i
    scaled      A_S (1 + (c - 1) (k - 1) / (n - 1))           c = least squares of G on A_N
    weighted    sum over S of a_i (1 + (w_i - 1) (k - 1) / (n - 1))     w = ridge regression of G on the a_i
    chained     anchored, with the prefixes of a chain as further anchors

All leave single owners as they are, and `anchored`, `blended` and `chained` give G for the grand coalition.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from patronage_protocol.errors import UsageError
from patronage_protocol.valuation.enumeration import coalition_sizes, subset_sums

__all__ = ["anchored", "blended", "chained", "policy", "scaled", "weighted"]

Array = NDArray[np.float64]


def policy(solo: Array, masses: Sequence[float] | None = None) -> Array:
    """Policy arithmetic from solo margins (n, M): their sum, or their mean weighted by masses."""
    if masses is None:
        return subset_sums(solo)
    mass = np.asarray(masses, dtype=np.float64)
    total = subset_sums(mass)
    return np.asarray(subset_sums(solo * mass[:, None]) / np.where(total > 0, total, 1.0)[:, None])


def anchored(arithmetic: Array, grand: Array, masses: Sequence[float]) -> Array:
    """`arithmetic` (2^n, M), corrected so that the grand coalition has the margins (M,) it was trained to."""
    _check(arithmetic, grand, masses)
    mass = np.asarray(masses, dtype=np.float64)
    return np.asarray(arithmetic + _pair_weight(mass)[:, None] * (grand - arithmetic[-1]))


def blended(arithmetic: Array, grand: Array, masses: Sequence[float], solo: Array) -> Array:
    """As `anchored`, but on a held-out pair owners whose own margins (n, M) are large there count for more.

    Half of an owner's weight is its number of pairs, half the size of its margin, each relative to its mean
    (over owners; over owners and held-out pairs). What grows faster than in proportion grows where it is
    already large; margins of short trainings only hint at that, and numbers of pairs steady them.
    """
    _check(arithmetic, grand, masses)
    mass, size = np.asarray(masses, dtype=np.float64), np.abs(solo)
    typical = float(size.mean()) or 1.0
    weight = (mass / mass.mean())[:, None] + size / typical
    return np.asarray(arithmetic + _pair_weight(weight) * (grand - arithmetic[-1]))


def _pair_weight(weights: Array) -> Array:
    """h(S): which part of all products of two owners' weights is within S; 0 for one owner, 1 for all.

    Weights are (n,) or (n, M), and h is (2^n,) or (2^n, M).
    """
    products = subset_sums(weights) ** 2 - subset_sums(weights**2)
    return np.asarray(products / products[-1])


def scaled(arithmetic: Array, grand: Array) -> Array:
    """One factor for all pairs and owners, that grows with the size of the coalition."""
    last = arithmetic[-1]
    energy = float(last @ last)
    factor = float(grand @ last) / energy if energy > 0 else 1.0
    return np.asarray(arithmetic * (1 + (factor - 1) * _growth(len(arithmetic)))[:, None])


def weighted(solo: Array, grand: Array, *, ridge: float = 0.1) -> Array:
    """A factor for every owner, drawn towards 1 by `ridge` times the mean energy of the rows."""
    gram = solo @ solo.T
    pull = ridge * float(np.trace(gram)) / len(solo)
    factors = np.linalg.solve(gram + pull * np.eye(len(solo)), solo @ grand + pull)
    growth = _growth(1 << len(solo))
    return np.asarray(subset_sums(solo) + growth[:, None] * subset_sums((factors - 1)[:, None] * solo))


def chained(arithmetic: Array, chain: Array, order: Sequence[int], masses: Sequence[float]) -> Array:
    """Corrected by a chain: row k of `chain` (n, M) is the margin after the first k + 1 owners of `order`.

    What the (k+1)-th owner added beyond arithmetic is put down to its pairs with those before it, in
    proportion to their masses.
    """
    _check(arithmetic, chain[-1], masses)
    missed = chain - arithmetic[[sum(1 << i for i in order[: k + 1]) for k in range(len(order))]]
    result = arithmetic.copy()
    masks = np.arange(len(arithmetic))
    for k in range(1, len(order)):
        step = missed[k] - missed[k - 1]
        before = float(sum(masses[i] for i in order[:k]))
        joined = masks >> order[k] & 1
        for i in order[:k]:
            both = joined * (masks >> i & 1)
            result += (both * masses[i] / before)[:, None] * step
    return result


def _growth(coalitions: int) -> Array:
    """(|S| - 1) / (n - 1), zero for the empty coalition."""
    owners = coalitions.bit_length() - 1
    sizes = coalition_sizes(owners)
    return np.asarray(np.maximum(sizes - 1, 0) / max(owners - 1, 1), dtype=np.float64)


def _check(arithmetic: Array, grand: Array, masses: Sequence[float]) -> None:
    if arithmetic.shape != (1 << len(masses), len(grand)):
        raise UsageError(
            f"margins of {1 << len(masses)} coalitions on {len(grand)} pairs",
            got=f"shape {arithmetic.shape}",
            do="score every coalition on the same held-out pairs",
        )
    if len(masses) < 2 or min(masses) <= 0:
        raise UsageError("two owners or more, of positive mass", got=str(list(masses)), do="leave others out")
