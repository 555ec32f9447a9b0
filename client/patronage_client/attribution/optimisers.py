"""SGD and AdamW as functions of the gradient: the step they take, and its derivatives.

    SGD      theta' = theta - D(g),   D(g) = eta g
    AdamW    m' = b1 m + (1 - b1) g,   v' = b2 v + (1 - b2) g^2,   c1 = 1 - b1^t,   c2 = 1 - b2^t
             D(g) = eta ((m' / c1) / (sqrt(v' / c2) + eps) + decay theta)

Every operation is elementwise, so that a gradient may have leading dimensions (one row a coalition). A step
of AdamW without any gradient, D(0), is not zero: what m carries over moves theta.

Source: Loshchilov and Hutter 2019, arXiv 1711.05101, algorithm 2, as torch.optim.AdamW computes it.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["SGD", "AdamW", "Adjoint", "Rule", "State", "clip_adjoint", "clip_factor"]

CLIP_EPSILON = 1e-6
"""torch.nn.utils.clip_grad_norm_ divides by the norm plus this."""


@dataclass(frozen=True)
class State:
    """What an optimiser remembers after `steps` updates; m and v are empty for SGD."""

    steps: int
    mean: Tensor
    square: Tensor


@dataclass(frozen=True)
class Adjoint:
    """Derivatives of what comes after a step by what goes into it: by theta, the state, and the gradient."""

    theta: Tensor
    mean: Tensor
    square: Tensor
    gradient: Tensor


class Rule(Protocol):
    """An optimiser."""

    def start(self, theta: Tensor) -> State:
        """The state before the first step."""
        ...

    def displacement(self, state: State, theta: Tensor, gradient: Tensor, rate: float) -> Tensor:
        """D(g), what a step takes away from theta: the shape of `gradient`."""
        ...

    def advance(self, state: State, gradient: Tensor) -> State:
        """The state after the step."""
        ...

    def adjoint(self, state: State, gradient: Tensor, rate: float, after: Adjoint) -> Adjoint:
        """Pull derivatives by theta' and the new state back through the step; `after.gradient` is unused."""
        ...


@dataclass(frozen=True)
class SGD:
    """Plain stochastic gradient descent, as In-Run Data Shapley is derived for."""

    def start(self, theta: Tensor) -> State:
        """Nothing is remembered."""
        return State(0, theta.new_zeros(0), theta.new_zeros(0))

    def displacement(self, state: State, theta: Tensor, gradient: Tensor, rate: float) -> Tensor:  # noqa: ARG002
        """D(g) = eta g."""
        return rate * gradient

    def advance(self, state: State, gradient: Tensor) -> State:  # noqa: ARG002
        """One step more."""
        return State(state.steps + 1, state.mean, state.square)

    def adjoint(self, state: State, gradient: Tensor, rate: float, after: Adjoint) -> Adjoint:  # noqa: ARG002
        """D is linear."""
        return Adjoint(after.theta, after.mean, after.square, -rate * after.theta)


@dataclass(frozen=True)
class AdamW:
    """AdamW with the usual constants of torch and transformers; `decay` is lambda, decoupled."""

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    decay: float = 0.0

    def start(self, theta: Tensor) -> State:
        """m = v = 0."""
        return State(0, torch.zeros_like(theta), torch.zeros_like(theta))

    def displacement(self, state: State, theta: Tensor, gradient: Tensor, rate: float) -> Tensor:
        """D(g) of the module."""
        moved = self._moved(state, gradient)
        c1, c2 = self._corrections(moved.steps)
        update = (moved.mean / c1) / ((moved.square / c2).sqrt() + self.epsilon)
        return rate * (update + self.decay * theta) if self.decay else rate * update

    def advance(self, state: State, gradient: Tensor) -> State:
        """m' and v'."""
        return self._moved(state, gradient)

    def adjoint(self, state: State, gradient: Tensor, rate: float, after: Adjoint) -> Adjoint:
        """Where v' is zero, all gradients so far were, and the part that goes through it is left out."""
        moved = self._moved(state, gradient)
        c1, c2 = self._corrections(moved.steps)
        root = (moved.square / c2).sqrt()
        below = root + self.epsilon
        to_update = -rate * after.theta
        mean = after.mean + to_update / (c1 * below)
        safe = torch.where(root > 0, root, torch.ones_like(root))
        curve = torch.where(root > 0, -(moved.mean / c1) / below.square() / (2 * c2 * safe), 0.0)
        square = after.square + to_update * curve
        return Adjoint(
            theta=(1 - rate * self.decay) * after.theta,
            mean=self.beta1 * mean,
            square=self.beta2 * square,
            gradient=(1 - self.beta1) * mean + 2 * (1 - self.beta2) * gradient * square,
        )

    def _moved(self, state: State, gradient: Tensor) -> State:
        return State(
            state.steps + 1,
            self.beta1 * state.mean + (1 - self.beta1) * gradient,
            self.beta2 * state.square + (1 - self.beta2) * gradient.square(),
        )

    def _corrections(self, step: int) -> tuple[float, float]:
        return 1 - math.pow(self.beta1, step), 1 - math.pow(self.beta2, step)


def clip_factor(gradient: Tensor, max_norm: float) -> float:
    """By what a gradient is multiplied so that its norm is at most `max_norm`, as torch's clip_grad_norm_."""
    return min(1.0, max_norm / (float(gradient.norm()) + CLIP_EPSILON))


def clip_adjoint(gradient: Tensor, max_norm: float, after: Tensor) -> Tensor:
    """Pull a derivative by the clipped gradient back to the gradient itself."""
    factor = clip_factor(gradient, max_norm)
    if factor == 1.0:
        return after
    norm = float(gradient.norm())
    along = float(torch.dot(after, gradient)) * max_norm / ((norm + CLIP_EPSILON) ** 2 * norm)
    return factor * after - along * gradient
