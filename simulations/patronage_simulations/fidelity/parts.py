"""What the error of policy arithmetic is made of: distances between vectors of shares.

    policy sum - union = (policy sum - sequence) + (sequence - union)    the mean of the orders between them
                       = scale + shape                                   along the true shares, across them

Other parts stand beside these and do not add up: how far rules are from each other, longer training, and what
chance alone does (held-out prompts drawn anew, another seed of training). All are in units of the length of
the vector of true shares.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from patronage_simulations.fidelity import rules
from patronage_simulations.fidelity.margins import SeedMargins, StudyMargins
from patronage_simulations.fidelity.measures import relative_error

__all__ = ["Part", "parts_of"]

Array = NDArray[np.float64]
Shares = Callable[[Array], Array]
"""Margins (2^n, M) to shares of pairs (n, M)."""


@dataclass(frozen=True)
class Part:
    """One part of the error: a distance of two vectors of shares in units of the true one, by seed."""

    name: str
    meaning: str
    seeds: Mapping[str, float]

    @property
    def mean(self) -> float:
        """The mean over the seeds, or over pairs of them."""
        return float(np.mean(list(self.seeds.values())))


def parts_of(
    study: StudyMargins, shares: Shares, truths: Mapping[int, Array], drawn: Shares
) -> Iterator[Part]:
    """The parts that the study measured.

    Args:
        study: all margins.
        shares: from margins to shares of pairs.
        truths: shares of pairs (n, M) of coalitions trained on the union, by seed.
        drawn: from shares of pairs to shares (replicates, n) on prompts drawn anew.
    """
    truth = {seed: found.mean(axis=1) for seed, found in truths.items()}
    for name, meaning, distance in _DISTANCES:
        found = {seed: distance(_Seed(margins, truth[seed], shares)) for seed, margins in study.seeds.items()}
        sizes = {
            str(seed): float(np.linalg.norm(vector) / np.linalg.norm(truth[seed]))
            for seed, vector in found.items()
            if vector is not None
        }
        if sizes:
            yield Part(name, meaning, sizes)
    yield from _longer(study, shares, truth)
    yield Part(
        "held-out pairs",
        "root mean square of shares on prompts drawn anew - shares (union)",
        {str(seed): _spread(drawn(truths[seed]), truth[seed]) for seed in truth},
    )
    if len(truth) > 1:
        pairs = {f"{a}, {b}": _apart(truth[a], truth[b]) for a, b in combinations(truth, 2)}
        yield Part("seed", "union of one seed - union of another", pairs)


@dataclass(frozen=True, eq=False)
class _Seed:
    """One seed's vectors of shares (n,); None where the study has not measured them."""

    margins: SeedMargins
    truth: Array
    shares: Shares

    def share(self, margins: Array) -> Array:
        return np.asarray(self.shares(margins).mean(axis=1))

    @property
    def policy(self) -> Array:
        return self.share(rules.policy(self.margins.solo))

    @property
    def along(self) -> Array:
        """The part of the policy sum's error along the true shares."""
        return np.asarray((self.policy @ self.truth / (self.truth @ self.truth) - 1) * self.truth)

    @property
    def orders(self) -> list[Array]:
        return [self.share(sequence) for sequence in self.margins.sequences.values()]

    def composed(self, name: str) -> Array | None:
        found = self.margins.composed.get(name)
        return None if found is None else self.share(found)

    @property
    def sequence(self) -> Array | None:
        return np.asarray(np.mean(self.orders, axis=0)) if self.orders else None


def _less(left: Array | None, right: Array | None) -> Array | None:
    return None if left is None or right is None else left - right


_DISTANCES: tuple[tuple[str, str, Callable[[_Seed], Array | None]], ...] = (
    ("all of it", "policy sum - union", lambda s: s.policy - s.truth),
    ("scale", "of that, along the true shares", lambda s: s.along),
    ("shape", "of that, across them", lambda s: s.policy - s.truth - s.along),
    ("union or sequence", "in sequence, mean of the orders - union", lambda s: _less(s.sequence, s.truth)),
    ("arithmetic", "policy sum - in sequence, mean of the orders", lambda s: _less(s.policy, s.sequence)),
    (
        "order",
        "in sequence, one order - the other",
        lambda s: s.orders[0] - s.orders[1] if len(s.orders) > 1 else None,
    ),
    ("weights", "weight sum - policy sum", lambda s: _less(s.composed("weights:sum"), s.policy)),
    (
        "factors",
        "sum of LoRA factors - weight sum",
        lambda s: _less(s.composed("factors:sum"), s.composed("weights:sum")),
    ),
    (
        "tokens",
        "policy sum, every token normalised - whole completions",
        lambda s: _less(s.composed("policy-tokens:sum"), s.policy),
    ),
)


def _longer(study: StudyMargins, shares: Shares, truth: Mapping[int, Array]) -> Iterator[Part]:
    first = next(iter(study.seeds))
    for epochs, margins in study.longer.items():
        union = np.asarray(shares(margins.union).mean(axis=1))
        longer = _Seed(margins, union, shares)
        yield Part(
            f"at {epochs} epochs",
            "policy sum - union, both trained longer, in units of that union",
            {str(first): relative_error(longer.policy, union)},
        )
        yield Part(
            f"to {epochs} epochs",
            "union trained longer - union",
            {str(first): relative_error(union, truth[first])},
        )


def _apart(left: Array, right: Array) -> float:
    scale = np.sqrt(np.linalg.norm(left) * np.linalg.norm(right))
    return float(np.linalg.norm(left - right) / scale)


def _spread(replicates: Array, truth: Array) -> float:
    squares = ((replicates - truth) ** 2).sum(axis=1)
    return float(np.sqrt(squares.mean()) / np.linalg.norm(truth))
