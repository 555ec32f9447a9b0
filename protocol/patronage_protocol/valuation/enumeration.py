"""Semivalues from the values of all 2^n coalitions: any utility, any composition, n up to 22.

A coalition is a bitmask: owner i is in S if bit i of its index is set. The owners are split into a low and
a high half, and the margin of S is the sum of two table entries. For sigmoid utilities of additive margins
the tables hold exp(-x) instead, so that the inner loop has a product in place of an exponential. It is safe
as long as no partial product overflows; pairs with larger margins take the general path.

From the vector of values all shares come at once by folding the top bit: with
alpha(S) = gamma(|S| - 1) + gamma(|S|),

    phi_i = sum over S with i of alpha(S) v(S)  -  sum over S of gamma(|S|) v(S).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patronage_protocol.valuation import _compiled
from patronage_protocol.valuation._threads import in_order
from patronage_protocol.valuation.composition import Composition
from patronage_protocol.valuation.semivalues import Semivalue, size_weights
from patronage_protocol.valuation.utilities import Utility, utility_of

__all__ = [
    "MOST_OWNERS",
    "Enumerated",
    "coalition_sizes",
    "enumerate_coalitions",
    "shares_from_values",
    "subset_sums",
]

MOST_OWNERS = 22
TAME = 300.0
"""Largest sum of |a_ij| over the owners of a pair for which tables of exp(-x) are used."""

MILD = 170.0
"""The same for the compiled kernel, which multiplies four terms 1 + exp(-x)."""

LOW_BITS = 10
BLOCK_PAIRS = 256
BLOCK_ELEMENTS = 1 << 16
"""Elements of one scratch array: half a megabyte, which stays in the second-level cache."""
PAIR_SHARE_ELEMENTS = 1 << 20


@dataclass(frozen=True, eq=False)
class Enumerated:
    """What enumeration gives.

    Attributes:
        values: (2^n,) v(S) in bitmask order.
        shares: (n,).
        pair_shares: (n, M), or None if they were not asked for.
    """

    values: NDArray[np.float64]
    shares: NDArray[np.float64]
    pair_shares: NDArray[np.float64] | None


def enumerate_coalitions(
    composition: Composition, utility: Utility, semivalue: Semivalue, *, pair_shares: bool, threads: int
) -> Enumerated:
    """All coalition values and the shares that follow from them.

    Args:
        composition: the rows of n owners on M pairs, n at most `MOST_OWNERS`.
        utility: the utility of one pair.
        semivalue: the weighting of coalition sizes.
        pair_shares: whether the shares of every single pair are wanted.
        threads: how many threads work on blocks of pairs.
    """
    if pair_shares:
        return _with_pair_shares(composition, utility, semivalue, threads)
    values = _sums(composition, utility, threads) / composition.rows.shape[1]
    return Enumerated(values, shares_from_values(values, semivalue), None)


def shares_from_values(values: NDArray[np.float64], semivalue: Semivalue) -> NDArray[np.float64]:
    """The semivalue of a game, or of many: values (2^n,) or (2^n, k) in bitmask order give (n,) or (n, k)."""
    n = len(values).bit_length() - 1
    gamma = np.concatenate([size_weights(semivalue, n), [0.0]])
    sizes = coalition_sizes(n)
    without = _shaped(gamma[sizes], values) * values
    alpha = _shaped((gamma + np.concatenate([[0.0], gamma[:-1]]))[sizes], values)
    folded = alpha * values
    shares = np.empty((n, *values.shape[1:]))
    base = _sum(without)
    for owner in reversed(range(n)):
        half = 1 << owner
        shares[owner] = _sum(folded[half:]) - base
        folded = folded[:half] + folded[half:]
    return shares


def subset_sums(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums of all subsets of the rows: (k, ...) gives (2^k, ...) in bitmask order."""
    sums = np.zeros((1 << len(rows), *rows.shape[1:]))
    for owner, row in enumerate(rows):
        half = 1 << owner
        np.add(sums[:half], row, out=sums[half : 2 * half])
    return sums


def coalition_sizes(n: int) -> NDArray[np.int64]:
    """|S| for every bitmask (2^n,)."""
    return subset_sums(np.ones(n)).astype(np.int64)


def _with_pair_shares(
    composition: Composition, utility: Utility, semivalue: Semivalue, threads: int
) -> Enumerated:
    n, pairs = composition.rows.shape

    def block(columns: slice) -> tuple[slice, NDArray[np.float64], NDArray[np.float64]]:
        values = _Block(composition, utility, columns).values()
        return columns, np.add.reduce(values, axis=1), shares_from_values(values, semivalue)

    total, by_pair = np.zeros(1 << n), np.empty((n, pairs))
    columns_of_blocks = _columns(pairs, max(1, PAIR_SHARE_ELEMENTS >> n))
    for columns, sums, shares in in_order(block, columns_of_blocks, threads):
        total += sums
        by_pair[:, columns] = shares
    total /= pairs
    return Enumerated(total, shares_from_values(total, semivalue), by_pair)


