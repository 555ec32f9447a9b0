"""Shares of product games for many owners: every owner's part is interpolated in its margin.

For one pair the owners enter only through lambda_k = sum_i l_k(a_i), the Lagrange polynomials of K
Chebyshev nodes x_k summed over owners: the logarithm of the product is sum_k lambda_k log factor(x_k), a
matrix product. The shares at the nodes are a second matrix product, and the share of an owner is read off
their interpolant. The cost is M (n K + Q T K) for M pairs, n owners, Q frequencies and T inclusion nodes.

Real parts are even in a and imaginary parts odd, so only the nodes x_k > 0 are tabulated. `guard` bounds
the error.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patronage_protocol.valuation._products import TILE, tiled_product
from patronage_protocol.valuation.guard import Guard
from patronage_protocol.valuation.harmonics import Expansion
from patronage_protocol.valuation.products import leave_one_out
from patronage_protocol.valuation.quadrature import InclusionRule

__all__ = ["Interpolation"]

CHUNK_ELEMENTS = 1 << 14
SMALLEST = 1e-300


class Interpolation:
    """Tables for pairs that share an expansion, a rule and a guard; `shares` may run on several threads."""

    def __init__(self, expansion: Expansion, rule: InclusionRule, guard: Guard) -> None:
        self.expansion, self.rule, self.guard = expansion, rule, guard
        count = guard.nodes
        angles = (np.arange(count) + 0.5) * math.pi / count
        self.transform = np.cos(np.outer(np.arange(count), angles)) * (2.0 / count)
        self.transform[0] /= 2
        self.positive = np.cos(angles[: count // 2])
        self.order = np.argsort(np.abs(rule.nodes), kind="stable")
        self.tables = [_Table(self, chosen, nodes) for chosen, nodes in self._pieces()]

    def shares(self, margins: NDArray[np.float64]) -> NDArray[np.float64]:
        """The shares (n, J) of the oscillating part of the utility, for some of the pairs (n, J)."""
        large = _Large(margins, self.guard.cutoff)
        scaled = np.where(large.mask, 0.0, margins) / self.guard.cutoff
        weights = self._gather(scaled)
        even, odd = weights + weights[::-1], weights - weights[::-1]
        half = self.guard.nodes // 2
        sums = _Sums(
            margins.sum(axis=0),
            scaled.sum(axis=0) * self.guard.cutoff,
            np.ascontiguousarray(even[:half]),
            np.ascontiguousarray(odd[:half]),
        )
        at_nodes = np.zeros((2, half, margins.shape[1]))
        beyond = np.zeros_like(large.margins)
        for table in self.tables:
            table.accumulate(sums, large.margins, at_nodes, beyond)
        above, below = at_nodes[0] + at_nodes[1], at_nodes[0] - at_nodes[1]
        at_nodes_in_order = np.concatenate([above, below[::-1]])
        shares = _clenshaw(tiled_product(self.transform, at_nodes_in_order), scaled)
        large.put(beyond, shares)
        return shares

    def _gather(self, scaled: NDArray[np.float64]) -> NDArray[np.float64]:
        """lambda (K, J), by the recurrence of Chebyshev polynomials."""
        moments = np.empty((self.guard.nodes, scaled.shape[1]))
        moments[0], moments[1] = len(scaled), np.add.reduce(scaled, axis=0)
        twice, before, now = 2 * scaled, np.ones_like(scaled), scaled.copy()
        for k in range(2, self.guard.nodes):
            np.subtract(twice * now, before, out=before)
            before, now = now, before
            np.add.reduce(now, axis=0, out=moments[k])
        return tiled_product(self.transform.T, moments)

    def _pieces(self) -> Iterator[tuple[slice, slice]]:
        """Frequencies and inclusion nodes (in ascending |s|) in groups that fit into the cache."""
        first, total, nodes = self.guard.first, len(self.expansion.frequencies), len(self.order)
        most = TILE // (64 * self.guard.nodes // 2)
        start = 0
        while start < total:
            kept = nodes - int(first[start])
            stop = min(total, start + max(1, CHUNK_ELEMENTS // (64 * max(1, min(kept, most)))))
            lowest = int(first[start:stop].min())
            for low in range(lowest, nodes, most):
                yield slice(start, stop), slice(low, min(nodes, low + most))
            start = stop


@dataclass(frozen=True, eq=False)
class _Sums:
    """The owners of some pairs summed up: x_N (J,), its interpolated part, and lambda folded to x > 0."""

    grand: NDArray[np.float64]
    small: NDArray[np.float64]
    even: NDArray[np.float64]
    odd: NDArray[np.float64]


class _Table:
    """Logarithms of factors and share kernels at the positive nodes, for a few frequencies: (Q, T, K/2)."""

    def __init__(self, parent: Interpolation, chosen: slice, ranks: slice) -> None:
        self.expansion, self.chosen, self.folded = parent.expansion, chosen, parent.rule.folded
        order = parent.order[ranks]
        self.nodes = parent.rule.nodes[order][:, None]
        counted = np.arange(ranks.start, ranks.stop) >= parent.guard.first[chosen, None]
        weights = np.where(counted, parent.rule.weights[order], 0.0)
        self.weights = (2.0 * parent.expansion.weights[chosen, None] * weights)[:, :, None]
        s, self.sign = np.abs(self.nodes), np.sign(self.nodes)
        angles = parent.expansion.half_angles(parent.positive * parent.guard.cutoff, chosen)[:, None, :]
        sine, cosine = np.sin(angles), np.cos(angles)
        norm = np.maximum(cosine**2 + (s * sine) ** 2, SMALLEST)
        self.log_modulus = 0.5 * np.log(norm)
        self.phase = self.sign * np.arctan2((s - 1) * sine * cosine, cosine**2 + s * sine**2)
        self.real_kernel = np.ascontiguousarray((sine * cosine / norm).transpose(0, 2, 1))
        self.imaginary_kernel = np.ascontiguousarray((self.sign * s * sine**2 / norm).transpose(0, 2, 1))

    def accumulate(
        self,
        sums: _Sums,
        large: NDArray[np.float64],
        at_nodes: NDArray[np.float64],
        beyond: NDArray[np.float64],
    ) -> None:
        """Add these frequencies to the even and odd shares at the nodes, and to those of the large owners."""
        real, imaginary = self._product(sums)
        if len(large):
            waves = self.expansion.half_waves(large, self.chosen)[:, :, None]
            first = np.empty(real.shape, dtype=np.complex128)
            first.real, first.imag = real, imaginary
            shares, product = leave_one_out(waves, self.nodes, first)
            beyond += shares
            real, imaginary = np.ascontiguousarray(product.real), np.ascontiguousarray(product.imag)
        at_nodes[0] += np.add.reduce(self.imaginary_kernel @ imaginary, axis=0)
        at_nodes[1] += np.add.reduce(self.real_kernel @ real, axis=0)

    def _product(self, sums: _Sums) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The coefficient times the product over all interpolated owners, (Q, T, J)."""
        # no product exceeds 1; where the interpolated one does it is a point that is left out
        modulus = np.exp(np.minimum(self.log_modulus @ sums.even, 0.0))
        phase = self.phase @ sums.odd
        phase += self.sign * self.expansion.half_angles(sums.small, self.chosen)[:, None, :]
        turn = self.expansion.half_angles(sums.grand, self.chosen)
        turn = turn + math.pi / 2 if self.expansion.even else turn
        modulus *= self.weights
        if self.folded:
            modulus *= np.cos(turn)[:, None, :]
        else:
            phase += turn[:, None, :]
        return modulus * np.cos(phase), modulus * np.sin(phase)


