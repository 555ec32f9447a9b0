# mypy: allow-untyped-calls
"""Influence of each pair on the final adapter: the exact derivative of a whole training with AdamW.

Give pair i the weight w_i in every step's loss. The final adapter theta_T(w) follows from the weights, and

    value_i = -d l_val(theta_T(w)) / d w_i    at w = 1,        nats of validation loss, higher = helps

to first order what the validation loss rises by when the pair is taken out and all else (batches, order,
learning rates) stays as it was. One sweep backwards over the recorded steps computes all n of them. With
(a, b, c) the derivatives by (theta_t, m_t, v_t), each step pulls them back through the update (`optimisers`),
through the clipping, and through the gradient G(theta, w) = sum_i w_i s_i grad l_i(theta):

    h = d l_val / d G_t          value_i -= s_i <grad l_i(theta_{t-1}), h>          a += (sum_i s_i H_i) h

one double backward pass over the batch of the step. theta, m, v and G of each step are small for LoRA (4 p
numbers) and are kept on disk; nothing is recomputed but the loss of the batch.

Sources: Ilyas and Engstrom 2025, arXiv 2504.16430 (MAGIC: exact metagradients of a training, by replay);
arXiv 2605.18814 (one backward sweep that carries the query under AdamW); Maclaurin et al. 2015, arXiv
1502.03492 (hyperparameter gradients by running a training backwards).
"""

import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from patronage_client.attribution.course import Course, Moment, Position, Step
from patronage_client.attribution.optimisers import AdamW, Adjoint, State, clip_adjoint, clip_factor
from patronage_client.attribution.problem import Problem, Valuation
from patronage_protocol.errors import UnavailableError

__all__ = ["influence", "influence_on", "recorded", "swept"]

SAVE_SECONDS = 30.0
UNITS = "nats of validation loss"
_SWEEP = "sweep.safetensors"


def influence(problem: Problem) -> Valuation:
    """The influence of every pair on the validation loss of the final adapter.

    Raises:
        UnavailableError: no room for the steps of the training.
    """
    return influence_on(Course(problem, AdamW()), problem)


def influence_on(course: Course, problem: Problem) -> Valuation:
    """As `influence`, for a course that is there already."""
    folder = problem.workdir / "steps"
    folder.mkdir(exist_ok=True)
    count = len(course.steps)
    end = recorded(course, folder, lambda done: problem.progress(done, 2 * count))
    with course.model.at(end):
        loss, query = course.model.mean_gradient(course.validation)
    values = swept(course, folder, query, lambda done: problem.progress(count + done, 2 * count))
    before = course.model.loss_at(course.validation, course.start().theta)
    notes = [f"validation loss before the training {before:.6f}, after it {loss:.6f} nats"]
    if course.model.has_dropout:
        notes.append("this model has dropout: the values hold for the masks of this seed")
    return Valuation("influence", UNITS, values.numpy(), tuple(notes))


def recorded(course: Course, folder: Path, progress: Callable[[int], None]) -> Tensor:
    """Train, keep every step in `folder`, and return the final theta. Goes on where a call before ended.

    Raises:
        UnavailableError: there is no room.
    """
    device = course.model.theta.device
    start = None
    for number in range(len(course.steps), -1, -1):
        found = Position.load(_file(folder, number), device)
        if found is not None:
            start = found[0]
            break
    for moment in course.walk(start):
        moment.position.save(_file(folder, moment.step.number), gradient=moment.gradient)
        progress(moment.step.number + 1)
    return course.model.theta


def swept(course: Course, folder: Path, query: Tensor, progress: Callable[[int], None]) -> Tensor:
    """Sweep backwards over the recorded steps.

    Args:
        course: the training.
        folder: where `recorded` kept its steps.
        query: the derivative of what is asked about by the final theta, shape (p,).
        progress: called with the number of steps done.

    Returns:
        Minus the derivative by the weight of each pair, shape (n,), float64.
    """
    nothing = torch.zeros_like(query)
    adjoint = Adjoint(query, nothing, nothing, nothing)
    values = torch.zeros(len(course.data), dtype=torch.float64)
    left = len(course.steps)
    before = Position.load(folder / _SWEEP, query.device)
    if before is not None:
        position, more = before
        adjoint = Adjoint(position.theta, position.state.mean, position.state.square, nothing)
        values, left = more["values"].cpu(), position.state.steps
    saved = time.monotonic()
    for step in reversed(course.steps[:left]):
        adjoint = _back(course, _read(folder, step, query.device), adjoint, values)
        if time.monotonic() - saved > SAVE_SECONDS:
            state = State(step.number, adjoint.mean, adjoint.square)
            Position(adjoint.theta, state).save(folder / _SWEEP, values=values)
            saved = time.monotonic()
        progress(len(course.steps) - step.number)
    return values


def _back(course: Course, moment: Moment, after: Adjoint, values: Tensor) -> Adjoint:
    """Pull the derivatives back through one step, and take from `values` what its pairs did in it."""
    step, position, gradient = moment.step, moment.position, moment.gradient
    clipped = clip_factor(gradient, course.max_grad_norm) * gradient
    before = course.rule.adjoint(position.state, clipped, step.rate, after)
    asked = clip_adjoint(gradient, course.max_grad_norm, before.gradient)
    course.model.load(position.theta)
    theta = before.theta
    for number, batch in enumerate(step.batches):
        course.seeded(step, number)
        shares = torch.full((len(batch),), step.scale(batch), dtype=torch.float64)
        slopes, curved = course.model.weighted_curvature(course.data.take(batch), shares, asked)
        values.index_add_(0, torch.tensor(batch), -(shares * slopes.cpu().double()))
        theta = theta + curved
    return Adjoint(theta, before.mean, before.square, torch.zeros_like(theta))


def _read(folder: Path, step: Step, device: torch.device) -> Moment:
    found = Position.load(_file(folder, step.number), device)
    if found is None:
        raise UnavailableError(
            f"step {step.number} of the recorded training",
            got="no whole file of it",
            do="remove the folder and start again",
            where=str(folder),
        )
    position, more = found
    return Moment(step, position, more["gradient"], 1.0, ())


def _file(folder: Path, number: int) -> Path:
    return folder / f"step-{number:06}.safetensors"
