"""The interpolation guard: which owners may be interpolated, with how many nodes, and how far off that is.

On a fixed pair the share of an owner is one smooth function of its own margin a, and so is the logarithm of
its factor c + i s sin. Both are interpolated in a at K Chebyshev nodes of [-A, A]; owners beyond the cutoff
A are computed directly. With zeta = w a / 2 = xi + i eta and t = tanh |eta|, on the whole complex plane

    |factor|^2 = (cosh eta - s sinh eta)^2 - (1 - s^2) sin^2 xi

    |sin zeta / factor|  <=  1 / (cos xi (1 - s t))   and   |factor' / factor|  <=  1 / cos xi
    |sin zeta / factor|  <=  1 / (s - t)              and   |factor' / factor|  <=  (1 - s t) / (s - t)

where cos xi > 0 with |xi| < pi/2 in the first row, and t < s in the second,
so that the pole of an owner at a = pi / w + (2 i / w) artanh s is felt where s is small, and hardly where s
is near 1. Where it is felt, the product of all factors is small: |product| <= exp(-(1 - s^2) D(w)) with
D(w) half the sum of sin^2(w a_k / 2). Interpolating a function bounded by B on the Bernstein ellipse of
parameter rho errs by at most 4 B rho^(1-K) / (rho - 1) (Trefethen, Approximation Theory and Approximation
Practice, theorem 8.2). The guard adds up all of this over frequencies and nodes.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patronage_protocol.valuation._products import tiled_product
from patronage_protocol.valuation.harmonics import Expansion
from patronage_protocol.valuation.quadrature import InclusionRule

__all__ = ["Guard", "choose_guard"]

BINS = 64
NEGLIGIBLE = 1e-3
"""The share of the error that may be spent on products that are left out."""
CELL, CELLS = 1.07, 128
NODE_CHOICES = (8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128)
DIRECT_CHOICES = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
ELLIPSES = np.array([1.2, 1.4, 1.7, 2.0, 2.4, 3.0, 4.0, 6.0, 10.0, 20.0, 50.0])

TRIGONOMETRY, INTERPOLATED, DIRECT, CHEBYSHEV = 60.0, 1.0, 12.0, 2.0
"""Measured costs, in nanoseconds for a frequency and node of a pair (the first two and, for each directly
computed owner, the third) and for an owner, pair and interpolation node (the fourth). They steer, nothing
more."""


@dataclass(frozen=True, eq=False)
class Guard:
    """A choice of interpolation.

    Attributes:
        cutoff: A; owners with |a| beyond it are computed directly.
        nodes: K, even.
        direct: the most owners beyond the cutoff on any pair.
        error: bound on the error of every share, and of their sum over owners.
        first: (Q,) for every frequency, how many of the inclusion nodes with the least |s| are left out.
    """

    cutoff: float
    nodes: int
    direct: int
    error: float
    first: NDArray[np.intp]


def choose_guard(
    margins: NDArray[np.float64], expansion: Expansion, rule: InclusionRule, error: float
) -> Guard | None:
    """The cheapest interpolation of margins (n, J) within this error; None if direct work is cheaper."""
    n = len(margins)
    points = len(expansion.frequencies) * len(rule.nodes)
    spectrum = _Spectrum(np.abs(margins))
    best, cost = None, DIRECT * n * points

    def work(nodes: int, direct: int) -> float:
        return points * (TRIGONOMETRY + INTERPOLATED * nodes + DIRECT * direct) + CHEBYSHEV * n * nodes

    for direct, cutoff in spectrum.cutoffs():
        if work(NODE_CHOICES[0], direct) >= cost:
            break
        bound = _Bound(n, cutoff, spectrum.decay(cutoff, expansion), (expansion, rule), error / n)
        for nodes in NODE_CHOICES:
            if work(nodes, direct) >= cost:
                break
            off = bound(nodes)
            if off <= error:
                best, cost = Guard(cutoff, nodes, direct, off, bound.first), work(nodes, direct)
                break
    return best


class _Spectrum:
    """The owners of every pair in cells of |a|, each a factor of 1.07 wide; the last is open below."""

    def __init__(self, magnitudes: NDArray[np.float64]) -> None:
        """Args: magnitudes |a| (n, J), not all zero."""
        pairs = magnitudes.shape[1]
        self.largest = float(magnitudes.max())
        self.edges = self.largest * CELL ** -np.arange(CELLS + 1.0)
        self.edges[-1] = 0.0
        with np.errstate(divide="ignore"):
            depth = np.log(self.largest / magnitudes) / math.log(CELL)
        cell = np.minimum(depth, CELLS - 1).astype(np.int64)
        flat = (cell * pairs + np.arange(pairs)).reshape(-1)
        squares = (magnitudes**2).reshape(-1)
        mass = np.bincount(flat, weights=squares, minlength=CELLS * pairs)
        self.mass = mass.astype(np.float64).reshape(CELLS, pairs)
        counts = np.bincount(flat, minlength=CELLS * pairs).reshape(CELLS, pairs)
        self.beyond = np.concatenate([[0], np.cumsum(counts, axis=0).max(axis=1)])

    def cutoffs(self) -> Iterator[tuple[int, float]]:
        """Cutoffs in descending order, each with the most owners of a pair beyond it."""
        for direct in DIRECT_CHOICES:
            cell = int(np.searchsorted(self.beyond, direct, side="right")) - 1
            if self.edges[cell] > 0:
                # a cell holds margins up to and including its upper edge but for rounding, hence the hair
                yield int(self.beyond[cell]), float(self.edges[cell]) * (1 + 1e-12)

    def decay(self, cutoff: float, expansion: Expansion) -> NDArray[np.float64]:
        """A lower bound on D(w_q), (Q,), over all pairs, from the owners below the cutoff.

        In a cell, sum sin^2(w a / 2) is at least sum a^2 times the least value of sin^2(w a / 2) / a^2.
        """
        angle = 0.5 * expansion.frequencies[:, None] * self.edges
        lower, upper = angle[:, 1:], angle[:, :-1]
        least = np.minimum(np.sin(lower) ** 2, np.sin(upper) ** 2) / upper**2
        least[np.floor(lower / math.pi) < np.floor(upper / math.pi)] = 0.0
        least = np.where(upper <= math.pi / 2, np.sinc(upper / math.pi) ** 2, least)
        least[:, self.edges[:-1] > cutoff] = 0.0
        rate: NDArray[np.float64] = least * (0.5 * expansion.frequencies[:, None]) ** 2
        return np.asarray(0.5 * (1 - 1e-9) * np.min(tiled_product(rate, self.mass), axis=1))


class _Bound:
    """The error of interpolation as a function of the number of nodes, for one cutoff.

    Points (w, s) whose products are too small to matter are left out of the bound, and must be left out of
    the computation: there the interpolated logarithm may be wrong by any factor.
    """

    def __init__(
        self,
        owners: int,
        cutoff: float,
        decay: NDArray[np.float64],
        terms: tuple[Expansion, InclusionRule],
        error: float,
    ) -> None:
        expansion, rule = terms
        groups = _bins(rule)
        s = np.abs(rule.nodes)
        low, high = np.array([s[g[0]] for g in groups]), np.array([s[g[-1]] for g in groups])
        weight = np.array([rule.weights[group].sum() for group in groups])
        product = np.exp(-(1 - high**2) * decay[:, None])
        scale = 2.0 * np.abs(expansion.weights)[:, None] * weight * product
        kept = np.logical_or.accumulate(scale > NEGLIGIBLE * error / scale.size, axis=1)
        starts = np.cumsum([0] + [len(group) for group in groups])
        self.first = starts[np.where(kept.any(axis=1), kept.argmax(axis=1), len(groups))]
        self.owners = owners
        # without one factor a product may be larger than with it, by exp(1/2) at most
        self.left_out = math.exp(0.5) * float(scale[~kept].sum())
        self.scale = scale[kept]
        edge = np.broadcast_to(expansion.frequencies[:, None] * cutoff / 2, scale.shape)[kept]
        least = np.broadcast_to(low, scale.shape)[kept]
        inside = np.minimum(edge, math.pi / 2)
        with np.errstate(divide="ignore"):
            on_axis = np.sin(inside) / np.sqrt(np.cos(inside) ** 2 + (least * np.sin(inside)) ** 2)
        self.on_axis = np.maximum(1.0, on_axis)
        self.kernel, self.logarithm = _suprema(edge[:, None], least[:, None])

    def __call__(self, nodes: int) -> float:
        """The bound for the sum of all shares: an error of the logarithm counts for each of n factors."""
        with np.errstate(invalid="ignore"):
            shrink = 4.0 * ELLIPSES ** (1.0 - nodes) / (ELLIPSES - 1.0)
            kernel = np.min(self.kernel * shrink, axis=1)
            logarithm = np.expm1(np.minimum(self.owners * np.min(self.logarithm * shrink, axis=1), 50.0))
            total = self.scale * (kernel * (1.0 + logarithm) + logarithm * self.on_axis)
        return self.owners * (float(np.where(np.isnan(total), np.inf, total).sum()) + self.left_out)


def _suprema(
    edge: NDArray[np.float64], s: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bounds of sin / factor and of log factor on the ellipses, (..., ellipses); inf where none holds."""
    xi = edge * (ELLIPSES + 1 / ELLIPSES) / 2
    t = np.tanh(edge * (ELLIPSES - 1 / ELLIPSES) / 2)
    length = xi
    cosine = np.where(xi < math.pi / 2, np.cos(xi), 0.0)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        kernel = np.where(cosine > 0, 1 / (cosine * (1 - s * t)), np.inf)
        kernel = np.minimum(kernel, np.where(t < s, 1 / (s - t), np.inf))
        slope = np.where(cosine > 0, 1 / cosine, np.inf)
        slope = np.minimum(slope, np.where(t < s, (1 - s * t) / (s - t), np.inf))
        return kernel, length * slope


def _bins(rule: InclusionRule) -> list[NDArray[np.intp]]:
    """Nodes in ascending |s|, in at most `BINS` groups: the bound uses the worse end of a group."""
    order = np.argsort(np.abs(rule.nodes), kind="stable")
    return np.array_split(order, min(BINS, len(order)))
