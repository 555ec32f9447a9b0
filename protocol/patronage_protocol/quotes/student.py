"""The student: ridge regression from hashed n-grams to scores of the large model, with what it gets wrong.

    w = argmin |Phi w - s|^2 + lambda |w|^2 = Phi^T (Phi Phi^T + lambda I)^-1 s        n equations, not D

Folds are made of whole prompts. lambda has the smallest squared error on the folds left out. The residuals on
the folds left out (each from the student that did not see the prompt) give the intervals: for one pair, their
quantile (cross-conformal prediction, Vovk 2015, Annals of Mathematics and AI 74); for a mean over pairs, the
delete-a-group jackknife of the folds' students together with the residuals' variance (`quote`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patronage_protocol.errors import UsageError

__all__ = ["FOLDS", "LEAST_PROMPTS", "Student", "fit_student", "recall_of_top", "spearman"]

FOLDS = 10
LEAST_PROMPTS = 40
"""Different prompts of a sample at least: four a fold."""

PENALTIES = tuple(float(x) for x in 10.0 ** np.arange(-2.0, 3.5, 0.5))


@dataclass(frozen=True, eq=False)
class Student:
    """A fitted student.

    Attributes:
        weights: shape (FOLDS + 1, D): from all of the sample first, then from all but one fold.
        left_out: scores predicted by the student that did not see the prompt, shape (n,).
        penalty: lambda.
    """

    weights: NDArray[np.float32]
    left_out: NDArray[np.float64]
    penalty: float


def fit_student(
    features: NDArray[np.float32], scores: NDArray[np.float64], prompts: Sequence[str]
) -> Student:
    """Fit to n scores.

    Args:
        features: shape (n, D).
        scores: shape (n,), of the large model.
        prompts: the cluster of each pair.

    Raises:
        UsageError: fewer than `LEAST_PROMPTS` prompts, or scores that are all the same.
    """
    names = sorted(set(prompts))
    if len(names) < LEAST_PROMPTS or not np.ptp(scores) > 0.0:
        raise UsageError(
            f"a sample of at least {LEAST_PROMPTS} prompts whose pairs differ in their scores",
            got=f"{len(names)} prompts, scores from {scores.min():.3g} to {scores.max():.3g}",
            do="take a larger sample",
        )
    fold_of = {name: k % FOLDS for k, name in enumerate(names)}
    folds = np.array([fold_of[prompt] for prompt in prompts])
    kernel = features.astype(np.float64) @ features.T.astype(np.float64)
    predictions = _left_out(kernel, scores, folds)
    best = int(np.argmin(((predictions - scores) ** 2).mean(axis=1)))
    parts = [np.arange(len(scores)), *(np.flatnonzero(folds != fold) for fold in range(FOLDS))]
    weights = [_solve(features, kernel, scores, part, PENALTIES[best]) for part in parts]
    return Student(np.stack(weights), predictions[best], PENALTIES[best])


def recall_of_top(
    scores: NDArray[np.float64], predicted: NDArray[np.float64], fraction: float = 0.1
) -> float:
    """Of the pairs in the top `fraction` by score, the part that is in the top `fraction` by prediction."""
    count = max(1, round(fraction * len(scores)))
    best, chosen = (set(np.argsort(-x, kind="stable")[:count].tolist()) for x in (scores, predicted))
    return len(best & chosen) / count


def spearman(left: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    """Spearman's rank correlation; ties have their mean rank."""
    ranks = [_ranks(values) for values in (left, right)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _left_out(
    kernel: NDArray[np.float64], scores: NDArray[np.float64], folds: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Predictions of every penalty for every pair by the student without its fold, (penalties, n)."""
    found = np.empty((len(PENALTIES), len(scores)))
    for fold in range(FOLDS):
        seen, away = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        values, vectors = np.linalg.eigh(kernel[np.ix_(seen, seen)])
        onto, across = vectors.T @ scores[seen], kernel[np.ix_(away, seen)] @ vectors
        for k, penalty in enumerate(PENALTIES):
            found[k, away] = across @ (onto / (np.maximum(values, 0.0) + penalty))
    return found


def _solve(
    features: NDArray[np.float32],
    kernel: NDArray[np.float64],
    scores: NDArray[np.float64],
    part: NDArray[np.int64],
    penalty: float,
) -> NDArray[np.float32]:
    system = kernel[np.ix_(part, part)] + penalty * np.eye(len(part))
    return np.asarray(features[part].T.astype(np.float64) @ np.linalg.solve(system, scores[part])).astype(
        np.float32
    )


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2.0)[inverse])
