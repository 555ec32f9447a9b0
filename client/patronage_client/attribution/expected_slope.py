# mypy: allow-untyped-calls
"""Shapley values of a step that is no linear function of the gradient, for batches too large for coalitions.

A coalition S is worth sum_k q_k D_k(c_Sk), with c_S the sum of its members' gradients and D elementwise. By
Owen's multilinear extension a Shapley value is a mean over coalitions that each other pair joins with chance
t, over t from 0 to 1. With many pairs c_S is close to normal, with mean t C and variance t (1 - t) V, where
C = sum_i c_i and V = sum_i c_i^2 by element, so that what pair i adds is c_i times one slope for all pairs:

    s = int_0^1 E[D'(g)] dt = int_0^1 E[z D(t C + z sd)] / sd dt,      sd^2 = t (1 - t) V,  z ~ N(0, 1)
    phi_i = sum_k q_k (c_ik s_k + c_ik^2 (D_k(C) - D_k(0) - C_k s_k) / V_k)

D' is not asked for (Stein's lemma): in the first steps AdamW's D is nearly the sign of the gradient. The
second term gives what the normal law leaves over to the pairs by their squares, where a second-order error
would lie; with it the values add up exactly. Three nodes in t and two in z: twelve steps of the optimiser
without a model, however many pairs there are.

Sources: Owen 1972, Management Science 18 (multilinear extension); Stein 1981, Annals of Statistics 9, lemma
1. The rest is ours.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

__all__ = ["Slopes", "expected_slopes"]

CHANCES, DEVIATIONS = 3, 2
"""Nodes in t on (0, 1), and in z above zero; z below zero is asked together with it."""


@dataclass(frozen=True)
class Slopes:
    """By element, shape (p,): phi_i = <q, first c_i + second c_i^2>."""

    first: Tensor
    second: Tensor


def expected_slopes(displacement: Callable[[Tensor], Tensor], total: Tensor, squares: Tensor) -> Slopes:
    """The slopes of one step.

    Args:
        displacement: D, elementwise.
        total: C, the sum of the pairs' gradients, shape (p,).
        squares: V, the sum of their squares, shape (p,).
    """
    slope = torch.zeros_like(total)
    least = torch.finfo(total.dtype).tiny
    for chance, share in _chances():
        deviation = (chance * (1 - chance) * squares).sqrt()
        for place, weight in _deviations():
            rise = displacement(chance * total + place * deviation)
            rise = rise - displacement(chance * total - place * deviation)
            slope += share * weight * place * rise / deviation.clamp_min(least)
    left = displacement(total) - displacement(torch.zeros_like(total)) - total * slope
    return Slopes(slope, torch.where(squares > 0, left / squares.clamp_min(least), 0.0))


def _chances() -> list[tuple[float, float]]:
    nodes, weights = np.polynomial.legendre.leggauss(CHANCES)
    return [(float(node + 1) / 2, float(weight) / 2) for node, weight in zip(nodes, weights, strict=True)]


def _deviations() -> list[tuple[float, float]]:
    nodes, weights = np.polynomial.hermite_e.hermegauss(2 * DEVIATIONS)
    total = float(weights.sum())
    return [(float(z), float(w) / total) for z, w in zip(nodes, weights, strict=True) if z > 0]
