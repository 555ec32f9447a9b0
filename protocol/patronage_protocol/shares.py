"""From published margins to published shares: the one computation that operator and verifier both run.

Shares and bounds are computed in double precision and published as integers in units of 2**-40. Two
machines may differ in the last bits of an exponential, so a verifier allows `TOLERANCE` units; whatever
follows is exact.
"""

from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from patronage_protocol.canonical import BigInt, Canonical, Digest, Name
from patronage_protocol.errors import VerificationError
from patronage_protocol.evidence import CoalitionEvidence, Evidence, PoolEvidence
from patronage_protocol.fixed_point import to_fixed
from patronage_protocol.manifest import GameTerms, Manifest, RewardGameTerms
from patronage_protocol.valuation import IntervalSpec, Semivalue, shares_from_values, value
from patronage_protocol.valuation.engine import MethodChoice
from patronage_protocol.valuation.intervals import bootstrap
from patronage_protocol.valuation.pools import PoolValuation, value_pools
from patronage_protocol.valuation.scored import scored_shares
from patronage_protocol.valuation.utilities import utility_of

__all__ = ["TOLERANCE", "ObjectiveShares", "PoolShares", "Shares", "check_shares", "compute_shares"]

TOLERANCE = 64
"""Units of 2**-40 by which a recomputed number may differ: 6e-11, far below any interval."""


class ObjectiveShares(Canonical):
    """The shares in one objective, in units of 2**-40 of its reward.

    Args:
        name: of the objective.
        shares: one for each player.
        lower: lower interval bounds at the manifest's level.
        upper: upper interval bounds.
        grand: the reward of all players together above that of the base model.
        base: the reward of the base model.
    """

    name: Name
    shares: tuple[BigInt, ...]
    lower: tuple[BigInt, ...]
    upper: tuple[BigInt, ...]
    grand: BigInt
    base: BigInt


class PoolShares(Canonical):
    """What a game on generations has beside its shares.

    Args:
        objectives: the shares by objective; weighted and added they are the shares of the round.
        weakest: the players of the coalition with the fewest effective candidates.
        effective: that number, in units of 2**-40.
        degenerate: whether it is below what the manifest asks for, so that nobody is paid.
    """

    objectives: Annotated[tuple[ObjectiveShares, ...], Field(min_length=1)]
    weakest: tuple[Name, ...]
    effective: BigInt
    degenerate: bool


class Shares(Canonical):
    """The outcome of valuation. All numbers are in units of 2**-40 of the utility.

    Args:
        margins: digest of the evidence.
        players: the n players, in the order of the evidence.
        method: how the shares were computed, as the valuation engine names it.
        shares: Shapley shares phi_i, n integers, each in the game on the pairs that its owner is scored on.
        lower: lower interval bounds at the manifest's level.
        upper: upper interval bounds.
        detectable: for each player the true share that this round could have told from zero.
        grand: v(N), the utility of all players together on all held-out pairs.
        gap: the largest |sum of shares - v(N)| on one pair, or of a pool's means: the certificate of the
            computation.
        pool: what there is beside under the utility `reward`; None under the others.
    """

    schema_version: Literal[1] = 1
    margins: Digest
    players: Annotated[tuple[Name, ...], Field(min_length=1)]
    method: Literal["enumeration", "polynomial"]
    shares: tuple[BigInt, ...]
    lower: tuple[BigInt, ...]
    upper: tuple[BigInt, ...]
    detectable: tuple[BigInt, ...]
    grand: BigInt
    gap: BigInt
    pool: PoolShares | None = None

    @model_validator(mode="after")
    def _one_number_a_player(self) -> Self:
        lists = {name: getattr(self, name) for name in ("shares", "lower", "upper", "detectable")}
        for objective in self.pool.objectives if self.pool else ():
            rows = {name: getattr(objective, name) for name in ("shares", "lower", "upper")}
            lists |= {f"{name} of {objective.name}": row for name, row in rows.items()}
        for name, numbers in lists.items():
            if len(numbers) != len(self.players):
                raise ValueError(f"{len(numbers)} numbers in {name} for {len(self.players)} players")
        return self

    @property
    def smallest_detectable(self) -> int:
        """The smallest share that the round could have told from zero."""
        return min(self.detectable)


