"""The source model of TS-DShapley: a linear classifier of h(x, y+) - h(x, y-), fitted many times at once.

A pair with difference d stands for two labelled points, (d, +) and (-d, -). For a linear score w . d
without an intercept both give the same logistic loss, so one of them is enough:

    w(S) = argmin_w  sum_{i in S} log(1 + exp(-w . d_i)) + (ridge / 2) |w|^2

by Newton's method, which needs a handful of steps. Many subsets are fitted side by side; the result for one
does not depend on the others. The classifier judges a validation pair rightly if w . e_j > 0.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

__all__ = ["Projection", "accuracy", "expected_accuracy", "fit"]

NEWTON_STEPS = 12
ENOUGH = 1e-8


@dataclass(frozen=True)
class Projection:
    """Principal components of differences: (x - 0) @ axes, scaled to unit variance.

    Differences are centred at zero and not at their mean: the mean is what right labels have in common, and
    with both signs of every difference it is zero.
    """

    axes: NDArray[np.float64]

    @classmethod
    def of(cls, differences: NDArray[np.float64], components: int) -> Self:
        """The first `components` axes of n differences (n, d), or fewer where there are no more."""
        _, singular, axes = np.linalg.svd(differences, full_matrices=False)
        count = min(components, int((singular > singular[0] * 1e-9).sum()))
        scale = singular[:count] / np.sqrt(len(differences))
        signs = np.sign(axes[np.arange(count), np.abs(axes[:count]).argmax(axis=1)])
        return cls((axes[:count] * (signs / scale)[:, None]).T)

    def __call__(self, differences: NDArray[np.float64]) -> NDArray[np.float64]:
        """Project (n, d) to (n, components)."""
        return differences @ self.axes


def fit(
    points: NDArray[np.float64],
    used: NDArray[np.float64],
    ridge: float,
    start: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Fit C classifiers, each to its own points.

    Args:
        points: shape (C, s, k).
        used: shape (C, s), 1 for the points that count and 0 for the others.
        ridge: the penalty, above zero.
        start: shape (C, k), from where to go; zeros if left out.

    Returns:
        The weights, shape (C, k).
    """
    chains, _, width = points.shape
    weights = np.zeros((chains, width)) if start is None else start.copy()
    penalty = ridge * np.eye(width)
    for _ in range(NEWTON_STEPS):
        wrong = used / (1.0 + np.exp(np.clip(_scores(points, weights), -60.0, 60.0)))
        slope = ridge * weights - np.matmul(wrong[:, None, :], points)[:, 0]
        curvature = wrong * (1.0 - wrong)
        hessian = np.matmul(np.swapaxes(points, 1, 2) * curvature[:, None, :], points) + penalty
        step = np.linalg.solve(hessian, slope[:, :, None])[:, :, 0]
        weights -= step
        if np.abs(step).max() < ENOUGH:
            break
    return weights


def accuracy(weights: NDArray[np.float64], validation: NDArray[np.float64]) -> NDArray[np.float64]:
    """The share of m points (m, k) that each of C classifiers (C, k) judges rightly; a tie is half."""
    scores = weights @ validation.T
    return np.asarray(((scores > 0.0) + 0.5 * (scores == 0.0)).mean(axis=1))


def expected_accuracy(weights: NDArray[np.float64], validation: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean probability sigmoid(w . e) of the right answer, for each of C classifiers."""
    return np.asarray((1.0 / (1.0 + np.exp(-np.clip(weights @ validation.T, -60.0, 60.0)))).mean(axis=1))


def _scores(points: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.matmul(points, weights[:, :, None])[:, :, 0])
