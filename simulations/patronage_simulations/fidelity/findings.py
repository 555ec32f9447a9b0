"""From margins to findings: how true every rule is, what its error is made of, and what no rule can beat.

Truth is the shares of coalitions trained on the union. Two trainings of the same coalitions that differ only
in their seed differ by the seed noise: a rule whose adapters had one seed cannot be expected nearer than that
to shares that were trained with another. Within a seed it can.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from itertools import permutations
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from patronage_protocol.valuation.utilities import Utility
from patronage_simulations.fidelity import rules
from patronage_simulations.fidelity.margins import SeedMargins, StudyMargins
from patronage_simulations.fidelity.measures import (
    Agreement,
    agreement,
    bootstrap_shares,
    relative_error,
    shares_of,
    spearman_step,
)
from patronage_simulations.fidelity.parts import Part, parts_of

__all__ = ["TARGET_ERROR", "TARGET_PEARSON", "Findings", "RuleFinding", "estimates", "find"]

Array = NDArray[np.float64]
TARGET_ERROR, TARGET_PEARSON = 0.10, 0.99
RETRAINED_ELSEWHERE = "retrained elsewhere"
"""Not a rule: what is known of a seed by retraining every coalition with the others. To be nearer is luck."""

REPLICATES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class RuleFinding:
    """One rule under one utility, against coalitions trained on the union.

    Attributes:
        rule: its name.
        trainings: how many, in words: `n`, `n + 1`, or `2^n`.
        seeds: agreement with the truth of the same seed, by seed; a rule may be measured for some alone.
        error: mean over the seeds of the relative error.
        lower: bootstrap bound of `error`, prompts of the held-out pairs drawn anew.
        upper: the other bound.
        across: mean relative error against the truths of the other seeds; NaN with one seed.
        pooled: agreement of the mean over the seeds with the mean of their truths.
    """

    rule: str
    trainings: str
    seeds: Mapping[int, Agreement]
    error: float
    lower: float
    upper: float
    across: float
    pooled: Agreement

    def mean(self, of: Callable[[Agreement], float]) -> float:
        """The mean over the seeds."""
        return float(np.mean([of(found) for found in self.seeds.values()]))

    @property
    def reaches_target(self) -> bool:
        """Whether error and correlation within the seeds reach both targets in the mean."""
        return self.error <= TARGET_ERROR and self.mean(lambda found: found.pearson) >= TARGET_PEARSON

    @property
    def pooled_reaches_target(self) -> bool:
        """Whether shares that are means over the seeds reach both targets."""
        return self.pooled.error <= TARGET_ERROR and self.pooled.pearson >= TARGET_PEARSON


@dataclass(frozen=True)
class Findings:
    """Everything under one utility.

    Attributes:
        utility: its name.
        truth: shares (n,) of coalitions trained on the union, by seed.
        grand: v(N), by seed.
        rules: one finding a rule, in the order of `estimates`.
        parts: what the error is made of.
        spearman_step: the steps in which rank correlations move.
    """

    utility: Utility
    truth: Mapping[int, tuple[float, ...]]
    grand: Mapping[int, float]
    rules: tuple[RuleFinding, ...]
    parts: tuple[Part, ...]
    spearman_step: float

    def as_json(self) -> dict[str, Any]:
        """As JSON can say it; a correlation that is not defined is null."""
        found: dict[str, Any] = _without_nan(asdict(self))
        return found


def find(study: StudyMargins, *, bootstrap_seed: int = 0) -> tuple[Findings, ...]:
    """The findings under every utility."""
    return tuple(_under(study, utility, bootstrap_seed) for utility in get_args(Utility))


def estimates(seed: SeedMargins, sizes: tuple[int, ...]) -> dict[str, tuple[str, Array]]:
    """Every rule's trainings and margins (2^n, M), computed without retraining coalitions but the last."""
    solo, grand = seed.solo, seed.union[-1]
    found = {
        "policy:sum": ("n", rules.policy(solo)),
        "policy:mean": ("n", rules.policy(solo, [1.0] * len(solo))),
        "policy:size": ("n", rules.policy(solo, sizes)),
        **{name: ("n", margins) for name, margins in seed.composed.items()},
        "scaled policy:sum": ("n + 1", rules.scaled(rules.policy(solo), grand)),
        "weighted policy:sum": ("n + 1", rules.weighted(solo, grand)),
    }
    for name in ("policy:sum", "weights:sum", "factors:sum"):
        if name in found:
            margins = found[name][1]
            found[f"anchored {name}"] = "n + 1", rules.anchored(margins, grand, sizes)
            found[f"blended {name}"] = "n + 1", rules.blended(margins, grand, sizes, solo)
    for order, margins in list(seed.sequences.items())[:1]:
        chain = margins[[sum(1 << i for i in order[: k + 1]) for k in range(len(order))]]
        found["chained policy:sum"] = "n + 1", rules.chained(rules.policy(solo), chain, order, sizes)
    return found


