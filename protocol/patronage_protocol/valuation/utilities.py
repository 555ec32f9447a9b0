"""The utility of one held-out pair as a function of a coalition's margin x, with f(0) = 0.

| name          | f(x)                          |
|---------------|-------------------------------|
| `sigmoid`     | sigma(x) - 1/2                |
| `log_sigmoid` | log sigma(x) + log 2          |
| `win`         | 1[x > 0] + 1[x = 0]/2 - 1/2   |

The value of a coalition is the mean of f over the pairs.
"""

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from patronage_protocol.errors import UsageError

__all__ = ["Utility", "check_utility", "slope", "utility_of"]

Utility = Literal["sigmoid", "log_sigmoid", "win"]


def check_utility(name: str) -> Utility:
    """The name, if it is one of the three.

    Raises:
        UsageError: it is not.
    """
    known: tuple[Utility, ...] = get_args(Utility)
    for utility in known:
        if name == utility:
            return utility
    raise UsageError(f"a utility out of {', '.join(known)}", got=repr(name), do="choose one of them")


def utility_of(x: NDArray[np.float64], utility: Utility) -> NDArray[np.float64]:
    """f(x), elementwise, to full precision for every finite x."""
    if utility == "sigmoid":
        return np.tanh(x * 0.5) * 0.5
    if utility == "log_sigmoid":
        # log 2 - log(1 + exp(-x)), arranged so that neither exponential overflows
        return np.asarray(np.minimum(x, 0.0) - np.log1p(np.exp(-np.abs(x))) + np.log(2.0))
    return np.sign(x) * 0.5


def slope(x: NDArray[np.float64], utility: Utility) -> NDArray[np.float64]:
    """f(x) / x, and f'(0) at x = 0: the price per unit of margin along the ray to x.

    Raises:
        UsageError: `win` has no derivative at 0.
    """
    if utility == "win":
        raise UsageError("a utility with a derivative at 0", got="'win'", do="use sigmoid or log_sigmoid")
    at_zero = 0.25 if utility == "sigmoid" else 0.5
    away = x != 0.0
    divisor = np.where(away, x, 1.0)
    return np.where(away, utility_of(x, utility) / divisor, at_zero)
