# mypy: allow-untyped-calls
"""The course of a training: the steps that `train_adapter` takes, one at a time and open to view.

Order, batches, accumulation, learning rates, clipping and optimiser are those of TRL under the terms of a
round; a test compares the adapters. Here a pair has a weight (1 = as it is, 0 = taken out, with everybody
else's batch, step and learning rate unchanged), and the loop can start at any step.
"""

import copy
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from transformers import get_scheduler

from patronage_client.attribution.adapter_model import AdapterModel, tokenized
from patronage_client.attribution.optimisers import AdamW, Rule, State, clip_factor
from patronage_client.attribution.problem import Problem
from patronage_client.attribution.recorder import PairGradients, Recorder
from patronage_client.dpo_trainer import SCHEDULES
from patronage_protocol.files import write_atomic
from patronage_protocol.manifest import DpoTerms
from patronage_protocol.preferences import training_order

__all__ = ["Course", "Moment", "Position", "Step", "planned_steps"]


@dataclass(frozen=True)
class Step:
    """One update: its number from 0, the pairs of its micro-batches, and the learning rate eta."""

    number: int
    batches: tuple[tuple[int, ...], ...]
    rate: float

    @property
    def pairs(self) -> tuple[int, ...]:
        """The pairs of all micro-batches, in their order."""
        return tuple(index for batch in self.batches for index in batch)

    def scale(self, batch: Sequence[int]) -> float:
        """What the loss of a pair of this micro-batch is multiplied by in the step's gradient."""
        return 1 / (len(batch) * len(self.batches))


@dataclass(frozen=True)
class Position:
    """Where a training stands: theta, shape (p,), and the optimiser's state."""

    theta: Tensor
    state: State

    def save(self, path: Path, **more: Tensor) -> None:
        """Write it, with tensors of the caller's.

        Raises:
            UnavailableError: there is no room.
        """
        tensors = {"theta": self.theta, "mean": self.state.mean, "square": self.state.square, **more}
        whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
        write_atomic(path, save(whole, metadata={"steps": str(self.state.steps)}))

    @classmethod
    def load(cls, path: Path, device: torch.device) -> "tuple[Position, dict[str, Tensor]] | None":
        """What `save` wrote, or None where there is no whole file."""
        try:
            with safe_open(path, framework="pt", device=str(device)) as file:
                steps = int(file.metadata()["steps"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        except (OSError, SafetensorError):
            return None
        state = State(steps, tensors.pop("mean"), tensors.pop("square"))
        return cls(tensors.pop("theta"), state), tensors


@dataclass(frozen=True)
class Moment:
    """A step that is about to be taken.

    Attributes:
        step: which.
        position: theta and the optimiser's state before it.
        gradient: of the step's loss, shape (p,), before clipping.
        factor: of the clipping.
        parts: each pair's own part of `gradient`; empty unless they were asked for.
    """

    step: Step
    position: Position
    gradient: Tensor
    factor: float
    parts: tuple[PairGradients, ...]


class Course:
    """A training that can be walked through.

    Attributes:
        model: the policy.
        data: the owner's pairs.
        order: order[k] is the pair at place k of an epoch.
        steps: all steps, in terms of pairs of `data`.
    """

    def __init__(self, problem: Problem, rule: Rule | None = None) -> None:
        self.model = AdapterModel(problem.base, problem.lora, beta=problem.dpo.beta)
        self.data = tokenized(problem.base, problem.pairs, max_length=problem.dpo.max_length)
        self.validation = tokenized(problem.base, problem.validation, max_length=problem.dpo.max_length)
        self.rule: Rule = AdamW() if rule is None else rule
        self._dpo = problem.dpo
        self.order = training_order(problem.pairs, seed=problem.dpo.seed)
        self.steps = planned_steps(problem.dpo, self.order)
        self.max_grad_norm = problem.dpo.max_grad_norm
        self._seed = problem.dpo.seed
        self._beginning = self.model.theta

    def without(self, pairs: Collection[int]) -> "Course":
        """The course of the other pairs alone: in the same order, in batches of their own, with no holes."""
        other = copy.copy(self)
        other.steps = planned_steps(self._dpo, [index for index in self.order if index not in pairs])
        return other

    def start(self) -> Position:
        """Before the first step: the adapter that every owner starts from."""
        return Position(self._beginning.clone(), self.rule.start(self._beginning))

    def walk(
        self, start: Position | None = None, *, weights: Tensor | None = None, record: bool = False
    ) -> Iterator[Moment]:
        """Every step from `start` on, before it is taken; the step is taken when the next one is asked for.

        Args:
            start: where to begin; None is the beginning.
            weights: of the pairs, shape (n,); None is 1 for all.
            record: also catch each pair's own part of the gradient.
        """
        position = self.start() if start is None else start
        for step in self.steps[position.state.steps :]:
            self.model.load(position.theta)
            gradient, parts = self._gradient(step, weights, record)
            factor = clip_factor(gradient, self.max_grad_norm)
            yield Moment(step, position, gradient, factor, parts)
            position = self.after(Moment(step, position, gradient, factor, ()))
        self.model.load(position.theta)

    def after(self, moment: Moment) -> Position:
        """Where the step leads."""
        before, gradient = moment.position, moment.factor * moment.gradient
        moved = self.rule.displacement(before.state, before.theta, gradient, moment.step.rate)
        return Position(before.theta - moved, self.rule.advance(before.state, gradient))

    def final(self, *, weights: Tensor | None = None) -> Tensor:
        """theta at the end of the course, with pairs of these weights."""
        for _ in self.walk(weights=weights):
            pass
        return self.model.theta

    def seeded(self, step: Step, batch: int) -> None:
        """Make dropout the same whenever this micro-batch is looked at."""
        if self.model.has_dropout:
            torch.manual_seed(self._seed % 2**32 + 1_000 * step.number + batch)

    def _gradient(
        self, step: Step, weights: Tensor | None, record: bool
    ) -> tuple[Tensor, tuple[PairGradients, ...]]:
        total = torch.zeros_like(self._beginning)
        recorder = Recorder(self.model.model)
        for number, batch in enumerate(step.batches):
            self.seeded(step, number)
            pairs = self.data.take(batch)
            shares = torch.full((len(batch),), step.scale(batch), dtype=torch.float64)
            if weights is not None:
                shares = shares * weights[list(batch)].to(shares)
            if not record:
                total += self.model.weighted_gradient(pairs, shares)
                continue
            with recorder, recorder.batch(batch, rows=self.model.rows(len(batch))):
                total += self.model.weighted_gradient(pairs, shares)
        return total, tuple(recorder.take())


def planned_steps(dpo: DpoTerms, order: Sequence[int]) -> list[Step]:
    """The steps of a training, as transformers' Trainer takes them with a sequential sampler."""
    batches = [tuple(order[i : i + dpo.batch_size]) for i in range(0, len(order), dpo.batch_size)]
    size = dpo.gradient_accumulation
    epoch = [tuple(batches[i : i + size]) for i in range(0, len(batches), size)]
    groups = epoch * dpo.epochs
    return [
        Step(number, group, rate)
        for number, (group, rate) in enumerate(zip(groups, _rates(dpo, len(groups)), strict=True))
    ]


def _rates(dpo: DpoTerms, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=dpo.learning_rate)
    scheduler = get_scheduler(
        SCHEDULES[dpo.schedule], optimizer, num_warmup_steps=dpo.warmup_steps, num_training_steps=steps
    )
    rates = []
    for _ in range(steps):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    assert all(math.isfinite(rate) for rate in rates), "schedules are finite"
    return rates
