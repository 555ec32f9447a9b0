"""The game on generations: the expected reward of every coalition's answers, from one pool of candidates.

For one prompt x let candidates y_1, ..., y_K be drawn, the first A of them from pi_0 and the others from the
model g of all players. The balance heuristic takes all of them as draws from the mixture (Veach and Guibas
1995; Owen and Zhou 2000, deterministic mixture):

    q(y)        = (A pi_0(y | x) + (K - A) g(y | x)) / K
    log pi_S    = log pi_0 + sum_{i in S} (log pi_i - log pi_0) + const(x)          policy arithmetic
    p_S(y_k)    = (pi_S / q)(y_k) / sum_l (pi_S / q)(y_l)                           self-normalised
    R_S(x)      = sum_k p_S(y_k) r(x, y_k)
    v(S)        = mean over prompts of R_S(x) - R_empty(x)
    ess_S(x)    = 1 / sum_k p_S(y_k)^2                                              effective candidates

The unknown const(x) cancels in p_S. An estimate of this kind is biased by O(1 / K) and consistent. All 2^n
coalitions come from one (n + 1) x K table a prompt; no coalition is generated from or scored by a model.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patronage_protocol.errors import UsageError
from patronage_protocol.manifest import MOST_PLAYERS_WITH_REWARDS
from patronage_protocol.valuation._products import tiled_product
from patronage_protocol.valuation.enumeration import shares_from_values, subset_sums
from patronage_protocol.valuation.semivalues import Semivalue, check_semivalue

__all__ = ["CandidatePools", "PoolValuation", "check_effective", "value_pools"]


@dataclass(frozen=True, eq=False)
class CandidatePools:
    """M pools of K candidates, scored by n adapters and O rewards.

    Attributes:
        log_ratios: (n, M, K) log pi_i(y) - log pi_0(y), nats.
        proposal: (M, K) log g(y) - log pi_0(y), nats, with g the second source of candidates.
        from_base: A, how many of the K candidates of each pool were drawn from pi_0.
        rewards: (O, M, K), in units of each reward.

    Raises:
        UsageError: shapes that do not fit together, an empty pool, or numbers that are not finite.
    """

    log_ratios: NDArray[np.float64]
    proposal: NDArray[np.float64]
    from_base: int
    rewards: NDArray[np.float64]

    def __post_init__(self) -> None:
        ratios, rewards = self.log_ratios.shape, self.rewards.shape
        fits = len(ratios) == len(rewards) == 3 and ratios[1:] == rewards[1:] == self.proposal.shape
        if not fits or 0 in (*ratios, *rewards):
            raise UsageError(
                "pools (owners, prompts, candidates) and (objectives, prompts, candidates), none empty",
                got=f"{ratios}, {rewards} and a proposal of {self.proposal.shape}",
                do="draw at least one candidate for each prompt, and score every one",
            )
        if not 1 <= self.from_base <= ratios[2]:
            raise UsageError(
                f"1 to {ratios[2]} candidates from the base model", got=str(self.from_base), do="declare it"
            )
        if ratios[0] > MOST_PLAYERS_WITH_REWARDS:
            raise UsageError(
                f"at most {MOST_PLAYERS_WITH_REWARDS} owners", got=str(ratios[0]), do="use margins instead"
            )
        for what in ("log_ratios", "proposal", "rewards"):
            if not np.isfinite(getattr(self, what)).all():
                raise UsageError(f"finite {what}", got="NaN or infinity", do="check model and reward")

    @property
    def log_offsets(self) -> NDArray[np.float64]:
        """log pi_0(y) - log q(y), (M, K); at most -log(A / K)."""
        part = self.from_base / self.proposal.shape[1]
        if part == 1.0:
            return np.zeros_like(self.proposal)
        return np.asarray(-np.logaddexp(np.log(part), np.log1p(-part) + self.proposal))


@dataclass(frozen=True, eq=False)
class PoolValuation:
    """What the pools say about n owners and O objectives.

    Attributes:
        shares: (O, n, M) the share of every owner in the reward of every prompt; the mean over prompts is
            the share in v.
        values: (2^n, O) v(S) in bitmask order; v of the empty coalition is zero.
        base: (O,) the reward of pi_0 itself, which v leaves out.
        effective: (2^n,) ess_S in the mean over prompts, between 1 and K.
    """

    shares: NDArray[np.float64]
    values: NDArray[np.float64]
    base: NDArray[np.float64]
    effective: NDArray[np.float64]

    @property
    def weakest(self) -> tuple[int, ...]:
        """The owners of the coalition with the fewest effective candidates; of equals the first bitmask."""
        mask = int(np.argmin(self.effective))
        return tuple(i for i in range(self.shares.shape[1]) if mask >> i & 1)


def value_pools(pools: CandidatePools, *, semivalue: str | Semivalue = "shapley") -> PoolValuation:
    """Shares, coalition values and effective candidates of M pools, by enumeration of all 2^n coalitions.

    Cost O(2^n M K O) and no more memory than O(2^n (K + O)) beside the result.
    """
    rule = check_semivalue(semivalue)
    n, prompts, _ = pools.log_ratios.shape
    objectives = len(pools.rewards)
    offsets = pools.log_offsets
    shares = np.empty((objectives, n, prompts))
    total, base, effective = np.zeros((1 << n, objectives)), np.zeros(objectives), np.zeros(1 << n)
    for prompt in range(prompts):
        weights = _weights(pools.log_ratios[:, prompt], offsets[prompt])
        rewards = tiled_product(weights, np.ascontiguousarray(pools.rewards[:, prompt].T))
        effective += 1.0 / np.square(weights).sum(axis=1)
        base += rewards[0]
        gains = rewards - rewards[0]
        total += gains
        shares[:, :, prompt] = shares_from_values(gains, rule).T
    return PoolValuation(shares, total / prompts, base / prompts, effective / prompts)


def check_effective(valuation: PoolValuation, players: tuple[str, ...], least: float) -> None:
    """Refuse pools that hardly speak for some coalition.

    Raises:
        UsageError: a coalition has fewer than `least` effective candidates; names the worst of them.
    """
    worst = float(valuation.effective.min())
    if worst < least:
        names = " + ".join(players[i] for i in valuation.weakest) or "the base model"
        raise UsageError(
            f"at least {least:g} effective candidates for every coalition",
            got=f"{worst:.2f} for {names}",
            do="draw more candidates, draw more of them from the model of all, or train more gently",
        )


def _weights(log_ratios: NDArray[np.float64], offsets: NDArray[np.float64]) -> NDArray[np.float64]:
    """p_S(y_k) for every coalition and candidate, (2^n, K)."""
    logs = subset_sums(log_ratios)
    logs += offsets
    logs -= logs.max(axis=1, keepdims=True)
    weights = np.exp(logs, out=logs)
    weights /= weights.sum(axis=1, keepdims=True)
    return weights
