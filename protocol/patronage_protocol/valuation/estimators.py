"""Shapley values of games that can only be evaluated, one coalition after the other.

| estimator       | source                                               | needs              |
|-----------------|------------------------------------------------------|--------------------|
| `permutations`  | antithetic orders, Mitchell et al., JMLR 23 (2022)   | a game             |
| `group_testing` | Jia et al., arXiv 1902.10275; last step least squares | a game            |
| `du_shapley`    | Garrido-Lucero et al., arXiv 2306.02071              | worth by data size |
| shapiq's own    | `shapiq_bridge`, an optional extra                   | a game             |

Where the game is near one that is known exactly, as a merged model is near the additive game of its
margins, that game is the control: the estimator sees the difference only, and phi = phi_control +
estimate(v - v_control).

`group_testing` and `du_shapley` are here for comparison. DU-Shapley knows an owner by its amount of data
alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from patronage_protocol.errors import UsageError
from patronage_protocol.valuation.composition import check_composition
from patronage_protocol.valuation.engine import value
from patronage_protocol.valuation.games import Game, MarginGame, evaluate
from patronage_protocol.valuation.margins import Margins, check_margins
from patronage_protocol.valuation.streams import Stream
from patronage_protocol.valuation.utilities import Utility

__all__ = ["Control", "Estimate", "additive_control", "du_shapley", "estimate_shares"]


@dataclass(frozen=True, eq=False)
class Estimate:
    """Estimated Shapley values.

    Attributes:
        shares: (n,).
        standard_errors: (n,), or None where the estimator has none.
        evaluations: of the game.
        estimator: which one.
    """

    shares: NDArray[np.float64]
    standard_errors: NDArray[np.float64] | None
    evaluations: int
    estimator: str


@dataclass(frozen=True, eq=False)
class Control:
    """A game that is cheap, near the one in question, and of known Shapley value (n,)."""

    game: Game
    shares: NDArray[np.float64]


def additive_control(margins: NDArray[np.float64] | Margins, utility: Utility = "sigmoid") -> Control:
    """The additive game of these margins (n, M), with its exact shares."""
    composition = check_composition(check_margins(margins), "sum", None)
    shares = value(margins, utility=utility, interval=None, keep_pair_shares=False).shares
    return Control(MarginGame(composition, utility), shares)


def estimate_shares(
    game: Game,
    owners: int,
    *,
    estimator: Literal["permutations", "group_testing"] = "permutations",
    budget: int,
    seed: int = 0,
    control: Control | None = None,
) -> Estimate:
    """Estimate Shapley values with at most `budget` evaluations of a game with v(empty) = 0.

    Args:
        game: coalitions (k, n) to values (k,).
        owners: n.
        estimator: which one.
        budget: evaluations allowed.
        seed: of the draws.
        control: a game that is near; its evaluations are not counted.

    Raises:
        UsageError: no such estimator, a budget too small for it, or a game that returns nonsense.
    """
    if estimator not in _ESTIMATORS:
        raise UsageError(
            f"an estimator out of {', '.join(_ESTIMATORS)}", got=repr(estimator), do="choose one of them"
        )
    if owners < 1:
        raise UsageError("at least one owner", got=f"{owners}", do="check the game")
    if control is None:
        return _ESTIMATORS[estimator](game, owners, budget, Stream(seed))
    known = control
    residual = _ESTIMATORS[estimator](
        lambda rows: game(rows) - known.game(rows), owners, budget, Stream(seed)
    )
    return Estimate(
        known.shares + residual.shares, residual.standard_errors, residual.evaluations, residual.estimator
    )


def du_shapley(
    sizes: NDArray[np.int64], worth: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> NDArray[np.float64]:
    """The discrete uniform Shapley proxy (n,): psi_i = (1/n) sum_{k < n} w(k mu_{-i} + n_i) - w(k mu_{-i}).

    Args:
        sizes: (n,) numbers of training pairs n_i; mu_{-i} is the mean of the others'.
        worth: amounts of data (k,) to utility (k,), w(0) = 0.
    """
    amounts = np.asarray(sizes, dtype=np.float64)
    n = len(amounts)
    others = (amounts.sum() - amounts) / max(1, n - 1)
    before = np.arange(n)[:, None] * others
    gains = worth((before + amounts).reshape(-1)) - worth(before.reshape(-1))
    return np.asarray(gains.reshape(n, n).mean(axis=0))


def _permutations(game: Game, n: int, budget: int, stream: Stream) -> Estimate:
    """Pairs of an order and its reverse; each costs 2 (n - 1) evaluations, and v(N) one."""
    pairs = (budget - 1) // (2 * max(1, n - 1))
    if pairs < 2:
        raise UsageError(
            f"a budget of at least {4 * max(1, n - 1) + 1} evaluations",
            got=f"{budget}",
            do="raise it, or use group_testing",
        )
    orders = stream.permutations(pairs, n)
    orders = np.stack([orders, orders[:, ::-1]], axis=1).reshape(-1, n)
    rank = np.argsort(orders, axis=1)
    prefixes = rank[:, None, :] < np.arange(1, n)[None, :, None]
    grand = evaluate(game, np.ones((1, n), dtype=np.bool_))
    inner = evaluate(game, prefixes.reshape(-1, n)).reshape(len(orders), n - 1)
    ends = np.zeros((len(orders), 1))
    steps = np.diff(np.concatenate([ends, inner, ends + grand], axis=1), axis=1)
    marginals = np.take_along_axis(steps, rank, axis=1).reshape(pairs, 2, n).mean(axis=1)
    errors = marginals.std(axis=0, ddof=1) / np.sqrt(pairs)
    return Estimate(marginals.mean(axis=0), errors, len(orders) * (n - 1) + 1, "permutations")


def _group_testing(game: Game, n: int, budget: int, stream: Stream) -> Estimate:
    """Differences of shares from random coalitions of size k, drawn with probability ~ 1/k + 1/(n-k)."""
    tests = budget - 1
    if tests < 1:
        raise UsageError("a budget of at least 2 evaluations", got=f"{budget}", do="raise it")
    grand = float(evaluate(game, np.ones((1, n), dtype=np.bool_))[0])
    if n == 1:
        return Estimate(np.array([grand]), None, 1, "group_testing")
    size = np.arange(1, n)
    chance = 1 / size + 1 / (n - size)
    scale = float(chance.sum())
    drawn = 1 + np.searchsorted(np.cumsum(chance) / scale, stream.uniforms(tests), side="right")
    drawn = np.minimum(drawn, n - 1)
    members = stream.permutations(tests, n) < drawn[:, None]
    credit = scale * (evaluate(game, members) @ members) / tests
    return Estimate(grand / n + credit - credit.mean(), None, tests + 1, "group_testing")


_ESTIMATORS: dict[str, Callable[[Game, int, int, Stream], Estimate]] = {
    "permutations": _permutations,
    "group_testing": _group_testing,
}
