"""Nodes on inclusion probabilities: the integral over t in a semivalue, as a finite sum.

With s = 2t - 1 the leave-one-out product of n - 1 factors c_k + i s sin_k is a polynomial in s of degree n
- 1, so a Gauss rule with ceil(n/2) nodes is exact. On the Bernstein ellipse with semi-axes cosh(eta) and
sinh(eta), whose foci are -1 and 1, every factor is at most cosh(eta) in modulus:

    |c + i s sin| = |(1+s) e^{i phi} + (1-s) e^{-i phi}| / 2 <= (|1+s| + |1-s|) / 2 = cosh(eta).

Hence T nodes err by at most

    4 cosh(eta)^(n-1) exp(-2 T eta) / (1 - exp(-eta))      for every eta > 0,

about exp(-2 T^2 / (n-1)) at eta = 2T / (n-1): T grows with the root of n. (Derived in docs/valuation.md.)
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patronage_protocol.valuation.semivalues import Semivalue

__all__ = ["InclusionRule", "gauss_error", "inclusion_rule"]


@dataclass(frozen=True, eq=False)
class InclusionRule:
    """int p(s) dmu = sum weights * p(nodes), for polynomials of degree n - 1 in s = 2t - 1.

    Attributes:
        nodes: (T,) in [-1, 1].
        weights: (T,) positive, adding up to 1.
        folded: the measure is symmetric and only nodes s >= 0 are kept, with doubled weight: the
            products at -s are the conjugates of those at s, so their real parts are averaged.
        error: bound on the error for a product of n - 1 factors of modulus at most 1.
    """

    nodes: NDArray[np.float64]
    weights: NDArray[np.float64]
    folded: bool
    error: float

    def unfolded(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """All nodes with their weights."""
        if not self.folded:
            return self.nodes, self.weights
        halves = self.weights / 2
        return np.concatenate([-self.nodes, self.nodes]), np.concatenate([halves, halves])


def inclusion_rule(semivalue: Semivalue, n: int, error: float) -> InclusionRule:
    """The smallest rule for products of n - 1 factors with at most this error.

    Args:
        semivalue: any but leave-one-out, which needs no rule.
        n: the number of owners.
        error: the error allowed; 0 asks for the exact rule.
    """
    if semivalue.kind == "banzhaf":
        return InclusionRule(np.zeros(1), np.ones(1), True, 0.0)
    count = next((t for t in _candidates(n) if gauss_error(t, n) <= error), (n + 1) // 2)
    bound = gauss_error(count, n)
    if semivalue.a != semivalue.b:
        nodes, weights = _gauss_jacobi(count, semivalue.a - 1, semivalue.b - 1)
        return InclusionRule(nodes, weights, False, bound)
    count += count % 2  # an even rule has no node at s = 0
    nodes, weights = _gauss_jacobi(count, semivalue.a - 1, semivalue.b - 1)
    half = count // 2
    return InclusionRule(nodes[half:], 2 * weights[half:], True, bound)


def gauss_error(count: int, n: int) -> float:
    """A bound on the error of `count` Gauss nodes for a product of n - 1 factors."""
    if 2 * count >= n:
        return 0.0
    eta = np.geomspace(1e-3, 20.0, 400)
    log_cosh = eta + np.log1p(np.exp(-2 * eta)) - math.log(2)
    exponent = (n - 1) * log_cosh - 2 * count * eta - np.log(-np.expm1(-eta))
    return float(min(2.0, 4 * math.exp(min(0.0, float(exponent.min())))))


def _candidates(n: int) -> range:
    return range(2, (n + 1) // 2, 2)


def _gauss_jacobi(count: int, alpha: float, beta: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Nodes and weights for the probability density ~ (1 - s)^alpha (1 + s)^beta (Golub and Welsch 1969)."""
    if alpha == beta == 0:
        nodes, weights = np.polynomial.legendre.leggauss(count)
        return nodes, weights / 2
    k = np.arange(count, dtype=np.float64)
    total = 2 * k + alpha + beta
    with np.errstate(divide="ignore", invalid="ignore"):
        diagonal = (beta**2 - alpha**2) / (total * (total + 2))
    diagonal[0] = (beta - alpha) / (alpha + beta + 2)
    k, total = k[1:], total[1:]
    with np.errstate(divide="ignore", invalid="ignore"):
        square = 4 * k * (k + alpha) * (k + beta) * (k + alpha + beta) / (total**2 * (total**2 - 1))
    if count > 1:
        square[0] = 4 * (1 + alpha) * (1 + beta) / ((alpha + beta + 2) ** 2 * (alpha + beta + 3))
    nodes, vectors = np.linalg.eigh(
        np.diag(diagonal) + np.diag(np.sqrt(square), 1) + np.diag(np.sqrt(square), -1)
    )
    weights = vectors[0] ** 2
    return nodes, weights / weights.sum()
