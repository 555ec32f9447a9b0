"""What an operator chooses for a round, as a person writes it in TOML.

Digests, shapes, keys and deadlines are no choices: `drafting` fills them in from the base model, the held-out
pairs and the registered owners.
"""

from typing import Literal

from pydantic import Field

from patronage_protocol.canonical import Name
from patronage_protocol.held_out_terms import MOST_PERCENT
from patronage_protocol.manifest import (
    AnyGameTerms,
    DisputeTerms,
    DpoTerms,
    IntakeTerms,
    IntervalTerms,
    PayoutTerms,
)
from patronage_protocol.settings import Settings

__all__ = ["LoraChoice", "PhaseSeconds", "RoundTerms", "SliceChoice", "WitnessChoice"]


class LoraChoice(Settings):
    """Which modules get an adapter, and of what rank; dW = (alpha / rank) B A."""

    rank: int = Field(gt=0)
    alpha: float = Field(gt=0)
    target_modules: tuple[str, ...] = Field(min_length=1)
    init_seed: int = 0


class PhaseSeconds(Settings):
    """How long each phase may last."""

    accept: int = Field(default=600, gt=0)
    commit: int = Field(default=86_400, gt=0)
    witness: int = Field(default=600, gt=0)
    reveal: int = Field(default=3_600, gt=0)


class WitnessChoice(Settings):
    """Which owners cosign the ledger's heads: all if none are named. `faulty`: how many of them may lie.

    By default as many may lie as the quorum can bear: fewer than a third.
    """

    owners: tuple[Name, ...] = ()
    faulty: int | None = Field(default=None, ge=0)


class SliceChoice(Settings):
    """How much of all held-out pairs one owner's slice may be; 0 where owners contribute none."""

    most_percent: int = Field(default=0, ge=0, le=MOST_PERCENT)


class RoundTerms(Settings):
    """All that a person decides about a round; see the manifest for what each part means.

    `start`: a later round starts from the consortium's adapter of the round before, or from the base model.
    """

    lora: LoraChoice
    dpo: DpoTerms
    intake: IntakeTerms
    game: AnyGameTerms
    interval: IntervalTerms
    payout: PayoutTerms
    min_players: int = Field(default=2, gt=0)
    start: Literal["consortium", "base"] = "consortium"
    seconds: PhaseSeconds = PhaseSeconds()
    witness: WitnessChoice = WitnessChoice()
    dispute: DisputeTerms = DisputeTerms()
    slices: SliceChoice = SliceChoice()