def compute_shares(evidence: Evidence, manifest: Manifest, *, method: MethodChoice = "auto") -> Shares:
    """Value the players' margins, or their candidate pools, by the manifest's game.

    Args:
        evidence: what was published.
        manifest: whose game and interval terms apply.
        method: of the valuation engine; `auto` lets it choose by size.

    Raises:
        UsageError: that method cannot value this game.
        VerificationError: the computation does not meet its own certificate.
    """
    spec, game = _spec(manifest), manifest.game
    if isinstance(evidence, PoolEvidence):
        assert isinstance(game, RewardGameTerms), "evidence was read by the terms"
        return _pool_shares(evidence, game, spec)
    assert isinstance(game, GameTerms), "evidence was read by the terms"
    if game.composition == "merged":
        assert isinstance(evidence, CoalitionEvidence), "evidence was read by the terms"
        return _coalition_shares(evidence, game, spec)
    result = value(
        evidence.margins,
        utility=game.utility,
        weights=game.composition,
        interval=None,
        method=method,
    )
    assert result.pair_shares is not None, "they are kept"
    assert result.certificate.efficiency_gap is not None, "the Shapley value is efficient"
    return _published(
        evidence,
        result.pair_shares,
        spec,
        method=_named(result.certificate.method),
        grand=result.grand,
        gap=result.certificate.efficiency_gap,
    )


def check_shares(published: Shares, recomputed: Shares) -> int:
    """Compare published numbers with recomputed ones; returns the largest difference in units of 2**-40.

    Raises:
        VerificationError: a number differs by more than `TOLERANCE`, or there are more or fewer of them.
    """
    largest = 0
    for name in ("shares", "lower", "upper", "detectable"):
        ours, theirs = getattr(recomputed, name), getattr(published, name)
        if len(ours) != len(theirs):
            raise VerificationError(
                f"{len(ours)} numbers in {name}", got=str(len(theirs)), do="do not trust it", where="value"
            )
        for player, our, their in zip(recomputed.players, ours, theirs, strict=True):
            largest = max(largest, _difference(f"{name} of {player}", our, their))
    for name in ("grand", "gap"):
        largest = max(largest, _difference(name, getattr(recomputed, name), getattr(published, name)))
    return max(largest, _check_pool(published.pool, recomputed.pool, recomputed.players))


def _check_pool(published: PoolShares | None, ours: PoolShares | None, players: tuple[str, ...]) -> int:
    """Numbers may differ by `TOLERANCE`; names, and whether the pools are degenerate, may not."""
    facts = [
        None if one is None else (one.weakest, one.degenerate, [entry.name for entry in one.objectives])
        for one in (ours, published)
    ]
    if facts[0] != facts[1]:
        raise VerificationError(
            f"the weakest coalition, its verdict and the objectives {facts[0]}",
            got=str(facts[1]),
            do="do not trust it",
            where="value",
        )
    if ours is None or published is None:
        return 0
    largest = _difference("effective", ours.effective, published.effective)
    for mine, theirs in zip(ours.objectives, published.objectives, strict=True):
        for name in ("shares", "lower", "upper"):
            rows = (getattr(mine, name), getattr(theirs, name))
            if len(rows[0]) != len(rows[1]):
                raise VerificationError(
                    f"{len(rows[0])} numbers in {name} of {mine.name}",
                    got=str(len(rows[1])),
                    do="do not trust it",
                    where="value",
                )
            for player, our, their in zip(players, *rows, strict=True):
                largest = max(largest, _difference(f"{name} of {player} in {mine.name}", our, their))
        for name in ("grand", "base"):
            largest = max(
                largest, _difference(f"{name} of {mine.name}", getattr(mine, name), getattr(theirs, name))
            )
    return largest


