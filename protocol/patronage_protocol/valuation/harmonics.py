"""A utility as a finite sum of sines, with a bound on what is left out.

    sigma(x) - 1/2         = int_0^inf sin(wx) / sinh(pi w) dw
    log sigma(x) + log 2   = x/2 - int_0^inf (1 - cos wx) / (w sinh(pi w)) dw
    sgn(x) / 2             = (1/N) sum_{q < N/2} cot(w_q / 2) sin(w_q x),  w_q = pi (2q + 1) / N,
                             for integers |x| < N, N even

The integrals are replaced by the midpoint rule, w_q = (q + 1/2) h for q < Q. Two errors follow;
docs/valuation.md derives both.

Aliasing: at margin x the infinite sum is off by at most min(1, exp(|x| - P)), P = 2 pi / h. A share averages
this over coalitions, whose margin at inclusion probability t has mean t x_N and, by Hoeffding's lemma,
sub-Gaussian spread V/4 with V = sum of a_i^2. So P need not exceed the margin of every coalition: it must
exceed X = max(|x_N|, |a_i|, |x_N - a_i|) by sqrt(V log(1/eps) / 2) or so.

Truncation: the frequencies beyond W = Q h carry at most (2 / pi) exp(-pi W) / (1 - exp(-pi W))^2 of weight.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patronage_protocol.errors import UsageError
from patronage_protocol.valuation.utilities import Utility

__all__ = ["Expansion", "aliasing_period", "expand", "lattice"]

MOST_FREQUENCIES = 1 << 17


@dataclass(frozen=True, eq=False)
class Expansion:
    """f(x) = linear * x + sum_q weights[q] * trig(frequencies[q] * x), trig = sin, or cos - 1 where `even`.

    Attributes:
        frequencies: (Q,) radians per unit of margin.
        weights: (Q,) positive for a smooth utility.
        even: whether the oscillating part is an even function of x.
        linear: the slope of the part that is linear in x.
        error: bound on the error that this expansion causes in the share of any owner on any pair, and in
            the sum of the shares of all owners on it.
        lattice: N where the margins are integers and the frequencies pi (2q + 1) / N, else 0.
    """

    frequencies: NDArray[np.float64]
    weights: NDArray[np.float64]
    even: bool
    linear: float
    error: float
    lattice: int = 0

    def half_angles(self, margins: NDArray[np.float64], chosen: slice) -> NDArray[np.float64]:
        """w_q a / 2 for the chosen frequencies: margins (..., J) give (..., Q, J)."""
        if self.lattice:
            odd = 2 * np.arange(len(self.frequencies))[chosen] + 1
            turns = odd[:, None] * margins.astype(np.int64)[..., None, :] % (4 * self.lattice)
            return turns.astype(np.float64) * (math.pi / (2 * self.lattice))
        return 0.5 * self.frequencies[chosen][:, None] * margins[..., None, :]

    def half_waves(self, margins: NDArray[np.float64], chosen: slice) -> NDArray[np.complex128]:
        """exp(i w_q a / 2) for the chosen frequencies: margins (..., J) give (..., Q, J).

        Equally spaced angles are powers of one rotation, built by doubling: seven products deep for 128
        frequencies, and one sine and cosine for each margin instead of one for each frequency.
        """
        if self.lattice:
            return np.asarray(np.exp(1j * self.half_angles(margins, chosen)))
        count = len(self.frequencies[chosen])
        first = self.half_angles(margins, slice(chosen.start, chosen.start + 1))
        waves = np.empty((*first.shape[:-2], count, first.shape[-1]), dtype=np.complex128)
        waves[..., :1, :] = _rotation(first)
        turn = _rotation(2.0 * self.half_angles(margins, slice(0, 1)))
        done = 1
        while done < count:
            more = min(done, count - done)
            np.multiply(waves[..., :more, :], turn, out=waves[..., done : done + more, :])
            turn = turn * turn
            done += more
        return waves

    def leverage(self, margins: NDArray[np.float64]) -> float:
        """How far an error of 1 in every product average can move the sum of all shares of a pair (n, J).

        A bound on the largest over the pairs of sum_q |weight_q| sum_i min(2, w_q |a_i|).
        """
        magnitude = np.abs(self.weights)
        total = np.abs(margins).sum(axis=0).max()
        return float(np.sum(magnitude * np.minimum(2.0 * len(margins), self.frequencies * total)))


def aliasing_period(margins: NDArray[np.float64], utility: Utility, error: float) -> NDArray[np.float64]:
    """The least P, one per pair, that keeps the aliasing error of every share below `error`.

    Both terms of a marginal contribution err by at most 2 c exp(lambda (X - P) + lambda^2 V / 8) for every
    lambda in (0, 1], with c = 1 (sigmoid) or 1 / lambda (log_sigmoid); lambda is minimised over a grid.

    Args:
        margins: (n, pairs).
        utility: `sigmoid` or `log_sigmoid`.
        error: the error allowed.
    """
    grand = margins.sum(axis=0)
    reach = np.maximum(np.abs(margins).max(axis=0), np.abs(grand - margins).max(axis=0))
    reach = np.maximum(reach, np.abs(grand))
    spread = np.einsum("ij,ij->j", margins, margins)
    rate = np.geomspace(2.0**-10, 1.0, 41)[:, None]
    needed = np.log(4.0 / error) - (np.log(rate) if utility == "log_sigmoid" else 0.0)
    chernoff = np.min(reach + rate * spread / 8 + needed / rate, axis=0)
    positive = np.maximum(margins, 0.0).sum(axis=0)
    largest = np.maximum(positive, positive - grand)
    return np.asarray(np.minimum(chernoff, largest + math.log(2.0 / error)))


def expand(period: float, utility: Utility, error: float) -> Expansion:
    """The midpoint rule for `sigmoid` or `log_sigmoid`.

    Args:
        period: P, from `aliasing_period`; the spacing of frequencies is 2 pi / P.
        utility: the utility.
        error: the error allowed for aliasing, and again for truncation.

    Raises:
        UsageError: so many frequencies that the margins cannot be preferences.
    """
    spacing = 2.0 * math.pi / period
    tail = 4.0 / math.pi * (1.0 + 1e-3)
    top = max(1.0, math.log(tail / error) / math.pi)
    count = math.ceil(top / spacing)
    if count > MOST_FREQUENCIES:
        raise UsageError(
            f"margins that need at most {MOST_FREQUENCIES} frequencies",
            got=f"{count} for a pair whose coalitions reach {period:.4g}",
            do="cap the adapters' norms or drop that pair",
        )
    frequencies = (np.arange(count, dtype=np.float64) + 0.5) * spacing
    exponential = np.exp(-math.pi * frequencies)
    weights = spacing * 2.0 * exponential / -np.expm1(-2.0 * math.pi * frequencies)
    if utility == "log_sigmoid":
        return Expansion(frequencies, weights / frequencies, True, 0.5, 2 * error)
    return Expansion(frequencies, weights, False, 0.0, 2 * error)


def _rotation(angles: NDArray[np.float64]) -> NDArray[np.complex128]:
    rotation = np.empty(angles.shape, dtype=np.complex128)
    rotation.real, rotation.imag = np.cos(angles), np.sin(angles)
    return rotation


def lattice(largest: int) -> Expansion:
    """The exact sine sum of sgn(x) / 2 on the integers |x| <= `largest`.

    Raises:
        UsageError: a lattice too fine to be summed.
    """
    size = 2 * (largest // 2 + 1)
    if size // 2 > MOST_FREQUENCIES:
        raise UsageError(
            f"a lattice of at most {2 * MOST_FREQUENCIES} points",
            got=f"{size}",
            do="use method='enumeration' or 'sampling', or a coarser scale",
        )
    frequencies = math.pi * (2 * np.arange(size // 2) + 1) / size
    return Expansion(frequencies, 1.0 / (size * np.tan(frequencies / 2)), False, 0.0, 0.0, size)
