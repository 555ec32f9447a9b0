"""Pairwise Shapley interactions: what two owners are worth together beyond what they are worth apart.

    I_ik = sum over T without i, k of |T|! (n-|T|-2)! / (n-1)!  [v(T+i+k) - v(T+i) - v(T+k) + v(T)]

(Grabisch and Roubens 1999.) Negative where two owners bring the same thing. For the product games of
`products` it is -4 sin_i sin_k exp(i w x_N / 2) times the mean of the products over all other owners, so
that one complex matrix product for every frequency and node gives all pairs of owners. Dividing two factors
out is safe: no node is at s = 0, and |factor| >= |s|.
"""

import numpy as np
from numpy.typing import NDArray

from patronage_protocol.errors import UsageError
from patronage_protocol.valuation._products import tiled_product
from patronage_protocol.valuation._threads import check_threads, in_order
from patronage_protocol.valuation.enumeration import shares_from_values
from patronage_protocol.valuation.harmonics import Expansion, aliasing_period, expand
from patronage_protocol.valuation.margins import Margins, check_margins
from patronage_protocol.valuation.quadrature import InclusionRule, inclusion_rule
from patronage_protocol.valuation.semivalues import Semivalue
from patronage_protocol.valuation.utilities import Utility, check_utility

__all__ = ["interactions_from_values", "pairwise_interactions"]

BLOCK_PAIRS = 64
CHUNK_ELEMENTS = 1 << 20


def pairwise_interactions(
    margins: NDArray[np.float64] | Margins,
    *,
    utility: Utility = "sigmoid",
    tolerance: float = 1e-9,
    threads: int | None = None,
) -> NDArray[np.float64]:
    """All interactions (n, n) of the game with weights `sum`; symmetric, with zeros on the diagonal.

    Args:
        margins: (n, M).
        utility: `sigmoid` or `log_sigmoid`; for `win` enumerate, and use `interactions_from_values`.
        tolerance: the error allowed in any interaction.
        threads: how many threads may work; the result does not depend on it.

    Raises:
        UsageError: bad margins, or a utility that is not smooth.
    """
    array, smooth = check_margins(margins), check_utility(utility)
    if smooth == "win":
        raise UsageError("a smooth utility", got="'win'", do="enumerate and use interactions_from_values")
    n, pairs = array.shape
    if n == 1:
        return np.zeros((1, 1))
    # an interaction is a difference of two marginal contributions
    error = tolerance / 8
    expansion = expand(float(aliasing_period(array, smooth, error).max()), smooth, error)
    angle = expansion.frequencies * float(np.abs(array).max())
    weight = float(np.sum(np.abs(expansion.weights) * np.minimum(4.0, angle**2)))
    rule = inclusion_rule(Semivalue(), n, error / max(weight, 1e-3))

    def block(start: int) -> NDArray[np.float64]:
        return _interactions(np.ascontiguousarray(array[:, start : start + BLOCK_PAIRS]), expansion, rule)

    total = np.zeros((n, n))
    for part in in_order(block, range(0, pairs, BLOCK_PAIRS), check_threads(threads)):
        total += part
    total /= pairs
    np.fill_diagonal(total, 0.0)
    return total


def interactions_from_values(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The interactions (n, n) of any game, from all its values (2^n,) in bitmask order.

    I_ik is the Shapley value of k in the game T -> v(T + i) - v(T) on the other owners.

    Raises:
        UsageError: the length is not a power of two, or 1.
    """
    n = len(values).bit_length() - 1
    if n < 1 or len(values) != 1 << n:
        raise UsageError("2^n coalition values", got=f"{len(values)}", do="pass all of them, bitmask order")
    result = np.zeros((n, n))
    if n == 1:
        return result
    for i in range(n):
        split = values.reshape(-1, 2, 1 << i)
        gain = (split[:, 1] - split[:, 0]).reshape(-1)
        result[i, np.arange(n) != i] = shares_from_values(gain, Semivalue())
    return result


def _interactions(
    margins: NDArray[np.float64], expansion: Expansion, rule: InclusionRule
) -> NDArray[np.float64]:
    """The sum over pairs (n, J) of their interactions."""
    n, pairs = margins.shape
    grand = margins.sum(axis=0)
    total = np.zeros((n, n))
    step = max(1, CHUNK_ELEMENTS // (n * pairs * len(rule.nodes)))
    for start in range(0, len(expansion.frequencies), step):
        chosen = slice(start, start + step)
        waves = expansion.half_waves(margins, chosen)[:, :, None]
        sines = waves.imag
        factors = waves.real + 1j * rule.nodes[:, None] * sines
        turn = 1j * expansion.half_waves(grand, chosen)[:, None]
        coefficient = (1j * turn if expansion.even else turn).real
        whole = np.multiply.reduce(factors, axis=0) * (
            4.0 * expansion.weights[chosen][:, None, None] * rule.weights[:, None] * coefficient
        )
        kernel = (sines / factors).reshape(n, -1)
        weighted = kernel * whole.reshape(-1)
        total += tiled_product(np.ascontiguousarray(weighted.real), kernel.real.T)
        total -= tiled_product(np.ascontiguousarray(weighted.imag), kernel.imag.T)
    return total
