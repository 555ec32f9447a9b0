"""Aumann-Shapley shares: what an owner earns if splitting and merging are to change nothing.

Along the ray to the grand coalition every owner is paid its margin at the current price (Aumann and Shapley
1974), for an additive game of margins in closed form:

    phi_ij = a_ij int_0^1 f'(s x_N) ds = a_ij f(x_N) / x_N

Efficient, linear in pairs, and split-proof: parts of a_i earn together what a_i earns. Shapley shares are
not: where the consortium is saturated, a splitter gains. The difference of the two rules, with an interval,
says how saturated a round is. It is unbounded for a single pair (|a_ij| / 4 for the sigmoid), so it needs
the cap on norms.
"""

import numpy as np
from numpy.typing import NDArray

from patronage_protocol.valuation.margins import Margins, check_margins
from patronage_protocol.valuation.utilities import Utility, check_utility, slope

__all__ = ["aumann_shapley"]


def aumann_shapley(
    margins: NDArray[np.float64] | Margins, *, utility: Utility = "sigmoid"
) -> NDArray[np.float64]:
    """The Aumann-Shapley shares on single pairs (n, M); their mean over pairs are the shares.

    Args:
        margins: (n, M).
        utility: `sigmoid` or `log_sigmoid`.

    Raises:
        UsageError: bad margins, or `win`, which has no price at 0.
    """
    array = check_margins(margins)
    return np.asarray(array * slope(array.sum(axis=0), check_utility(utility)))
