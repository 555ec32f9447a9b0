"""How far estimators are from the exact shares, at equal numbers of evaluations."""

from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from patronage_protocol.valuation import (
    Control,
    Game,
    Semivalue,
    additive_control,
    all_coalitions,
    du_shapley,
    estimate_shares,
    shares_from_values,
    value,
)
from patronage_protocol.valuation.utilities import utility_of
from patronage_simulations.benchmarks.charts import log_chart

__all__ = ["accuracy_tables", "control_table"]

OWNERS, BUDGETS, SEEDS, PAIRS = (20, 50, 100), (2_000, 10_000), (0,), 200
STRENGTHS = {"mild": 0.15, "strong": 1.0}
OF_SHAPIQ = (
    "KernelSHAP",
    "LeverageSHAP",
    "PolySHAP",
    "OddSHAP",
    "SVARM",
    "UnbiasedKernelSHAP",
    "PermutationSamplingSV",
)
Ask = Callable[..., dict[str, Any]]
Estimator = Literal["permutations", "group_testing"]
ESTIMATORS: tuple[Estimator, ...] = ("permutations", "group_testing")


def accuracy_tables(ask_shapiq: Ask | None) -> tuple[Iterator[str], str]:
    """A table of relative errors (the median over seeds), and a chart for mild margins and the larger budget.

    Args:
        ask_shapiq: has shapiq estimate on given margins; None to leave its estimators out.
    """
    errors: dict[tuple[str, str, int, int], float] = {}
    for strength, scale in STRENGTHS.items():
        for n in OWNERS:
            margins = np.random.default_rng(n).normal(0.05, scale, size=(n, PAIRS))
            exact = value(margins, interval=None, method="polynomial").shares
            for (name, budget), found in _estimates(margins, ask_shapiq).items():
                norms = [np.linalg.norm(shares - exact) / np.linalg.norm(exact) for shares in found]
                errors[name, strength, n, budget] = float(np.median(norms))
    names = list(dict.fromkeys(name for name, *_ in errors))
    chart = log_chart(
        {name: [(n, errors[name, "mild", n, BUDGETS[1]]) for n in OWNERS] for name in names},
        title=f"Mild margins, {BUDGETS[1]} evaluations",
        x_label="owners",
        y_label="||estimate - exact|| / ||exact||",
    )
    return _table(errors, names), chart


def control_table() -> Iterator[str]:
    """Estimators with and without the additive control on a game that is nearly additive, n = 16."""
    n, scale = 16, 0.3
    rng = np.random.default_rng(0)
    margins = rng.normal(0.1, scale, size=(n, PAIRS))
    clash = rng.normal(size=(n, n)) * 0.00025
    control = additive_control(margins)

    def merged(rows: NDArray[np.bool_]) -> NDArray[np.float64]:
        members = np.asarray(rows).astype(np.float64)
        bent = members @ margins + np.einsum("ki,ij,kj->k", members, clash, members)[:, None]
        return np.asarray(utility_of(bent, "sigmoid").mean(axis=1))

    exact = shares_from_values(merged(all_coalitions(n)), Semivalue())
    residual = float(np.linalg.norm(control.shares - exact) / np.linalg.norm(exact))
    yield f"The additive shares alone are off by {residual:.1e}."
    yield ""
    yield "| estimator | evaluations | alone | with control |"
    yield "|---|---|---|---|"
    for estimator in ESTIMATORS:
        for budget in (64, 512, 4096):
            row = [_median_error(merged, exact, estimator, budget, known) for known in (None, control)]
            yield f"| {estimator} | {budget} | {row[0]:.1e} | {row[1]:.1e} |"


def _median_error(
    game: Game, exact: NDArray[np.float64], estimator: Estimator, budget: int, control: Control | None
) -> float:
    n = len(exact)
    found = [
        estimate_shares(game, n, estimator=estimator, budget=budget, seed=seed, control=control).shares
        for seed in range(9)
    ]
    return float(np.median([np.linalg.norm(shares - exact) for shares in found]) / np.linalg.norm(exact))


def _estimates(
    margins: NDArray[np.float64], ask_shapiq: Ask | None
) -> dict[tuple[str, int], list[NDArray[np.float64]]]:
    """Shares by estimator and budget, for every seed."""
    n = len(margins)
    game = additive_control(margins).game
    found: dict[tuple[str, int], list[NDArray[np.float64]]] = {}
    for budget in BUDGETS:
        for estimator in ESTIMATORS:
            found[estimator, budget] = [
                estimate_shares(game, n, estimator=estimator, budget=budget, seed=seed).shares
                for seed in SEEDS
            ]
        # every owner trained on as many pairs, and utility grows along the ray to the grand coalition
        found["du_shapley", budget] = [du_shapley(np.full(n, 100), _worth_by_size(margins))]
    if ask_shapiq is None:
        return found
    answer = ask_shapiq(margins, approximators=OF_SHAPIQ, budgets=BUDGETS, seeds=SEEDS)
    for row in answer["rows"]:
        found.setdefault((f"shapiq {row['name']}", row["budget"]), []).append(np.array(row["shares"]))
    return found


def _worth_by_size(margins: NDArray[np.float64]) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    grand = margins.sum(axis=0) / (100 * len(margins))
    return lambda amounts: np.asarray(utility_of(amounts[:, None] * grand, "sigmoid").mean(axis=1))


def _table(errors: dict[tuple[str, str, int, int], float], names: list[str]) -> Iterator[str]:
    cases = [(strength, n, budget) for strength in STRENGTHS for n in OWNERS for budget in BUDGETS]
    yield "| estimator | " + " | ".join(f"{s} {n}, {b // 1000}k" for s, n, b in cases) + " |"
    yield "|---" * (len(cases) + 1) + "|"
    for name in names:
        cells = [f"{errors[name, s, n, b]:.1e}" if (name, s, n, b) in errors else "" for s, n, b in cases]
        yield f"| {name} | " + " | ".join(cells) + " |"
