"""Shares of a game whose every coalition costs a forward pass: as few of them as the error asked for needs.

A merged model is near the additive game of the owners' own margins, whose shares are known exactly, so only
the difference is estimated (`patronage_protocol.valuation.estimators`):

    phi = phi_additive + estimate(v - v_additive)

Coalitions are scored once and kept. Where all of them are affordable they are enumerated, and nothing is
estimated at all.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patronage_protocol.errors import UsageError
from patronage_protocol.policy import TokenizedPair
from patronage_protocol.valuation import (
    Control,
    Semivalue,
    additive_control,
    all_coalitions,
    estimate_shares,
    shares_from_values,
)
from patronage_protocol.valuation.enumeration import MOST_OWNERS
from patronage_protocol.valuation.utilities import Utility, check_utility, utility_of
from patronage_server.composition.rules import CoalitionScorer, CompositionRule
from patronage_server.composition.scoring import Progress

__all__ = ["CoalitionGame", "EstimatedShares", "shares_to_error"]

LEAST_ORDERS = 4
"""Antithetic pairs of orders before a standard error is believed."""


class CoalitionGame:
    """v(S), the mean utility of a coalition's margins; a coalition is scored when it is first asked for.

    Attributes:
        scored: coalitions that were scored so far, the empty one not counted.
    """

    def __init__(
        self, scorer: CoalitionScorer, beta: float, utility: Utility, progress: Progress | None = None
    ) -> None:
        if check_utility(utility) == "win":
            raise UsageError(
                "a utility that floats cannot flip, sigmoid or log_sigmoid",
                got="'win'",
                do="score all coalitions and round their margins, or choose another utility",
            )
        self._scorer, self._beta, self._utility, self._progress = scorer, beta, utility, progress
        self._margins: dict[bytes, NDArray[np.float64]] = {}

    @property
    def scored(self) -> int:
        """Coalitions that were scored so far."""
        return len(self._margins)

    def __call__(self, coalitions: NDArray[np.bool_]) -> NDArray[np.float64]:
        """The values (k,) of coalitions (k, n)."""
        margins = self.margins(coalitions)
        return np.asarray(utility_of(margins, self._utility).mean(axis=1))

    def margins(self, coalitions: NDArray[np.bool_]) -> NDArray[np.float64]:
        """The margins (k, M) of coalitions (k, n); zero for the empty one."""
        keys = [row.tobytes() for row in coalitions]
        wanted = {
            key: row
            for key, row in zip(keys, coalitions, strict=True)
            if key not in self._margins and row.any()
        }
        if wanted:
            found = self._scorer.margins(np.stack(list(wanted.values())), self._beta, self._progress)
            self._margins.update(zip(wanted, found, strict=True))
        nothing = np.zeros_like(next(iter(self._margins.values()))) if self._margins else np.zeros(1)
        return np.stack([self._margins.get(key, nothing) for key in keys])


@dataclass(frozen=True, eq=False)
class EstimatedShares:
    """Shares of n owners.

    Attributes:
        shares: (n,) in units of utility.
        standard_errors: (n,) of the estimator, over orders; zero where all coalitions were scored.
        additive: (n,) the shares of the additive game, the control.
        coalitions: how many were scored.
        passes: forward passes over all pairs, the base model's included.
        exact: whether all coalitions were scored.
    """

    shares: NDArray[np.float64]
    standard_errors: NDArray[np.float64]
    additive: NDArray[np.float64]
    coalitions: int
    passes: int
    exact: bool


def shares_to_error(
    rule: CompositionRule,
    pairs: Sequence[TokenizedPair],
    *,
    beta: float,
    standard_error: float,
    utility: Utility = "sigmoid",
    most_coalitions: int = 4096,
    seed: int = 0,
    progress: Progress | None = None,
) -> EstimatedShares:
    """Shapley shares of a composition rule, to a standard error.

    Args:
        rule: how adapters compose.
        pairs: M held-out pairs.
        beta: of the round's DPO.
        standard_error: stop when no share has a larger one.
        utility: `sigmoid` or `log_sigmoid`.
        most_coalitions: scored at most.
        seed: of the orders.
        progress: called with (steps done, steps in all) of what is being scored.

    Raises:
        UsageError: a standard error that is not positive, too few coalitions allowed for any estimate, or
            for this one; says what was reached.
    """
    n = len(rule.adapters)
    if not standard_error > 0:
        raise UsageError("a standard error above 0", got=f"{standard_error}", do="1e-3 is a start")
    scorer = rule.scorer(pairs)
    game = CoalitionGame(scorer, beta, utility, progress)
    control = additive_control(game.margins(np.eye(n, dtype=np.bool_)), utility)
    if n <= MOST_OWNERS and (1 << n) - 1 <= most_coalitions:
        shares, errors, exact = _all(game, n), np.zeros(n), True
    else:
        shares, errors = _until(game, control, standard_error, most_coalitions, seed)
        exact = False
    return EstimatedShares(shares, errors, control.shares, game.scored, scorer.passes, exact)


def _all(game: CoalitionGame, n: int) -> NDArray[np.float64]:
    return shares_from_values(game(all_coalitions(n)), Semivalue())


def _until(
    game: CoalitionGame, control: Control, wanted: float, most: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Twice as many orders each time; those of a seed begin alike, so no coalition is scored twice."""
    n, orders, reached, done = len(control.shares), LEAST_ORDERS, np.inf, 0
    while True:
        budget = 2 * orders * max(1, n - 1) + 1
        if game.scored + budget - done > most:
            raise UsageError(
                f"a standard error of {wanted:.1e} from at most {most} coalitions",
                got=f"{reached:.1e} from {game.scored}",
                do="allow more coalitions, or a larger error",
            )
        found = estimate_shares(game, n, budget=budget, seed=seed, control=control)
        assert found.standard_errors is not None, "permutations have standard errors"
        reached = float(found.standard_errors.max())
        if reached <= wanted:
            return found.shares, found.standard_errors
        orders, done = 2 * orders, budget
