"""Shares where not every owner is scored on every pair.

An owner that contributed held-out pairs is not scored on them. With J_i the pairs that owner i is scored on,
its share is its Shapley value in the game on these pairs alone,

    v_i(S) = mean over J_i of f(x_S[j])         phi_i = phi_i[v_i] = mean over J_i of phi_ij

because the Shapley value is linear and v_i is a mean (Shapley 1953). So the shares on single pairs are
computed once, and each owner's are averaged over its own columns; its interval is drawn over the clusters of
these columns. With m_i pairs left out of M, phi_i(all) its mean over all pairs and s_i that over the pairs
left out,

    phi_i = phi_i(all) + m_i / (M - m_i) (phi_i(all) - s_i)

so the shares need not add up to v(N) any more, and an owner that does better on its own pairs than elsewhere
has less than if they were scored for everybody. On every single pair they do add up to f(x_N[j]).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patronage_protocol.valuation.intervals import IntervalSpec, bootstrap, power_of_round

__all__ = ["ScoredShares", "mean_shares", "scored_shares"]


@dataclass(frozen=True, eq=False)
class ScoredShares:
    """The shares of n owners with their intervals and power.

    Attributes:
        shares: (n,) means of the pair shares over the pairs that the owner is scored on.
        lower: (n,) lower interval bounds.
        upper: (n,) upper interval bounds.
        detectable: (n,) the true share that the round could have told from zero.
    """

    shares: NDArray[np.float64]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    detectable: NDArray[np.float64]


def mean_shares(pair_shares: NDArray[np.float64], scored: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The mean (n,) of each owner's pair shares (n, M) over the pairs that it is scored on (n, M)."""
    shares = np.empty(len(pair_shares))
    for owners, pairs in _alike(scored):
        shares[owners] = pair_shares[owners][:, pairs].mean(axis=1)
    return shares


def scored_shares(
    pair_shares: NDArray[np.float64],
    clusters: NDArray[np.int64],
    scored: NDArray[np.bool_],
    spec: IntervalSpec,
) -> ScoredShares:
    """Shares with intervals and power, each owner's from the pairs that it is scored on.

    Args:
        pair_shares: (n, M), on single pairs.
        clusters: (M,) the prompt of each pair.
        scored: (n, M), whether the owner is scored on the pair.
        spec: how intervals are made; every owner's from the same seed.

    Raises:
        UsageError: an owner is scored on fewer than two clusters.
    """
    lower, upper, detectable = (np.empty(len(pair_shares)) for _ in range(3))
    for owners, pairs in _alike(scored):
        part = pair_shares[owners][:, pairs]
        _, labels = np.unique(clusters[pairs], return_inverse=True)
        intervals = bootstrap(part, labels, spec)
        lower[owners], upper[owners] = intervals.lower, intervals.upper
        detectable[owners] = power_of_round(part, labels, spec).detectable
    return ScoredShares(mean_shares(pair_shares, scored), lower, upper, detectable)


def _alike(scored: NDArray[np.bool_]) -> Iterator[tuple[NDArray[np.intp], NDArray[np.bool_]]]:
    """Owners that are scored on the same pairs, and these pairs; most often all owners on all pairs."""
    whole = scored.all(axis=1)
    if whole.any():
        yield np.flatnonzero(whole), np.ones(scored.shape[1], dtype=np.bool_)
    for owner in np.flatnonzero(~whole):
        yield np.array([owner]), scored[owner]
