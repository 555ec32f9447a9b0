"""The library shapiq (Muschalik et al., NeurIPS 2024) behind one small adapter: estimators and plots.

shapiq is an optional extra, imported when it is used. Its estimators see the game less its control, like
our own (`estimators`).
"""

import importlib
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patronage_protocol.errors import MissingExtraError, UsageError
from patronage_protocol.valuation.estimators import Control, Estimate
from patronage_protocol.valuation.games import Game, evaluate
from patronage_protocol.valuation.results import ValuationResult

__all__ = ["estimate_with_shapiq", "to_interaction_values"]

INDEX = {"shapley": "SV", "banzhaf": "BV"}


def estimate_with_shapiq(
    game: Game, owners: int, *, approximator: str, budget: int, seed: int = 0, control: Control | None = None
) -> Estimate:
    """Estimate Shapley values with an approximator of shapiq.

    Args:
        game: coalitions (k, n) to values (k,), v(empty) = 0.
        owners: n.
        approximator: the name of its class in `shapiq.approximator`, such as `KernelSHAP` or `OddSHAP`.
        budget: evaluations allowed.
        seed: of its draws.
        control: a game that is near, see `estimators`.

    Raises:
        MissingExtraError: shapiq is not installed.
        UsageError: it has no such approximator.
    """
    made = getattr(_shapiq("shapiq.approximator"), approximator, None)
    if made is None:
        raise UsageError(
            "the name of an approximator of shapiq", got=repr(approximator), do="see shapiq.approximator"
        )
    asked = 0

    def residual(rows: NDArray[np.bool_]) -> NDArray[np.float64]:
        nonlocal asked
        members = np.asarray(rows, dtype=np.bool_).reshape(-1, owners)
        asked += len(members)
        values = evaluate(game, members)
        return values if control is None else values - control.game(members)

    found = made(n=owners, random_state=seed).approximate(budget, residual)
    shares = _first_order(found, owners)
    return Estimate(shares if control is None else control.shares + shares, None, asked, approximator)


def to_interaction_values(result: ValuationResult, interactions: NDArray[np.float64] | None = None) -> Any:
    """The shares as `shapiq.InteractionValues`, which its plots take.

    Args:
        result: a valuation by Shapley or Banzhaf.
        interactions: (n, n) of `pairwise_interactions`; then the index is `SII` of order 2.

    Raises:
        MissingExtraError: shapiq is not installed.
        UsageError: shapiq has no index for the semivalue.
    """
    index = INDEX.get(result.semivalue)
    if index is None or (interactions is not None and index != "SV"):
        raise UsageError(
            "shares by shapley or banzhaf, and interactions with shapley only",
            got=result.semivalue,
            do="value with one of those",
        )
    n = len(result.shares)
    scores: dict[tuple[int, ...], float] = {(): 0.0}
    scores |= {(i,): float(result.shares[i]) for i in range(n)}
    if interactions is not None:
        scores |= {(i, k): float(interactions[i, k]) for i in range(n) for k in range(i + 1, n)}
    return _shapiq("shapiq").InteractionValues(
        scores,
        index=index if interactions is None else "SII",
        max_order=1 if interactions is None else 2,
        min_order=0,
        n_players=n,
        estimated=result.certificate.method == "sampling",
        baseline_value=0.0,
    )


def _first_order(found: Any, owners: int) -> NDArray[np.float64]:
    values = found.dict_values
    return np.array([float(values.get((owner,), 0.0)) for owner in range(owners)])


def _shapiq(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("shapiq"):
            raise
        raise MissingExtraError("shapiq", extra="estimators") from error
