"""What an operator chooses for a round, and the manifest that follows from it.

A person writes `RoundTerms` in TOML; digests, shapes, keys and deadlines are filled in from the base model,
the held-out pairs and the registered owners.
"""

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from pydantic import Field, ValidationError

from patronage_protocol.canonical import Digest, first_problem
from patronage_protocol.errors import UsageError
from patronage_protocol.manifest import (
    Deadlines,
    DpoTerms,
    GameTerms,
    HeldOutTerms,
    IntakeTerms,
    IntervalTerms,
    LoraTerms,
    Manifest,
    Party,
    PayoutTerms,
)
from patronage_protocol.policy import BaseModel, lora_groups
from patronage_protocol.settings import Settings

__all__ = ["LoraChoice", "PhaseSeconds", "RoundTerms", "draw_up"]

SOFTWARE = ("patronage", "torch", "transformers", "peft", "trl")


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
    reveal: int = Field(default=3_600, gt=0)


class RoundTerms(Settings):
    """All that a person decides about a round; see the manifest for what each part means."""

    lora: LoraChoice
    dpo: DpoTerms
    intake: IntakeTerms
    game: GameTerms
    interval: IntervalTerms
    payout: PayoutTerms
    min_players: int = Field(default=2, gt=0)
    seconds: PhaseSeconds = PhaseSeconds()


def draw_up(
    terms: RoundTerms,
    *,
    consortium: str,
    number: int,
    seed: Digest,
    operator: Party,
    owners: Sequence[Party],
    base: BaseModel,
    held_out: HeldOutTerms,
    now: int,
) -> Manifest:
    """The manifest of a round that opens `now` (Unix seconds).

    Raises:
        UsageError: the base model has none of the target modules, or two parties share a name or key.
    """
    accept = now + terms.seconds.accept
    commit = accept + terms.seconds.commit
    fields = {
        "schema_version": 1,
        "consortium": consortium,
        "round": number,
        "seed": seed,
        "operator": operator,
        "owners": tuple(sorted(owners, key=lambda owner: owner.name)),
        "min_players": terms.min_players,
        "base_model": base.terms(),
        "lora": LoraTerms(
            rank=terms.lora.rank,
            alpha=terms.lora.alpha,
            init_seed=terms.lora.init_seed,
            groups=lora_groups(base.model, terms.lora.target_modules),
        ),
        "dpo": terms.dpo,
        "intake": terms.intake,
        "held_out": held_out,
        "game": terms.game,
        "interval": terms.interval,
        "payout": terms.payout,
        "deadlines": Deadlines(accept=accept, commit=commit, reveal=commit + terms.seconds.reveal),
        "versions": _versions(),
    }
    try:
        return Manifest.model_validate(fields)
    except ValidationError as error:
        raise UsageError(
            "terms and parties that make a manifest", got=first_problem(error), do="mend it and try again"
        ) from error


def _versions() -> dict[str, str]:
    versions = {}
    for package in SOFTWARE:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "absent"
    return versions