def _retrained_elsewhere(seeds: Mapping[int, SeedMargins]) -> dict[int, Array]:
    """What training by itself tells of each seed.

    Single owners and the grand coalition are those of the seed; every other coalition has the mean margins
    that it was trained to with the other seeds.
    """
    found: dict[int, Array] = {}
    for seed, own in seeds.items():
        margins = np.mean([other.union for number, other in seeds.items() if number != seed], axis=0)
        known = [0, *(1 << i for i in range(len(own.solo))), len(margins) - 1]
        margins[known] = own.union[known]
        found[seed] = margins
    return found


def _under(study: StudyMargins, utility: Utility, bootstrap_seed: int) -> Findings:
    def shares(margins: Array) -> Array:
        return shares_of(margins, utility, scale_bits=study.scale_bits)

    def drawn(pair_shares: Array) -> Array:
        return bootstrap_shares(pair_shares, study.clusters, replicates=REPLICATES, seed=bootstrap_seed)

    truths = {seed: shares(margins.union) for seed, margins in study.seeds.items()}
    by_seed = {seed: estimates(margins, study.sizes) for seed, margins in study.seeds.items()}
    if len(study.seeds) > 1:
        for seed, margins in _retrained_elsewhere(study.seeds).items():
            by_seed[seed][RETRAINED_ELSEWHERE] = "2^n", margins
    named = {name: found[name][0] for found in by_seed.values() for name in found}
    parts = tuple(parts_of(study, shares, truths, drawn))
    return Findings(
        utility=utility,
        truth={seed: tuple(truth.mean(axis=1).tolist()) for seed, truth in truths.items()},
        grand={seed: float(truth.mean(axis=1).sum()) for seed, truth in truths.items()},
        rules=tuple(
            _rule(
                name,
                trainings,
                {seed: shares(found[name][1]) for seed, found in by_seed.items() if name in found},
                truths,
                drawn=drawn,
                budget=study.budget,
            )
            for name, trainings in named.items()
        ),
        parts=parts,
        spearman_step=spearman_step(len(study.owners)),
    )


def _rule(
    name: str,
    trainings: str,
    estimated: Mapping[int, Array],
    truths: Mapping[int, Array],
    *,
    drawn: Callable[[Array], Array],
    budget: int,
) -> RuleFinding:
    points = {seed: found.mean(axis=1) for seed, found in estimated.items()}
    truth = {seed: found.mean(axis=1) for seed, found in truths.items()}
    replicates = np.mean([_errors(drawn(estimated[seed]), drawn(truths[seed])) for seed in estimated], axis=0)
    lower, upper = np.quantile(replicates, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    others = [relative_error(points[a], truth[b]) for a, b in permutations(estimated, 2)]
    return RuleFinding(
        rule=name,
        trainings=trainings,
        seeds={seed: agreement(points[seed], truth[seed], budget=budget) for seed in estimated},
        error=float(np.mean([relative_error(points[seed], truth[seed]) for seed in estimated])),
        lower=float(lower),
        upper=float(upper),
        across=float(np.mean(others)) if others else float("nan"),
        pooled=agreement(
            np.mean(list(points.values()), axis=0),
            np.mean([truth[seed] for seed in points], axis=0),
            budget=budget,
        ),
    )


def _errors(estimates: Array, truths: Array) -> Array:
    return np.asarray(np.linalg.norm(estimates - truths, axis=1) / np.linalg.norm(truths, axis=1))


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _without_nan(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and np.isnan(value) else value
