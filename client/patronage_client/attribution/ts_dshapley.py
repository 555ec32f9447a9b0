"""TS-DShapley: Shapley values for a linear source model, from many short chains, carried over to DPO.

Source: Schoch, Mishra and Ji 2023, arXiv 2306.10165: representations of the target model, principal
components, a linear classifier as the source model, truncated Monte Carlo (Ghorbani and Zou 2019) in chains
over small subsets, aggregation, and value transfer: remove the lowest values until the source model is at
its best, and train the target model on what is left. What that paper leaves open is decided here
(docs/selection.md):

    representation   h(x, y+) - h(x, y-), mean states over the completions; both signs (`source_model`)
    subset           s = 5% of the pairs, at least 16: pieces of random orders of all pairs, so that
                     every pair is in equally many chains
    marginal         v(prefix + i) - v(prefix), v(nothing) = 1/2; v is the expected accuracy on the validation
                     pairs, mean sigmoid(w . e): accuracy itself moves in steps of 1/m and ranks worse
    truncation       a chain ends when v(prefix) is within `tolerance` of v(its whole subset)
    aggregation      the mean over the chains that a pair was in, with its standard error
    removal          the fewest lowest pairs that bring the source model within one standard error of its best

A chain's draws follow from its number alone, and sums are taken in the order of chains: the values are the
same for any number of workers.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from patronage_client.attribution.features import differences
from patronage_client.attribution.problem import Problem, Progress, Valuation, no_progress
from patronage_client.attribution.source_model import Projection, accuracy, expected_accuracy, fit
from patronage_protocol.errors import UsageError
from patronage_protocol.valuation.streams import Stream

__all__ = ["ChainSpec", "Chained", "chain_values", "removal", "transfer", "ts_dshapley"]

LEAST = 16
"""Pairs of one chain at least; with fewer the classifier says little about any of them."""

BLOCK = 32
"""Chains that are run side by side."""


@dataclass(frozen=True)
class ChainSpec:
    """How to sample.

    Attributes:
        passes: times that every pair is in a chain.
        share: of all pairs, the size of a chain's subset.
        tolerance: a chain ends when it is this near to the accuracy of its subset.
        utility: "expected" accuracy, or plain "accuracy" as in the paper.
        components: of the projection.
        ridge: of the source model.
        workers: threads; no part of the result.
    """

    passes: int = 200
    share: float = 0.05
    tolerance: float = 0.01
    utility: Literal["expected", "accuracy"] = "expected"
    components: int = 16
    ridge: float = 1.0
    workers: int = 1

    def subset(self, pairs: int) -> int:
        """s, the pairs of one chain."""
        return max(LEAST, round(self.share * pairs))


@dataclass(frozen=True, eq=False)
class Chained:
    """Values and standard errors, both (n,), and the share of all marginals that truncation saved."""

    values: NDArray[np.float64]
    errors: NDArray[np.float64]
    truncated: float


def ts_dshapley(problem: Problem) -> Valuation:
    """Value the pairs of a problem, and say how many of the lowest the source model would leave out.

    Raises:
        UsageError: fewer pairs than one chain needs.
    """
    spec = ChainSpec()
    _require_enough(len(problem.pairs), spec)
    found = differences(problem)
    project = Projection.of(found.pairs, spec.components)
    points, validation = project(found.pairs), project(found.validation)
    chained = chain_values(points, validation, spec, seed=problem.seed, progress=problem.progress)
    accuracies = removal(chained.values, points, validation, spec.ridge)
    cut = transfer(accuracies, len(validation))
    transferred = (
        f"value transfer: without the {cut} lowest pairs the source model judges {accuracies[cut]:.1%} of "
        f"the validation pairs rightly, with all {accuracies[0]:.1%}; train with --keep "
        f"{1.0 - cut / len(points):.4f}"
    )
    sampled = (
        f"{spec.passes} chains a pair over subsets of {spec.subset(len(points))}; largest standard error "
        f"{chained.errors.max():.2g}; {chained.truncated:.0%} of the steps were truncated"
    )
    return Valuation(
        "ts-dshapley", "expected accuracy of the source model", chained.values, (transferred, sampled)
    )


def chain_values(
    points: NDArray[np.float64],
    validation: NDArray[np.float64],
    spec: ChainSpec,
    *,
    seed: int,
    progress: Progress = no_progress,
) -> Chained:
    """Run the chains.

    Args:
        points: projected differences of the pairs to value, shape (n, k).
        validation: of the validation pairs, shape (m, k).
        spec: how to sample.
        seed: of the draws.
        progress: called with (blocks of chains done, blocks in all).

    Raises:
        UsageError: fewer pairs than one chain needs.
    """
    n = len(points)
    _require_enough(n, spec)
    blocks = list(_blocks(n, spec, seed))
    sums, squares, visits, skipped = np.zeros(n), np.zeros(n), np.zeros(n), 0

    def run(members: NDArray[np.int64]) -> tuple[NDArray[np.float64], int]:
        return _run(points, validation, members, spec)

    with ThreadPoolExecutor(spec.workers) as pool:
        for done, (members, (marginals, cut)) in enumerate(
            zip(blocks, pool.map(run, blocks), strict=True), start=1
        ):
            np.add.at(sums, members, marginals)
            np.add.at(squares, members, marginals**2)
            np.add.at(visits, members, 1.0)
            skipped += cut
            progress(done, len(blocks))
    means = sums / visits
    variances = np.maximum(squares / visits - means**2, 0.0) * visits / np.maximum(visits - 1.0, 1.0)
    return Chained(means, np.sqrt(variances / visits), skipped / visits.sum())


def removal(
    values: NDArray[np.float64],
    points: NDArray[np.float64],
    validation: NDArray[np.float64],
    ridge: float,
) -> NDArray[np.float64]:
    """The source model's accuracy without the r lowest pairs, for r = 0 .. n - 1, shape (n,)."""
    order = np.argsort(values, kind="stable")
    found = np.empty(len(points))
    weights: NDArray[np.float64] | None = None
    for removed in range(len(points)):
        kept = points[np.sort(order[removed:])]
        weights = fit(kept[None], np.ones((1, len(kept))), ridge, weights)
        found[removed] = accuracy(weights, validation)[0]
    return found


