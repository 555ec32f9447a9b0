"""Games as callables: any function from coalitions, a boolean (k, n) matrix, to their values (k,).

Estimators call a game in batches and count its evaluations. A game on margins is one of them; a merged
model that is scored anew for every coalition is another.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from patronage_protocol.errors import UsageError
from patronage_protocol.valuation.composition import Composition
from patronage_protocol.valuation.enumeration import MOST_OWNERS
from patronage_protocol.valuation.utilities import Utility, utility_of

__all__ = ["Game", "MarginGame", "all_coalitions", "evaluate"]

Game = Callable[[NDArray[np.bool_]], NDArray[np.float64]]

BATCH = 4096
MARGIN_BATCH_ELEMENTS = 1 << 20


class MarginGame:
    """The game that margins define: v(S) = mean over pairs of f(x_S)."""

    def __init__(self, composition: Composition, utility: Utility) -> None:
        self.composition, self.utility = composition, utility

    def __call__(self, coalitions: NDArray[np.bool_]) -> NDArray[np.float64]:
        """The values (k,) of coalitions (k, n)."""
        step = max(1, MARGIN_BATCH_ELEMENTS // self.composition.rows.shape[1])
        parts = [
            utility_of(self.composition.margins(coalitions[start : start + step]), self.utility).mean(axis=1)
            for start in range(0, len(coalitions), step)
        ]
        return np.concatenate(parts) if parts else np.empty(0)


def evaluate(game: Game, coalitions: NDArray[np.bool_], *, batch: int = BATCH) -> NDArray[np.float64]:
    """The values of coalitions (k, n), asked for in batches.

    Raises:
        UsageError: the game returned another shape, or a value that is not finite.
    """
    values = np.empty(len(coalitions))
    for start in range(0, len(coalitions), batch):
        part = coalitions[start : start + batch]
        found = np.asarray(game(part), dtype=np.float64)
        if found.shape != (len(part),) or not np.isfinite(found).all():
            raise UsageError(
                f"{len(part)} finite values for {len(part)} coalitions",
                got=f"shape {found.shape}" if found.shape != (len(part),) else "NaN or infinity",
                do="return one number for each row of the boolean matrix",
            )
        values[start : start + batch] = found
    return values


def all_coalitions(n: int) -> NDArray[np.bool_]:
    """Every coalition (2^n, n) in bitmask order.

    Raises:
        UsageError: more owners than can be enumerated.
    """
    if not 1 <= n <= MOST_OWNERS:
        raise UsageError(f"1 to {MOST_OWNERS} owners to enumerate", got=f"{n}", do="use an estimator")
    return (np.arange(1 << n)[:, None] >> np.arange(n) & 1).astype(np.bool_)
