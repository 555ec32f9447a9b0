# mypy: allow-untyped-calls
"""In-Run Data Shapley: what each pair did to the validation loss, summed over the steps of one training.

At step t the players are the pairs of its batch, and a coalition S has the worth

    U_t(S) = l_val(theta - D(0)) - l_val(theta - D(sum_{i in S} c_i)),        higher = helps

where c_i is the part of pair i in the step's gradient (clipping at the factor of the whole batch) and D the
step of the optimiser with its state before the step held fixed. With g and H the gradient and the Hessian of
l_val at theta, a Taylor expansion to first and second order leaves

    U_t(S) ~ <q, D(c_S) - D(0)>,    q = g  or  q = g - H (D(0) + D(c_N)) / 2

    SGD     phi_i = eta <g, c_i> - eta^2/2 c_i^T H c_N         theorems 3 and 4 of the paper, exactly
    AdamW   D is no longer linear. In a batch of at most 6 pairs all coalitions are asked, which is exact for
            the expanded utility. In a larger one coalitions are taken to be normal: see `expected_slope`.

Both are efficient: sum_i phi_i = <q, D(c_N) - D(0)>. What AdamW's momentum does without any gradient,
<q, D(0)>, belongs to no pair of the step and is reported apart; with it the sum over steps is the drop of the
validation loss to that order.

Sources: Wang et al. 2024, arXiv 2406.11011 (SGD; signs are theirs reversed). Ding et al. 2026, arXiv
2602.00329 (the fixed-state utility under Adam; its abstract was at hand).
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import factorial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patronage_client.attribution.adapter_model import AdapterModel, TokenizedPairs
from patronage_client.attribution.course import Course, Moment, Position
from patronage_client.attribution.expected_slope import expected_slopes
from patronage_client.attribution.optimisers import SGD, AdamW, Rule, State
from patronage_client.attribution.problem import Problem, Valuation
from patronage_client.attribution.recorder import PairGradients

__all__ = ["Fixed", "first_order", "in_run", "second_order", "sgd", "sgd_second_order", "shapley_of_step"]

ENUMERATED = 6
"""Batches of at most so many pairs have all their coalitions asked: 64 steps of AdamW without a model."""

SAVE_SECONDS = 30.0
UNITS = "nats of validation loss"


@dataclass(frozen=True)
class Fixed:
    """What is held fixed at a step: the optimiser, its state, theta, the learning rate."""

    rule: Rule
    state: State
    theta: Tensor
    rate: float

    def displacement(self, gradient: Tensor) -> Tensor:
        """D(g), also for several gradients at once."""
        return self.rule.displacement(self.state, self.theta, gradient, self.rate)


def first_order(problem: Problem) -> Valuation:
    """In-Run Data Shapley of a training with AdamW, first order."""
    return in_run(problem, AdamW(), name="in-run", curved=False)


def second_order(problem: Problem) -> Valuation:
    """In-Run Data Shapley of a training with AdamW, second order."""
    return in_run(problem, AdamW(), name="in-run-2", curved=True)


def sgd(problem: Problem) -> Valuation:
    """First order of the paper: AdamW takes the steps, and each is valued as if SGD took it."""
    return in_run(problem, AdamW(), name="in-run-sgd", curved=False, valued_as=SGD())


def sgd_second_order(problem: Problem) -> Valuation:
    """Second order of the paper, along the steps of AdamW."""
    return in_run(problem, AdamW(), name="in-run-2-sgd", curved=True, valued_as=SGD())


def in_run(
    problem: Problem, rule: Rule, *, name: str, curved: bool, valued_as: Rule | None = None
) -> Valuation:
    """Walk through a training and value every step.

    Args:
        problem: what to value; all its validation pairs are looked at at every step.
        rule: the optimiser that takes the steps.
        name: of the method.
        curved: second order.
        valued_as: the optimiser that the values assume; None is `rule`.
    """
    course = Course(problem, rule)
    kept = _Kept(problem, name, len(course.data), course.model.theta.device)
    saved = time.monotonic()
    for moment in course.walk(kept.position, record=True):
        if time.monotonic() - saved > SAVE_SECONDS:
            kept.save(moment.position)
            saved = time.monotonic()
        fixed = Fixed(valued_as or rule, moment.position.state, moment.position.theta, moment.step.rate)
        kept.add(moment, *_valued(course.model, course.validation, fixed, moment, curved=curved))
        problem.progress(moment.step.number + 1, len(course.steps))
    before = course.model.loss_at(course.validation, course.start().theta)
    after = course.model.mean_loss(course.validation)
    return Valuation(name, UNITS, kept.values.numpy(), tuple(_notes(course, kept, before - after)))


def shapley_of_step(fixed: Fixed, contributions: Tensor, query: Tensor) -> Tensor:
    """The Shapley values of S -> <q, D(c_S) - D(0)>, shape (pairs,), float64.

    Args:
        fixed: the step.
        contributions: c_i, shape (pairs, p).
        query: q, shape (p,).
    """
    count = len(contributions)
    if isinstance(fixed.rule, SGD):
        return (contributions @ (fixed.rate * query)).double()
    if count > ENUMERATED:
        squared = contributions.square()
        slopes = expected_slopes(fixed.displacement, contributions.sum(0), squared.sum(0))
        return (contributions @ (slopes.first * query) + squared @ (slopes.second * query)).double()
    worths = np.array([float(torch.dot(query, fixed.displacement(c))) for c in _coalitions(contributions)])
    return torch.from_numpy(_shapley(worths, count))


def _valued(
    model: AdapterModel, validation: TokenizedPairs, fixed: Fixed, moment: Moment, *, curved: bool
) -> tuple[Tensor, float]:
    """The values of the step's pairs, in the order of its parts, and what momentum alone does."""
    nothing = fixed.displacement(torch.zeros_like(fixed.theta))
    _, query = model.mean_gradient(validation)
    if curved:
        whole = fixed.displacement(moment.factor * moment.gradient)
        query = query - model.mean_curvature(validation, nothing + whole) / 2
    values = values_of_parts(fixed, moment.parts, moment.factor, moment.gradient, query)
    return values, float(torch.dot(query, nothing))