class _Large:
    """The owners beyond the cutoff, at most m on a pair, as an array (m, J) padded with margins of 0."""

    def __init__(self, margins: NDArray[np.float64], cutoff: float) -> None:
        self.mask = np.abs(margins) > cutoff
        most = int(self.mask.sum(axis=0).max())
        self.owners = np.argsort(~self.mask, axis=0, kind="stable")[:most]
        self.real = np.take_along_axis(self.mask, self.owners, axis=0)
        self.margins = np.where(self.real, np.take_along_axis(margins, self.owners, axis=0), 0.0)

    def put(self, values: NDArray[np.float64], shares: NDArray[np.float64]) -> None:
        """Write the values (m, J) to their owners in shares (n, J)."""
        pairs = np.broadcast_to(np.arange(shares.shape[1]), self.real.shape)
        shares[self.owners[self.real], pairs[self.real]] = values[self.real]


def _clenshaw(coefficients: NDArray[np.float64], scaled: NDArray[np.float64]) -> NDArray[np.float64]:
    """sum_k coefficients[k] T_k(scaled), for (K, J) and (n, J)."""
    twice = 2 * scaled
    now, after = np.zeros_like(scaled), np.zeros_like(scaled)
    for row in coefficients[:0:-1]:
        np.subtract(twice * now, after, out=after)
        after += row
        now, after = after, now
    return np.asarray(scaled * now - after + coefficients[0])
