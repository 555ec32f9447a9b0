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

__all__ = ["leave_one_out", "product_shares"]

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
        waves = expansion.half_waves(margins, chosen)[:, :, None]
        first = _coefficients(margins.sum(axis=0), expansion, rule, chosen)
        shares += leave_one_out(waves, rule.nodes[:, None], first)[0]
    return shares


def leave_one_out(
    waves: NDArray[np.complex128],
    nodes: NDArray[np.float64],
    first: NDArray[np.complex128],
) -> tuple[NDArray[np.float64], NDArray[np.complex128]]:
    """sum over frequencies and nodes of sin_i Re(first * prod_{k != i} factor_k), and first * prod factor_k.

    Args:
        waves: c_k + i sin_k, (m, Q, 1, J).
        nodes: s, (T, 1).
        first: what every product starts from, (Q, T, J).

    Returns:
        The sums (m, J) and the whole products (Q, T, J).
    """
    prefixes = np.empty((len(waves) + 1, *first.shape), dtype=np.complex128)
    prefixes[0] = first
    factor, suffix, whole = np.empty_like(first), np.ones_like(first), np.empty_like(first)
    for k, wave in enumerate(waves):
        _factor(wave, nodes, factor)
        np.multiply(prefixes[k], factor, out=prefixes[k + 1])
    sums = np.empty((len(waves), first.shape[-1]))
    for k in reversed(range(len(waves))):
        np.multiply(prefixes[k], suffix, out=whole)
        over_nodes = np.add.reduce(whole.real, axis=1)
        sums[k] = np.add.reduce(waves[k, :, 0].imag * over_nodes, axis=0)
        _factor(waves[k], nodes, factor)
        np.multiply(suffix, factor, out=suffix)
    return sums, prefixes[-1]


def _factor(wave: NDArray[np.complex128], nodes: NDArray[np.float64], out: NDArray[np.complex128]) -> None:
    out.real = wave.real
    np.multiply(nodes, wave.imag, out=out.imag)


def _coefficients(
    grand: NDArray[np.float64], expansion: Expansion, rule: InclusionRule, chosen: slice
) -> NDArray[np.complex128]:
    """What stands before sin_i times a leave-one-out product, (Q, T, J); the real part is a share."""
    turn = expansion.half_waves(grand, chosen)[:, None]
    if expansion.even:
        turn = 1j * turn
    if rule.folded:
        turn = turn.real.astype(np.complex128)
    return np.asarray(2.0 * expansion.weights[chosen][:, None, None] * rule.weights[:, None] * turn)