def _coalition_shares(evidence: CoalitionEvidence, game: GameTerms, spec: IntervalSpec) -> Shares:
    """Shares on single pairs from the margins of all coalitions; their mean are the shares."""
    values = utility_of(evidence.reals, game.utility)
    by_pair = shares_from_values(values, Semivalue())
    gap = float(np.abs(np.add.reduce(by_pair, axis=0) - values[-1]).max())
    grand = float(values[-1].mean())
    return _published(evidence, by_pair, spec, method="enumeration", grand=grand, gap=gap)


def _pool_shares(evidence: PoolEvidence, game: RewardGameTerms, spec: IntervalSpec) -> Shares:
    found = value_pools(evidence.pools)
    weights = np.array([objective.weight for objective in game.objectives], dtype=np.float64)
    weights /= weights.sum()
    by_prompt = np.add.reduce(found.shares * weights[:, None, None], axis=0)
    grand = float(np.add.reduce(found.values[-1] * weights))
    gap = abs(float(np.add.reduce(by_prompt.mean(axis=1))) - grand)
    pool = _beside(found, evidence, game, spec)
    return _published(evidence, by_prompt, spec, method="enumeration", grand=grand, gap=gap, pool=pool)


def _published(
    evidence: Evidence,
    by_pair: NDArray[np.float64],
    spec: IntervalSpec,
    *,
    method: Literal["enumeration", "polynomial"],
    grand: float,
    gap: float,
    pool: PoolShares | None = None,
) -> Shares:
    """What follows from shares on single pairs or prompts (n, M), each owner's from those it is scored on."""
    found = scored_shares(by_pair, evidence.clusters, evidence.scored, spec)
    return Shares(
        margins=evidence.digest,
        players=evidence.header.players,
        method=method,
        shares=_units(found.shares),
        lower=_units(found.lower),
        upper=_units(found.upper),
        detectable=_units(found.detectable),
        grand=to_fixed(grand),
        gap=to_fixed(gap),
        pool=pool,
    )


def _beside(
    found: PoolValuation, evidence: PoolEvidence, game: RewardGameTerms, spec: IntervalSpec
) -> PoolShares:
    objectives = []
    for place, objective in enumerate(game.objectives):
        by_prompt = found.shares[place]
        intervals = bootstrap(by_prompt, evidence.clusters, spec)
        objectives.append(
            ObjectiveShares(
                name=objective.name,
                shares=_units(by_prompt.mean(axis=1)),
                lower=_units(intervals.lower),
                upper=_units(intervals.upper),
                grand=to_fixed(float(found.values[-1, place])),
                base=to_fixed(float(found.base[place])),
            )
        )
    effective = to_fixed(float(found.effective.min()))
    return PoolShares(
        objectives=tuple(objectives),
        weakest=tuple(evidence.header.players[i] for i in found.weakest),
        effective=effective,
        degenerate=effective < to_fixed(game.pool.min_effective),
    )


def _spec(manifest: Manifest) -> IntervalSpec:
    terms = manifest.interval
    return IntervalSpec(level=terms.level, replicates=terms.replicates, seed=terms.seed)


def _difference(what: str, ours: int, theirs: int) -> int:
    difference = abs(ours - theirs)
    if difference > TOLERANCE:
        raise VerificationError(
            f"{what} of {ours} units of 2**-40, as the evidence gives",
            got=str(theirs),
            do="do not trust this ledger; the published shares do not follow from its evidence",
            where="value",
        )
    return difference


def _named(method: str) -> Literal["enumeration", "polynomial"]:
    """Shapley shares of additive margins are never valued in another way."""
    if method == "enumeration":
        return "enumeration"
    assert method == "polynomial", method
    return "polynomial"


def _units(values: NDArray[np.float64]) -> tuple[int, ...]:
    return tuple(to_fixed(float(number)) for number in values)
