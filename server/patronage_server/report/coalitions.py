"""What coalitions are worth, recomputed by the valuation engine from the published margins.

All 2^n of them for up to `MOST_FOR_ALL` owners; for more, each owner alone, everybody but one, and all.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patronage_protocol.evidence import CoalitionEvidence, Evidence, MarginEvidence, PoolEvidence
from patronage_protocol.manifest import GameTerms, Manifest
from patronage_protocol.valuation import IntervalSpec, Saturation, value
from patronage_protocol.valuation.composition import check_composition
from patronage_protocol.valuation.margins import check_margins
from patronage_protocol.valuation.pools import value_pools
from patronage_protocol.valuation.utilities import utility_of

__all__ = ["MOST_FOR_ALL", "Coalition", "Coalitions", "coalitions_of", "saturation_of"]

MOST_FOR_ALL = 10


@dataclass(frozen=True)
class Coalition:
    """A set of owners, as indices in ascending order, and its utility v(S)."""

    members: tuple[int, ...]
    utility: float


@dataclass(frozen=True)
class Coalitions:
    """The coalitions of n owners that were looked at.

    Attributes:
        owners: the n names.
        alone: v({i}) for each owner.
        without: v(N without i) for each owner.
        grand: v(N).
        every: all 2^n coalitions, by bitmask; empty for more than `MOST_FOR_ALL` owners.
        base: the reward of the base model under the utility `reward`, else 0.
    """

    owners: tuple[str, ...]
    alone: tuple[float, ...]
    without: tuple[float, ...]
    grand: float
    every: tuple[Coalition, ...]
    base: float = 0.0

    def considered(self) -> tuple[Coalition, ...]:
        """All coalitions that were looked at; the empty one among them."""
        return self.every or tuple(self._few())

    def best(self) -> Coalition:
        """The one of the highest utility; of equals the larger one."""
        return max(self.considered(), key=lambda coalition: (coalition.utility, len(coalition.members)))

    def better_without(self) -> tuple[int, ...]:
        """The owners without whom the others would reach more than v(N), the largest gain first."""
        gains = [(rest - self.grand, owner) for owner, rest in enumerate(self.without)]
        return tuple(owner for gain, owner in sorted(gains, key=lambda pair: -pair[0]) if gain > 0)

    def name(self, coalition: Coalition) -> str:
        """The coalition in words."""
        n, members = len(self.owners), coalition.members
        if not members:
            return "the base model alone"
        if len(members) == n > 1:
            return "everybody"
        if len(members) == n - 1 > 1:
            return f"all but {self.owners[next(iter(set(range(n)) - set(members)))]}"
        return " + ".join(self.owners[member] for member in members)

    def _few(self) -> Iterator[Coalition]:
        n = len(self.owners)
        yield Coalition((), 0.0)
        yield from (Coalition((owner,), utility) for owner, utility in enumerate(self.alone))
        for owner, utility in enumerate(self.without):
            yield Coalition(tuple(other for other in range(n) if other != owner), utility)
        yield Coalition(tuple(range(n)), self.grand)


def coalitions_of(evidence: Evidence, manifest: Manifest) -> Coalitions:
    """The coalitions of a round that was evaluated."""
    n, game = len(evidence.header.players), manifest.game
    if isinstance(evidence, PoolEvidence):
        return _by_reward(evidence, manifest)
    assert isinstance(game, GameTerms), "evidence was read by the terms"
    if isinstance(evidence, CoalitionEvidence):
        values = utility_of(evidence.reals, game.utility).mean(axis=1)
        listed = _every(values)
        return _coalitions(evidence.header.players, [listed[mask].utility for mask in _few_masks(n)], listed)
    assert game.composition == "sum", "merged coalitions have evidence of their own"
    composition = check_composition(check_margins(evidence.margins), game.composition, None)
    utilities = [
        utility_of(composition.margins(member[None]), game.utility).mean()
        for member in (*np.eye(n, dtype=np.bool_), *~np.eye(n, dtype=np.bool_), np.ones(n, dtype=np.bool_))
    ]
    every: tuple[Coalition, ...] = ()
    if n <= MOST_FOR_ALL:
        result = value(
            evidence.margins,
            utility=game.utility,
            weights=game.composition,
            method="enumeration",
            interval=None,
            keep_pair_shares=False,
        )
        assert result.coalition_values is not None, "enumeration keeps them"
        every = _every(result.coalition_values)
        utilities = [every[mask].utility for mask in _few_masks(n)]
    return _coalitions(evidence.header.players, utilities, every)


def saturation_of(evidence: MarginEvidence, manifest: Manifest) -> Saturation | None:
    """Aumann-Shapley against Shapley, with the manifest's intervals; None for `win` and `merged`."""
    game, terms = manifest.game, manifest.interval
    if not isinstance(game, GameTerms) or game.utility == "win" or game.composition == "merged":
        return None
    return value(
        evidence.margins,
        utility=game.utility,
        weights=game.composition,
        clusters=evidence.clusters,
        interval=IntervalSpec(level=terms.level, replicates=terms.replicates, seed=terms.seed),
        keep_pair_shares=False,
    ).saturation


def _by_reward(evidence: PoolEvidence, manifest: Manifest) -> Coalitions:
    game = manifest.game
    assert not isinstance(game, GameTerms), "evidence was read by the terms"
    found = value_pools(evidence.pools)
    weights = np.array([objective.weight for objective in game.objectives], dtype=np.float64)
    weights /= weights.sum()
    values = found.values @ weights
    n = len(evidence.header.players)
    every = _every(values) if n <= MOST_FOR_ALL else ()
    utilities = [float(values[mask]) for mask in _few_masks(n)]
    return _coalitions(evidence.header.players, utilities, every, float(found.base @ weights))


def _every(values: NDArray[np.float64]) -> tuple[Coalition, ...]:
    n = len(values).bit_length() - 1
    return tuple(
        Coalition(tuple(owner for owner in range(n) if mask >> owner & 1), float(utility))
        for mask, utility in enumerate(values)
    )


def _coalitions(
    owners: tuple[str, ...], utilities: Sequence[float], every: tuple[Coalition, ...], base: float = 0.0
) -> Coalitions:
    """From the utilities of the coalitions of `_few_masks`, in that order."""
    n = len(owners)
    few = tuple(float(utility) for utility in utilities)
    return Coalitions(owners, few[:n], few[n : 2 * n], few[-1], every, base)


def _few_masks(n: int) -> Iterator[int]:
    """The masks of each owner alone, of all but one, and of all."""
    everybody = (1 << n) - 1
    yield from (1 << owner for owner in range(n))
    yield from (everybody ^ 1 << owner for owner in range(n))
    yield everybody
