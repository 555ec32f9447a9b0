"""The terms of a round, fixed before anybody trains: what is trained, how it is scored, who is paid and how.

An owner accepts a manifest by its digest. Whatever decides money is in here, so that nothing can be chosen
after the adapters are known.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from patronage_protocol.canonical import BigInt, Canonical, Digest, Name, UnixTime
from patronage_protocol.currencies import minor_unit_problem
from patronage_protocol.held_out_terms import HeldOutTerms, SlicesTerms, SliceTerms

__all__ = [
    "MOST_PLAYERS_MERGED",
    "MOST_PLAYERS_WITH_REWARDS",
    "AnyGameTerms",
    "BaseModelTerms",
    "Deadlines",
    "DevelopmentTerms",
    "DisputeTerms",
    "DpoTerms",
    "GameTerms",
    "HeldOutTerms",
    "IntakeTerms",
    "IntervalTerms",
    "LoraGroup",
    "LoraTerms",
    "Manifest",
    "ObjectiveTerms",
    "Party",
    "PayoutTerms",
    "PoolTerms",
    "RewardGameTerms",
    "SliceTerms",
    "SlicesTerms",
    "StartTerms",
    "WitnessTerms",
]

MANIFEST_TYPE = "application/vnd.patronage.manifest.v1+json"

Positive = Annotated[int, Field(gt=0)]
PositiveReal = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
PublicKeyText = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+/]{43}=\z")]

MAX_QUESTIONS = 1000
MAX_WITNESSES = 63
"""A signed note holds at most 64 signatures, and one is the log's."""


class Party(Canonical):
    """Somebody with a key: an owner or the operator. `key` is a raw Ed25519 public key in base64."""

    name: Name
    key: PublicKeyText


class BaseModelTerms(Canonical):
    """The base model pi_0, by content: two parties with these digests hold the same weights and tokenizer."""

    name: str
    architecture: str
    precision: Literal["bfloat16", "float32"]
    weights: Digest
    tokenizer: Digest

    @property
    def identity(self) -> tuple[str, str, str, str]:
        """All but the name."""
        return self.architecture, self.precision, self.weights, self.tokenizer


class LoraGroup(Canonical):
    """Linear modules of one shape: `module` has one `{}` for the layer, unless `layers` is empty."""

    module: str
    layers: tuple[int, ...]
    in_features: Positive
    out_features: Positive

    def modules(self) -> tuple[str, ...]:
        """The full module paths, in layer order."""
        return tuple(self.module.format(layer) for layer in self.layers) or (self.module,)


class LoraTerms(Canonical):
    """The one adapter format of the round; dW = (alpha / rank) B A for each module."""

    rank: Positive
    alpha: PositiveReal
    init_seed: int
    groups: Annotated[tuple[LoraGroup, ...], Field(min_length=1)]

    @property
    def scaling(self) -> float:
        """alpha / rank, the factor in front of B A."""
        return self.alpha / self.rank

    def modules(self) -> tuple[str, ...]:
        """Every adapted module, sorted by path."""
        return tuple(sorted(module for group in self.groups for module in group.modules()))

    def shapes(self) -> dict[str, tuple[int, int]]:
        """Tensor name to shape, sorted by name: A is (rank, in_features), B is (out_features, rank)."""
        shapes: dict[str, tuple[int, int]] = {}
        for group in self.groups:
            for module in group.modules():
                shapes[f"base_model.model.{module}.lora_A.weight"] = (self.rank, group.in_features)
                shapes[f"base_model.model.{module}.lora_B.weight"] = (group.out_features, self.rank)
        return dict(sorted(shapes.items()))


class StartTerms(Canonical):
    """The policy that a later round starts from and is compared with: pi_0 and the consortium's adapter.

    `adapter` is the digest in the entry `final` of round `round`; its rank and alpha are those of the file.
    """

    round: Positive
    adapter: Digest
    rank: Positive
    alpha: PositiveReal

    def lora(self, terms: LoraTerms) -> LoraTerms:
        """The format of that adapter: the modules of this round, in its own rank."""
        return terms.model_copy(update={"rank": self.rank, "alpha": self.alpha})


