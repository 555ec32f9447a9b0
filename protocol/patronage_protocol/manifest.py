"""The terms of a round, fixed before anybody trains: what is trained, how it is scored, who is paid and how.

An owner accepts a manifest by its digest. Whatever decides money is in here, so that nothing can be chosen
after the adapters are known.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from patronage_protocol.canonical import Canonical, Digest, Name, Positive, UnixTime
from patronage_protocol.game_terms import (
    MOST_PLAYERS_MERGED,
    MOST_PLAYERS_WITH_REWARDS,
    AnyGameTerms,
    GameTerms,
    IntervalTerms,
    ObjectiveTerms,
    PayoutTerms,
    PoolTerms,
    RewardGameTerms,
)
from patronage_protocol.held_out_terms import HeldOutTerms, SlicesTerms, SliceTerms
from patronage_protocol.training_terms import (
    BaseModelTerms,
    DpoTerms,
    IntakeTerms,
    LoraGroup,
    LoraTerms,
    StartTerms,
)

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

PublicKeyText = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+/]{43}=\z")]

MAX_QUESTIONS = 1000
MAX_WITNESSES = 63
"""A signed note holds at most 64 signatures, and one is the log's."""


class Party(Canonical):
    """Somebody with a key: an owner or the operator. `key` is a raw Ed25519 public key in base64."""

    name: Name
    key: PublicKeyText


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