def _sums(composition: Composition, utility: Utility, threads: int) -> NDArray[np.float64]:
    """The sum of v over all pairs for every coalition (2^n,)."""
    n, pairs = composition.rows.shape
    total = np.zeros(1 << n)
    if composition.additive and _compiled.worth_it(n, pairs, utility):
        mild = np.abs(composition.rows).sum(axis=0) <= MILD
        rows = composition.rows[:, mild].T
        low_bits = min(n, LOW_BITS)
        low, high = (np.exp(-subset_sums(part.T).T) for part in (rows[:, :low_bits], rows[:, low_bits:]))
        total += _compiled.sigmoid_sums(low, high, threads).reshape(-1)
        composition = Composition("sum", composition.rows[:, ~mild], None)
    blocks = _columns(composition.rows.shape[1], BLOCK_PAIRS)
    for sums in in_order(lambda columns: _Block(composition, utility, columns).sums(), blocks, threads):
        total += sums
    return total


class _Block:
    """The coalition values of a few pairs, row by row of the high half."""

    def __init__(self, composition: Composition, utility: Utility, columns: slice) -> None:
        rows = composition.rows[:, columns]
        self.n, self.pairs = rows.shape
        self.utility = utility
        self.low_bits = min(self.n, max(1, (BLOCK_ELEMENTS // self.pairs).bit_length() - 1))
        low, high = rows[: self.low_bits], rows[self.low_bits :]
        self.tame = _is_tame(composition, utility, columns)
        if self.tame:
            self.low, self.high = np.exp(-subset_sums(low)), np.exp(-subset_sums(high))
        else:
            self.low, self.high = subset_sums(low), subset_sums(high)
        self.divide = composition.mass is not None and utility != "win"  # a positive mass changes no sign
        if composition.mass is not None:
            self.low_mass = subset_sums(composition.mass[: self.low_bits])
            self.high_mass = subset_sums(composition.mass[self.low_bits :])

    def sums(self) -> NDArray[np.float64]:
        """The sum of v over the pairs of the block, for every coalition (2^n,)."""
        total = np.empty((len(self.high), len(self.low)))
        scratch = np.empty((len(self.low), self.pairs))
        for index in range(len(self.high)):
            self._fill(index, scratch)
            np.add.reduce(scratch, axis=1, out=total[index])
        return total.reshape(-1)

    def values(self) -> NDArray[np.float64]:
        """v for every coalition and pair of the block (2^n, pairs)."""
        values = np.empty((len(self.high), len(self.low), self.pairs))
        for index in range(len(self.high)):
            self._fill(index, values[index])
        return values.reshape(-1, self.pairs)

    def _fill(self, index: int, out: NDArray[np.float64]) -> None:
        if self.tame:
            np.multiply(self.low, self.high[index], out=out)
            np.add(out, 1.0, out=out)
            if self.utility == "sigmoid":
                np.divide(1.0, out, out=out)
                np.subtract(out, 0.5, out=out)
            else:
                np.log(out, out=out)
                np.subtract(np.log(2.0), out, out=out)
            return
        np.add(self.low, self.high[index], out=out)
        if self.divide:
            mass = self.low_mass + self.high_mass[index]
            np.divide(out, np.where(mass > 0, mass, 1.0)[:, None], out=out)
        out[...] = utility_of(out, self.utility)


def _is_tame(composition: Composition, utility: Utility, columns: slice) -> bool:
    if not composition.additive or utility == "win":
        return False
    return bool(np.abs(composition.rows[:, columns]).sum(axis=0).max() <= TAME)


def _columns(pairs: int, width: int) -> Iterator[slice]:
    for start in range(0, pairs, width):
        yield slice(start, min(start + width, pairs))


def _shaped(weights: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    return weights.reshape(-1, *(1,) * (values.ndim - 1))


def _sum(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sum over axis 0 in two levels, so that rounding grows with the root of the length."""
    length = len(values)
    if values.ndim == 1 or length < 1024:
        return np.asarray(np.add.reduce(values, axis=0))
    inner = 1 << (length.bit_length() // 2)
    return np.asarray(
        np.add.reduce(np.add.reduce(values.reshape(-1, inner, *values.shape[1:]), axis=1), axis=0)
    )