class DpoTerms(Canonical):
    """How every owner trains: DPO with the sigmoid loss and AdamW, from the same LoRA initialisation."""

    beta: PositiveReal
    learning_rate: PositiveReal
    epochs: Positive
    batch_size: Positive
    gradient_accumulation: Positive
    warmup_steps: Annotated[int, Field(ge=0)]
    schedule: Literal["constant", "linear", "cosine"]
    max_grad_norm: PositiveReal
    max_length: Positive
    seed: int


class IntakeTerms(Canonical):
    """What an adapter must satisfy to enter the game.

    `max_norm` caps the Frobenius norm of dW over all modules. `copy_cosine`: two adapters whose dW have at
    least this cosine are one contribution, and the earlier commitment keeps the credit.
    """

    max_bytes: Positive
    max_norm: PositiveReal
    copy_cosine: Annotated[float, Field(gt=0, le=1)]


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


MOST_PLAYERS_MERGED = 10
"""Merged weights are scored and published for each of 2^n coalitions."""

AnyGameTerms = Annotated[GameTerms | RewardGameTerms, Field(discriminator="utility")]
"""A game on margins or a game on generations, told apart by the utility."""

MOST_PLAYERS_WITH_REWARDS = 16
"""Games on generations are enumerated: 2^n weighings of every pool."""


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


class Deadlines(Canonical):
    """The last moment of each phase."""

    accept: UnixTime
    commit: UnixTime
    reveal: UnixTime

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.accept <= self.commit <= self.reveal:
            raise ValueError("the deadlines of accept, commit and reveal must not go backwards")
        return self


class WitnessTerms(Canonical):
    """Who cosigns the ledger's heads at close and at final, and how many of them it takes.

    With n witnesses of which at most `faulty` lie, any two quorums of more than (n + faulty) / 2 have an
    honest witness in common, so the operator cannot show two histories; n > 3 * faulty lets the honest ones
    make a quorum alone.

    Args:
        owners: names of the n owners that are witnesses, sorted.
        faulty: how many of them may lie.
        quorum: how many cosignatures are needed.
        seconds: how long they are waited for, from the entry that is cosigned.
    """

    owners: Annotated[tuple[Name, ...], Field(min_length=1, max_length=MAX_WITNESSES)]
    faulty: Annotated[int, Field(ge=0)]
    quorum: Positive
    seconds: Positive

    @model_validator(mode="after")
    def _is_a_quorum(self) -> Self:
        number = len(self.owners)
        if list(self.owners) != sorted(set(self.owners)):
            raise ValueError("the witnesses are not distinct names in sorted order")
        if 3 * self.faulty >= number:
            raise ValueError(f"{number} witnesses cannot make a quorum if {self.faulty} are faulty")
        if not number + self.faulty < 2 * self.quorum <= 2 * number:
            raise ValueError(f"a quorum of {self.quorum} is not more than half of {number} + {self.faulty}")
        return self


class DisputeTerms(Canonical):
    """How owners may look at the held-out pairs before the end.

    For `seconds` after the last payment each owner may ask that at most `pairs` of them be opened to
    everybody; with 0 and 0 nobody may. What was opened is known, and of no use as held-out pairs any more.
    """

    seconds: Annotated[int, Field(ge=0)] = 0
    pairs: Annotated[int, Field(ge=0, le=MAX_QUESTIONS)] = 0

    @model_validator(mode="after")
    def _both_or_neither(self) -> Self:
        if (self.seconds > 0) != (self.pairs > 0):
            raise ValueError("a dispute needs seconds and pairs, or neither")
        return self


class DevelopmentTerms(Canonical):
    """Public pairs that anybody may measure on before and during a round; none is held out.

    They are in a file of their own: `content` is the digest of its canonical lines (see `development`).
    """

    content: Digest
    pairs: Positive


