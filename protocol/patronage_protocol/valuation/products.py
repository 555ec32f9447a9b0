"""Shares of product games: every owner's leave-one-out product, without a division.

The exponential of a sum is a product, z_k = exp(i w a_k), and with s = 2t - 1

    1 + t (z_k - 1) = exp(i w a_k / 2) (c_k + i s sin_k),      c_k, sin_k = cos, sin of w a_k / 2,

so that the semivalue of S -> exp(i w x_S) is

    phi_i = 2 i sin_i exp(i w x_N / 2) * int prod_{k != i} (c_k + i s sin_k) dmu(s).

For a symmetric measure the integral is real. Leave-one-out products come from prefix and suffix products:
one pass forward and one back, exact also where a factor vanishes.
"""

import numpy as np
from numpy.typing import NDArray

from patronage_protocol.valuation.harmonics import Expansion
from patronage_protocol.valuation.quadrature import InclusionRule

__all__ = ["coefficients", "product_shares"]

CHUNK_ELEMENTS = 1 << 14
CHUNK_BYTES = 1 << 23


def product_shares(
    margins: NDArray[np.float64], expansion: Expansion, rule: InclusionRule
) -> NDArray[np.float64]:
    """The shares (n, J) of the oscillating part of a utility, for margins (n, J)."""
    n, pairs = margins.shape
    shares = np.zeros((n, pairs))
    elements = min(CHUNK_ELEMENTS, CHUNK_BYTES // (16 * n))
    step = max(1, elements // (len(rule.nodes) * pairs))
    for start in range(0, len(expansion.frequencies), step):
        chosen = slice(start, start + step)
        angles = expansion.half_angles(margins, chosen)
        cosines, sines = np.cos(angles), np.sin(angles)
        product = coefficients(margins.sum(axis=0), expansion, rule, chosen)
        shares += _leave_one_out(cosines, sines, rule.nodes, product)
    return shares


def coefficients(
    grand: NDArray[np.float64], expansion: Expansion, rule: InclusionRule, chosen: slice
) -> NDArray[np.complex128]:
    """What stands before sin_i times a leave-one-out product, (T, Q, J): the real part of it all is a share.

    Args:
        grand: x_N of the pairs (J,).
        expansion: supplies w_q and its weight.
        rule: supplies the weights of the T nodes.
        chosen: the frequencies wanted.
    """
    turn = np.exp(1j * expansion.half_angles(grand, chosen))
    if expansion.even:
        turn = 1j * turn
    if rule.folded:
        turn = turn.real.astype(np.complex128)
    return np.asarray(rule.weights[:, None, None] * (2.0 * expansion.weights[chosen][:, None] * turn))


def _leave_one_out(
    cosines: NDArray[np.float64],
    sines: NDArray[np.float64],
    nodes: NDArray[np.float64],
    first: NDArray[np.complex128],
) -> NDArray[np.float64]:
    """Sums over nodes and frequencies of sin_i Re(first * prod_{k != i} factor_k): (n, J)."""
    n = len(cosines)
    imaginary = nodes[:, None, None]
    prefixes = np.empty((n, *first.shape), dtype=np.complex128)
    prefixes[0] = first
    factor = np.empty_like(first)
    for k in range(n - 1):
        factor.real = cosines[k]
        np.multiply(imaginary, sines[k], out=factor.imag)
        np.multiply(prefixes[k], factor, out=prefixes[k + 1])
    suffix = np.ones_like(first)
    shares = np.empty((n, first.shape[-1]))
    for k in reversed(range(n)):
        over_nodes = np.add.reduce((prefixes[k] * suffix).real, axis=0)
        shares[k] = np.add.reduce(sines[k] * over_nodes, axis=0)
        if k:
            factor.real = cosines[k]
            np.multiply(imaginary, sines[k], out=factor.imag)
            np.multiply(suffix, factor, out=suffix)
    return shares
