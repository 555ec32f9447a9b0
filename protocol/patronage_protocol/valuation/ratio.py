"""The exact semivalues of an average: S -> sum_{l in S} m_l a_l / sum_{l in S} m_l.

It is the control variate of games whose composition divides. With 1/m(S) = int_0^inf exp(-u m(S)) du the game
that pays 1 to l's term is a product game, and its semivalue is an integral of positive terms over u and the
inclusion probability t:

    phi_i = sum_l C_il a_l,     z_k = exp(-u m_k) - 1
    C_ll  = int int m_l exp(-u m_l) prod_{k != l} (1 + t z_k) dt du
    C_il  = int int m_l exp(-u m_l) t z_i prod_{k != i, l} (1 + t z_k) dt du

The t integrals are polynomials, exact by a Gauss rule; with u = exp(v) the trapezoidal rule converges
exponentially.
"""

import math

import numpy as np
from numpy.typing import NDArray

from patronage_protocol.valuation.quadrature import inclusion_rule
from patronage_protocol.valuation.semivalues import Semivalue

__all__ = ["average_shares"]

STEP = 0.3
"""Spacing in v: the integrand is analytic for |Im v| < pi/2, hence an error of about exp(-pi^2 / STEP)."""


def average_shares(mass: NDArray[np.float64], semivalue: Semivalue) -> NDArray[np.float64]:
    """C (n, n): the semivalue of owner i is C[i] @ a, for positive masses (n,)."""
    n = len(mass)
    points, weights = inclusion_rule(semivalue, n, 0.0).unfolded()
    inclusion = (points + 1) / 2
    least, whole = float(mass.min()), float(mass.sum())
    v = np.arange(math.log(1e-15 / whole), math.log(45.0 / least), STEP)
    result = np.zeros((n, n))
    for u in np.exp(v):
        gone = np.expm1(-u * mass)
        factors = 1.0 + inclusion[:, None] * gone
        product = weights * np.multiply.reduce(factors, axis=1)
        own = u * STEP * mass * (1.0 + gone)
        alone = np.add.reduce(product[:, None] / factors, axis=0)
        pairs = (gone / factors).T @ ((product * inclusion)[:, None] / factors)
        np.fill_diagonal(pairs, alone)
        result += pairs * own
    return result
