"""How the adapters of a coalition are put together, and with it the coalition's margin x_S.

    sum     x_S = sum of a_i over S                 adapters add up: the margins of an additive game
    mean    x_S = (sum of a_i) / |S|
    size    x_S = (sum of m_i a_i) / (sum of m_i)   m_i the number of training pairs of owner i

The empty coalition has margin 0. Only `sum` is additive in the owners, and only it has a polynomial method.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from patronage_protocol.errors import UsageError

__all__ = ["Composition", "Weights", "check_composition"]

Weights = Literal["sum", "mean", "size"]


@dataclass(frozen=True, eq=False)
class Composition:
    """Rows that add up, and the mass that the sum is divided by.

    Attributes:
        weights: the rule.
        rows: (owners, pairs) float64; the margin of a coalition is the sum of its rows over its mass.
        mass: (owners,) float64, or None where nothing is divided.
    """

    weights: Weights
    rows: NDArray[np.float64]
    mass: NDArray[np.float64] | None

    @property
    def additive(self) -> bool:
        """Whether a coalition's margin is the sum of its owners' margins."""
        return self.mass is None

    def margins(self, coalitions: NDArray[np.bool_]) -> NDArray[np.float64]:
        """The margins (k, pairs) of coalitions (k, owners)."""
        member = coalitions.astype(np.float64)
        total = member @ self.rows
        if self.mass is None:
            return total
        mass = member @ self.mass
        return total / np.where(mass > 0, mass, 1.0)[:, None]


def check_composition(
    margins: NDArray[np.float64], weights: str, sizes: NDArray[np.int64] | None
) -> Composition:
    """The composition of `margins` (owners, pairs) by that rule.

    Raises:
        UsageError: no such rule, or sizes that do not fit the rule and the owners.
    """
    n = len(margins)
    if weights == "size":
        if sizes is None or np.shape(sizes) != (n,):
            raise UsageError(
                f"sizes, one for each of {n} owners, with weights='size'",
                got="none" if sizes is None else f"shape {np.shape(sizes)}",
                do="pass the number of training pairs of each owner",
            )
        counts = np.asarray(sizes)
        if counts.dtype.kind not in "iu" or (counts < 1).any() or (counts > 2**22 // n).any():
            raise UsageError(
                f"sizes that are integers between 1 and {2**22 // n}",
                got=f"{counts.min()} to {counts.max()}, dtype {counts.dtype}",
                do="count training pairs, in larger units if there are too many",
            )
        mass = counts.astype(np.float64)
        return Composition("size", margins * mass[:, None], mass)
    if sizes is not None:
        raise UsageError("sizes only with weights='size'", got=f"weights={weights!r}", do="leave sizes out")
    if weights == "sum":
        return Composition("sum", margins, None)
    if weights == "mean":
        return Composition("mean", margins, np.ones(n))
    raise UsageError("weights out of sum, mean, size", got=repr(weights), do="choose one of them")