def transfer(accuracies: NDArray[np.float64], validation: int) -> int:
    """How many of the lowest pairs to remove: the fewest within one standard error of the highest accuracy.

    The highest of n accuracies on the same m validation pairs is partly luck, and so is where it lies.
    """
    peak = float(accuracies.max())
    error = np.sqrt(peak * (1.0 - peak) / validation)
    return int(np.argmax(accuracies >= peak - error))


def _blocks(n: int, spec: ChainSpec, seed: int) -> Iterator[NDArray[np.int64]]:
    """Chains as rows of indices in the order in which they join, (at most BLOCK, s)."""
    size = spec.subset(n)
    pieces = -(-n // size)
    stream = Stream(seed)
    chains = (
        np.take(order, np.arange(start, start + size), mode="wrap")
        for order in (stream.permutations(1, n)[0] for _ in range(spec.passes))
        for start in range(0, pieces * size, size)
    )
    while block := list(islice(chains, BLOCK)):
        yield np.stack(block)


def _run(
    points: NDArray[np.float64], validation: NDArray[np.float64], members: NDArray[np.int64], spec: ChainSpec
) -> tuple[NDArray[np.float64], int]:
    """Marginals (chains, s) of a block of chains, and how many were truncated to zero."""
    chains, size = members.shape
    rows = points[members]
    utility = expected_accuracy if spec.utility == "expected" else accuracy
    whole = utility(fit(rows, np.ones((chains, size)), spec.ridge), validation)
    marginals = np.zeros((chains, size))
    before, skipped = np.full(chains, 0.5), 0
    weights = np.zeros((chains, points.shape[1]))
    for step in range(size):
        going = np.flatnonzero(np.abs(whole - before) > spec.tolerance)
        skipped += chains - len(going)
        if not len(going):
            continue
        used = np.broadcast_to(np.arange(size) <= step, (len(going), size)).astype(np.float64)
        weights[going] = fit(rows[going], used, spec.ridge, weights[going])
        after = utility(weights[going], validation)
        marginals[going, step] = after - before[going]
        before[going] = after
    return marginals, skipped


def _require_enough(pairs: int, spec: ChainSpec) -> None:
    if pairs < spec.subset(pairs):
        raise UsageError(
            f"at least {spec.subset(pairs)} pairs, as many as one chain needs",
            got=f"{pairs}",
            do="use another method, such as knn",
            where="ts-dshapley",
        )
