"""Simple ways to value pairs, which the others must beat: at random, by similarity, by nearest neighbours.

With d_i = h(x, y+) - h(x, y-) of the pairs and e_j of the m validation pairs:

    similarity   mean_j cos(d_i, e_j)
    knn          exact Shapley values of a K-nearest-neighbour classifier (Jia et al. 2019, arXiv 1908.08619,
                 theorem 1), where a pair is the two labelled points (d_i, +) and (-d_i, -), its value is the
                 sum of theirs, and a validation pair is the point (e_j, +); near means a large cosine

The second point of a pair keeps the classifier from answering "+" to everything.
"""

import numpy as np
from numpy.typing import NDArray

from patronage_client.attribution.features import differences
from patronage_client.attribution.problem import Problem, Valuation
from patronage_protocol.valuation.streams import Stream

__all__ = ["knn", "knn_shapley", "random", "similarity"]

NEIGHBOURS = 5
"""K of the paper's experiments on data sets of this size."""


def random(problem: Problem) -> Valuation:
    """Numbers in [0, 1) that know nothing of the pairs."""
    return Valuation("random", "none: drawn by chance", Stream(problem.seed).uniforms(len(problem.pairs)))


def similarity(problem: Problem) -> Valuation:
    """The mean cosine of a pair's difference with those of the validation pairs."""
    found = differences(problem)
    cosines = _unit(found.pairs) @ _unit(found.validation).T
    return Valuation("similarity", "mean cosine with validation pairs", cosines.mean(axis=1))


def knn(problem: Problem) -> Valuation:
    """Exact Shapley values of a nearest-neighbour classifier of differences."""
    found = differences(problem)
    cosines = _unit(found.pairs) @ _unit(found.validation).T
    points = np.concatenate([cosines, -cosines])
    correct = np.arange(len(points)) < len(cosines)
    values = knn_shapley(points, correct, NEIGHBOURS)
    return Valuation(
        "knn",
        "share of validation pairs judged rightly",
        values[: len(cosines)] + values[len(cosines) :],
        (f"K = {NEIGHBOURS} neighbours",),
    )


def knn_shapley(
    nearness: NDArray[np.float64], correct: NDArray[np.bool_], neighbours: int
) -> NDArray[np.float64]:
    """Shapley values of n points: v(S) is the mean over m queries of (right ones among the K nearest) / K.

    Args:
        nearness: shape (n, m), larger is nearer; ties go by position.
        correct: shape (n,), whether a point has the right label of the queries.
        neighbours: K.

    Returns:
        Shape (n,). They add up to v(all points).
    """
    n, queries = nearness.shape
    order = np.argsort(-nearness, axis=0, kind="stable")
    right = correct[order].astype(np.float64)
    ranks = np.arange(1, n)
    steps = (right[:-1] - right[1:]) / neighbours * (np.minimum(neighbours, ranks) / ranks)[:, None]
    last = right[-1:] * min(neighbours, n) / (neighbours * n)
    ranked = last + np.concatenate([np.cumsum(steps[::-1], axis=0)[::-1], np.zeros((1, queries))])
    values = np.empty_like(ranked)
    np.put_along_axis(values, order, ranked, axis=0)
    return np.asarray(values.mean(axis=1))


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(norms > 0.0, norms, 1.0)