class Manifest(Canonical):
    """The whole agreement.

    `seed` (32 bytes, hexadecimal) breaks ties. With fewer adapters than `min_players` after intake the
    round is aborted and the budget refunded. Without a `start` the round begins at the base model.
    `held_out` are the operator's pairs, `slices` those that owners contributed and are not scored on.
    `versions` names the software that the operator declares to run.
    """

    schema_version: Literal[1]
    consortium: Name
    round: Positive
    seed: Digest
    operator: Party
    owners: Annotated[tuple[Party, ...], Field(min_length=2)]
    min_players: Positive
    base_model: BaseModelTerms
    start: StartTerms | None = None
    lora: LoraTerms
    dpo: DpoTerms
    intake: IntakeTerms
    held_out: HeldOutTerms
    slices: SlicesTerms = SlicesTerms()
    game: AnyGameTerms
    interval: IntervalTerms
    payout: PayoutTerms
    deadlines: Deadlines
    witness: WitnessTerms
    dispute: DisputeTerms = DisputeTerms()
    development: DevelopmentTerms | None = None
    versions: dict[str, str]

    @model_validator(mode="after")
    def _distinct_parties(self) -> Self:
        for field in ("name", "key"):
            seen: dict[str, str] = {}
            for party in (self.operator, *self.owners):
                value = getattr(party, field)
                if value in seen:
                    raise ValueError(f"{party.name} and {seen[value]} have the same {field}")
                seen[value] = party.name
        return self

    @model_validator(mode="after")
    def _starts_from_the_past(self) -> Self:
        if self.start is not None and self.start.round >= self.round:
            raise ValueError("a round starts from the adapter of a round before it")
        return self

    @model_validator(mode="after")
    def _slices_fit_in(self) -> Self:
        if strangers := {part.owner for part in self.slices.of} - {owner.name for owner in self.owners}:
            raise ValueError(f"the slice of {min(strangers)}, which is no owner")
        if self.slices.of and isinstance(self.game, RewardGameTerms):
            raise ValueError("owners' slices do not go with the utility reward, whose pools are by prompt")
        if problem := self.slices.problem(self.held_out):
            raise ValueError(problem)
        return self

    @model_validator(mode="after")
    def _merged_coalitions_are_few(self) -> Self:
        if self.game.composition == "merged" and len(self.owners) > MOST_PLAYERS_MERGED:
            raise ValueError(f"the composition merged serves at most {MOST_PLAYERS_MERGED} owners")
        return self

    @model_validator(mode="after")
    def _rewards_can_be_paid(self) -> Self:
        if isinstance(self.game, GameTerms):
            return self
        if len(self.owners) > MOST_PLAYERS_WITH_REWARDS:
            raise ValueError(f"the utility reward serves at most {MOST_PLAYERS_WITH_REWARDS} owners")
        for objective in self.game.objectives:
            if objective.scorer is None:
                raise ValueError(f"the objective {objective.name} lacks the digest of what scores it")
        return self

    @model_validator(mode="after")
    def _witnesses_are_owners(self) -> Self:
        if strangers := set(self.witness.owners) - {owner.name for owner in self.owners}:
            raise ValueError(f"the witness {min(strangers)} is no owner")
        if self.deadlines.reveal < self.deadlines.commit + self.witness.seconds:
            raise ValueError("the deadline of reveal leaves the witnesses less than their seconds")
        return self

    @property
    def held_out_sets(self) -> tuple[HeldOutTerms, ...]:
        """The commitments in the order in which pairs are numbered: the operator's, then owners' slices."""
        return (self.held_out, *self.slices.of)

    @property
    def held_out_pairs(self) -> int:
        """How many pairs coalitions are scored on."""
        return sum(part.pairs for part in self.held_out_sets)

    @property
    def origin(self) -> str:
        """The ledger's name: the origin of its checkpoints, the same for all rounds of a consortium."""
        return f"{self.operator.name}/{self.consortium}"

    def owner(self, name: str) -> Party | None:
        """The owner of that name, or None."""
        return next((owner for owner in self.owners if owner.name == name), None)
