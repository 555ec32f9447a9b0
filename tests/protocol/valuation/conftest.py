"""Plain definitions, slow and obvious, that every method of valuation is held against."""

from collections.abc import Callable
from itertools import permutations

import numpy as np
import pytest
from numpy.typing import NDArray

Game = Callable[[NDArray[np.bool_]], NDArray[np.float64]]


def plain_utility(x: NDArray[np.float64], utility: str) -> NDArray[np.float64]:
    if utility == "sigmoid":
        return 1 / (1 + np.exp(-x)) - 0.5
    if utility == "log_sigmoid":
        return np.log(2) - np.logaddexp(0, -x)
    return np.where(x > 0, 0.5, np.where(x < 0, -0.5, 0.0))


def plain_margin_game(
    margins: NDArray[np.float64], utility: str, mass: NDArray[np.float64] | None = None
) -> Game:
    """v(S) for one row of membership, straight from the definition."""

    def game(members: NDArray[np.bool_]) -> NDArray[np.float64]:
        chosen = np.asarray(members)
        if not chosen.any():
            return np.zeros(margins.shape[1])
        if mass is None:
            x = margins[chosen].sum(axis=0)
        else:
            x = (margins[chosen] * mass[chosen, None]).sum(axis=0) / mass[chosen].sum()
        return plain_utility(x, utility)

    return game


@pytest.fixture(scope="session")
def margin_game() -> Callable[..., Game]:
    return plain_margin_game


@pytest.fixture(scope="session")
def shapley_by_permutations() -> Callable[[Game, int], NDArray[np.float64]]:
    return _shapley_by_permutations


def _shapley_by_permutations(game: Game, n: int) -> NDArray[np.float64]:
    """The mean marginal contribution over all n! orders, (n, pairs)."""
    known: dict[tuple[bool, ...], NDArray[np.float64]] = {}

    def worth(members: NDArray[np.bool_]) -> NDArray[np.float64]:
        key = tuple(members.tolist())
        if key not in known:
            known[key] = game(members)
        return known[key]

    total, count = np.zeros((n, len(worth(np.zeros(n, dtype=bool))))), 0
    for order in permutations(range(n)):
        members = np.zeros(n, dtype=bool)
        before = worth(members)
        for owner in order:
            members[owner] = True
            after = worth(members)
            total[owner] += after - before
            before = after
        count += 1
    return total / count