def values_of_parts(
    fixed: Fixed, parts: tuple[PairGradients, ...], factor: float, gradient: Tensor, query: Tensor
) -> Tensor:
    """As `shapley_of_step`, and no more than one module of a batch becomes matrices where that is enough."""
    if isinstance(fixed.rule, SGD):
        return torch.cat([part.dot(factor * fixed.rate * query) for part in parts]).double().cpu()
    if sum(len(part.ids) for part in parts) <= ENUMERATED:
        return shapley_of_step(fixed, factor * torch.cat([part.matrix() for part in parts]), query)
    squares = factor**2 * torch.stack([part.squares() for part in parts]).sum(0)
    slopes = expected_slopes(fixed.displacement, factor * gradient, squares)
    first, second = factor * slopes.first * query, factor**2 * slopes.second * query
    return torch.cat([part.dot(first) + part.dot_squares(second) for part in parts]).double().cpu()


def _coalitions(contributions: Tensor) -> Iterator[Tensor]:
    """c_S for every S; player 0 is the last to change."""
    for members in product((0.0, 1.0), repeat=len(contributions)):
        yield torch.tensor(members).to(contributions) @ contributions


def _shapley(worths: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """phi_i = sum over S without i of |S|! (n - |S| - 1)! / n! (v(S + i) - v(S))."""
    cube = worths.reshape((2,) * count)
    sizes = np.indices((2,) * (count - 1)).sum(0) if count > 1 else np.zeros(())
    weights = np.array([factorial(s) * factorial(count - s - 1) / factorial(count) for s in range(count)])[
        sizes.astype(int)
    ]
    return np.array(
        [float((weights * (cube.take(1, axis=i) - cube.take(0, axis=i))).sum()) for i in range(count)]
    )


class _Kept:
    """The values so far, and the file that they survive an interruption in."""

    def __init__(self, problem: Problem, name: str, pairs: int, device: torch.device) -> None:
        self._path = problem.workdir / f"{name}.safetensors"
        found = Position.load(self._path, device)
        self.position: Position | None = None
        self.values = torch.zeros(pairs, dtype=torch.float64)
        self.momentum = torch.zeros((), dtype=torch.float64)
        if found is not None:
            self.position, more = found
            self.values, self.momentum = more["values"].cpu(), more["momentum"].cpu()

    def add(self, moment: Moment, values: Tensor, momentum: float) -> None:
        ids = [index for part in moment.parts for index in part.ids]
        self.values.index_add_(0, torch.tensor(ids), values)
        self.momentum += momentum

    def save(self, position: Position) -> None:
        position.save(self._path, values=self.values, momentum=self.momentum)


def _notes(course: Course, kept: _Kept, drop: float) -> Iterator[str]:
    total, momentum = float(kept.values.sum()), float(kept.momentum)
    yield (
        f"sum over pairs {total:+.6f} + momentum {momentum:+.6f} = {total + momentum:+.6f}; "
        f"measured drop of the validation loss {drop:+.6f} {UNITS.split(maxsplit=1)[0]}"
    )
    if course.model.has_dropout:
        yield "this model has dropout: the values hold for the masks of this seed"
