"""What the terms say of the game and of money: utilities, candidates and objectives, intervals, payouts."""

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from patronage_protocol.canonical import BigInt, Canonical, Digest, Fraction, Name, Positive
from patronage_protocol.currencies import minor_unit_problem

__all__ = [
    "MOST_PLAYERS_MERGED",
    "MOST_PLAYERS_WITH_REWARDS",
    "AnyGameTerms",
    "GameTerms",
    "IntervalTerms",
    "ObjectiveTerms",
    "PayoutTerms",
    "PoolTerms",
    "RewardGameTerms",
]

MOST_PLAYERS_MERGED = 10
"""Merged weights are scored and published for each of 2^n coalitions."""

MOST_PLAYERS_WITH_REWARDS = 16
"""Games on generations are enumerated: 2^n weighings of every pool."""


class GameTerms(Canonical):
    """The cooperative game. Margins are published as int32 in units of 2**-scale_bits.

    - `sum`: policies are multiplied; a coalition's margin is the sum of its owners' margins.
    - `merged`: the adapters' dW are added, and every coalition is scored by a model of its own. The margins
      of all 2^n are published, so at most `MOST_PLAYERS_MERGED` owners can take part.
    """

    composition: Literal["sum", "merged"]
    utility: Literal["sigmoid", "log_sigmoid", "win"]
    scale_bits: Annotated[int, Field(ge=16, le=24)]


class PoolTerms(Canonical):
    """The candidates that stand for every coalition's answers, one pool for each held-out prompt.

    Of `candidates` answers `from_base` are drawn from pi_0 and the others from the model of all players, at
    temperature one, each cut after `max_new_tokens`. `min_effective`: the budget is refunded when for some
    coalition the effective number of candidates, 1 / sum_k p_S(y_k)^2, is below it in the mean over prompts.
    """

    candidates: Annotated[int, Field(ge=2, le=1024)]
    from_base: Positive
    max_new_tokens: Positive
    seed: int
    min_effective: Annotated[float, Field(gt=1)]

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.from_base > self.candidates:
            raise ValueError(f"from_base is at most the number of candidates, {self.candidates}")
        if self.min_effective > self.candidates:
            raise ValueError(f"min_effective is at most the number of candidates, {self.candidates}")
        return self


class ObjectiveTerms(Canonical):
    """One objective: what scores an answer, and how much it counts for the payout.

    `reward` names a sequence-classification model (`model:FOLDER-OR-HUB-ID`) or a function
    (`python:MODULE:FUNCTION`). `output` is the logit that counts, for a classifier with several. `scorer`
    is the digest of model or function, filled in when the terms are drawn up. A weight of zero reports an
    objective without paying for it.
    """

    name: Name
    reward: Annotated[str, StringConstraints(pattern=r"^(?:model:.+|python:[A-Za-z_][\w.]*:[A-Za-z_]\w*)\z")]
    weight: Annotated[int, Field(ge=0, le=10**6)]
    output: Annotated[int, Field(ge=0)] | None = None
    scorer: Digest | None = None


class RewardGameTerms(Canonical):
    """The game on generations: v(S) is the expected reward of the coalition's answers above that of pi_0.

    With several objectives v is the mean of theirs, weighted. Log-ratios and rewards are published as int32
    in units of 2**-scale_bits.
    """

    composition: Literal["sum"]
    utility: Literal["reward"]
    scale_bits: Annotated[int, Field(ge=16, le=24)]
    pool: PoolTerms
    objectives: Annotated[tuple[ObjectiveTerms, ...], Field(min_length=1, max_length=16, strict=False)]

    @model_validator(mode="after")
    def _objectives_count(self) -> Self:
        names = [objective.name for objective in self.objectives]
        if len(set(names)) != len(names):
            raise ValueError("two objectives have the same name")
        if not any(objective.weight for objective in self.objectives):
            raise ValueError("at least one objective needs a weight above zero")
        return self


AnyGameTerms = Annotated[GameTerms | RewardGameTerms, Field(discriminator="utility")]
"""A game on margins or a game on generations, told apart by the utility."""


class IntervalTerms(Canonical):
    """Bootstrap intervals of the shares, resampling whole prompts."""

    level: Fraction
    replicates: Annotated[int, Field(ge=100)]
    seed: int


class PayoutTerms(Canonical):
    """Who earns what from the shares. Amounts are in minor units: 10**-exponent of `currency`.

    `currency` and `exponent` are those of ISO 4217, unless `minor_unit` says that the operator declares them:
    for points of a consortium's own, or a currency newer than this version.

    - `gated`: a share whose lower bound is not above zero earns nothing; the rest share the budget.
    - `clipped`: negative shares count as zero.
    - `signed`: negative shares pay in, each at most its `bond`.
    - `per_unit`: `unit_price` for each whole unit of utility, at most the budget; the rest is refunded.

    `max_detectable_percent`: the round is underpowered, and the budget is refunded, when the smallest share
    that it could have told from zero exceeds this part of the equal share v(N) / n.
    """

    policy: Literal["gated", "clipped", "signed", "per_unit"]
    currency: Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}\z")]
    exponent: Annotated[int, Field(ge=0, le=4)]
    minor_unit: Literal["iso-4217", "declared"] = "iso-4217"
    budget: Annotated[BigInt, Field(ge=0)]
    max_detectable_percent: Positive
    bond: Annotated[BigInt, Field(ge=0)] = 0
    unit_price: Annotated[BigInt, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _minor_unit_is_that_of_the_currency(self) -> Self:
        if self.minor_unit == "iso-4217" and (problem := minor_unit_problem(self.currency, self.exponent)):
            raise ValueError(f"{problem}; correct it, or set minor_unit to 'declared' if it is meant so")
        return self

    @model_validator(mode="after")
    def _policy_is_complete(self) -> Self:
        for policy, field in (("signed", "bond"), ("per_unit", "unit_price")):
            if (getattr(self, field) > 0) != (self.policy == policy):
                raise ValueError(f"{field} belongs to the policy {policy}, and {policy} needs it above zero")
        return self
