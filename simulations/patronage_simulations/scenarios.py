"""A scenario: a consortium of generated owners with known qualities, as a person writes it in TOML.

`presets()` are the scenarios that come with Patronage (folder `presets`). Digests, keys and deadlines are no
part of a scenario; the operator fills them in. How the presets were chosen is in docs/scenarios.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from patronage_protocol.canonical import Name
from patronage_protocol.errors import UsageError
from patronage_protocol.preferences import PreferencePair
from patronage_protocol.settings import Settings, read_settings
from patronage_server.terms import RoundTerms
from patronage_simulations.preferences import (
    coin_labelled,
    flipped,
    held_out_pairs,
    owner_pairs,
    plain,
    reordered,
    slice_pairs,
)
from patronage_simulations.skills import SKILLS

__all__ = [
    "GeneratedPairs",
    "HeldOutPlan",
    "OwnerPlan",
    "Quality",
    "Scenario",
    "generate",
    "load_scenario",
    "presets",
]

PRESETS = Path(__file__).with_name("presets")

Quality = Literal["clean", "few", "flipped", "random", "copy"]


class _WithSkills(Settings):
    skills: tuple[str, ...] = ()

    @field_validator("skills")
    @classmethod
    def _known(cls, skills: tuple[str, ...]) -> tuple[str, ...]:
        for skill in skills:
            if skill not in SKILLS:
                raise ValueError(f"{skill!r} is no skill; there are {', '.join(SKILLS)}")
        if len(set(skills)) != len(skills):
            raise ValueError("a skill is named twice")
        return skills


class OwnerPlan(_WithSkills):
    """One owner and what its pairs are worth.

    - `clean`: the rule of each skill decided every label.
    - `few`: clean, and so few that little can be learnt; the number of pairs says how few.
    - `flipped`: chosen and rejected are exchanged in `fraction` of the pairs.
    - `random`: a fair coin decided every label.
    - `copy`: the pairs of the owner `copy_of`, in another order; has no pairs and skills of its own.

    With `epsilon` and `delta` the owner trains with differential privacy. With `slice_pairs` it contributes
    so many held-out pairs, made as those that it trains on are: of its skills, and labelled as it labels.
    """

    name: Name
    quality: Quality
    pairs: int = Field(default=0, ge=0)
    fraction: float | None = Field(default=None, gt=0, le=1)
    copy_of: Name | None = None
    epsilon: float | None = Field(default=None, gt=0)
    delta: float | None = Field(default=None, gt=0, lt=1)
    slice_pairs: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.copy_of is not None) != (self.quality == "copy"):
            raise ValueError("copy_of belongs to the quality copy, which needs it")
        if (self.fraction is not None) != (self.quality == "flipped"):
            raise ValueError("fraction belongs to the quality flipped, which needs it")
        if self.quality == "copy" and (self.pairs or self.skills):
            raise ValueError("a copy has the pairs and skills of the owner it copies; leave them out")
        if self.quality == "copy" and self.slice_pairs:
            raise ValueError("a copy has no held-out pairs of its own to contribute")
        if self.quality != "copy" and not (self.pairs and self.skills):
            raise ValueError("pairs and skills are missing")
        if (self.epsilon is None) != (self.delta is None):
            raise ValueError("epsilon and delta belong together")
        return self


class HeldOutPlan(_WithSkills):
    """Held-out pairs: so many for each skill, `pairs_per_prompt` of them with the same prompt."""

    pairs_per_skill: int = Field(gt=0)
    pairs_per_prompt: int = Field(default=1, gt=0)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if not self.skills:
            raise ValueError("skills are missing")
        return self


class Scenario(Settings):
    """A consortium to simulate. `seed` decides the pairs; training has seeds of its own in `terms`.

    `conversational = false` makes pairs of plain text, a third shorter without the chat template.
    """

    name: Name
    description: str = Field(min_length=1)
    base_model: str = Field(min_length=1)
    seed: int = Field(default=0, ge=0)
    conversational: bool = True
    owners: tuple[OwnerPlan, ...] = Field(min_length=2)
    held_out: HeldOutPlan
    terms: RoundTerms

    @model_validator(mode="after")
    def _owners_fit_together(self) -> Self:
        names = [owner.name for owner in self.owners]
        if len(set(names)) != len(names):
            raise ValueError("two owners have the same name")
        originals = {owner.name for owner in self.owners if owner.quality != "copy"}
        for owner in self.owners:
            if owner.copy_of is not None and owner.copy_of not in originals:
                raise ValueError(f"{owner.name} copies {owner.copy_of}, which is no owner with own pairs")
        return self


@dataclass(frozen=True, slots=True)
class GeneratedPairs:
    """The data of a scenario: owner to its pairs, and the held-out pairs, whose prompts no owner trains on.

    `slices` are those that owners contribute, owner to pairs.
    """

    owners: Mapping[str, tuple[PreferencePair, ...]]
    held_out: tuple[PreferencePair, ...]
    slices: Mapping[str, tuple[PreferencePair, ...]]


def presets() -> dict[str, Path]:
    """The scenarios that come with Patronage, by name."""
    return {path.stem: path for path in sorted(PRESETS.glob("*.toml"))}


def load_scenario(source: str | Path) -> Scenario:
    """Read a preset by its name, or a scenario by its path.

    Raises:
        UsageError: neither a preset nor a file.
        DataError: not a valid scenario; names the file and the key.
        UnavailableError: the file cannot be read.
    """
    path = presets().get(str(source), Path(source))
    if not path.is_file():
        raise UsageError(
            f"a preset ({', '.join(presets())}) or a scenario file",
            got=repr(str(source)),
            do="name one of them",
        )
    return read_settings(path, Scenario)


def generate(scenario: Scenario) -> GeneratedPairs:
    """The pairs of every owner and the held-out pairs; the same scenario gives the same pairs everywhere.

    Raises:
        UsageError: a skill has fewer prompts than pairs are wanted.
    """
    owners: dict[str, tuple[PreferencePair, ...]] = {}
    for owner in sorted(scenario.owners, key=lambda owner: owner.quality == "copy"):
        owners[owner.name] = _pairs(owner, f"{scenario.seed}/owner/{owner.name}", owners)
    plan = scenario.held_out
    held_out = held_out_pairs(
        plan.skills,
        plan.pairs_per_skill,
        seed=f"{scenario.seed}/held-out",
        pairs_per_prompt=plan.pairs_per_prompt,
    )
    made = {owner.name: owners[owner.name] for owner in scenario.owners}
    slices = _slices(scenario, held_out)
    if not scenario.conversational:
        return GeneratedPairs(
            {owner: plain(pairs) for owner, pairs in made.items()},
            plain(held_out),
            {owner: plain(pairs) for owner, pairs in slices.items()},
        )
    return GeneratedPairs(made, held_out, slices)


def _slices(
    scenario: Scenario, held_out: tuple[PreferencePair, ...]
) -> dict[str, tuple[PreferencePair, ...]]:
    """What owners contribute, none with a prompt of the operator's pairs or of a slice before it."""
    slices: dict[str, tuple[PreferencePair, ...]] = {}
    taken = {pair.prompt_digest for pair in held_out}
    for owner in scenario.owners:
        if owner.slice_pairs:
            seed = f"{scenario.seed}/slice/{owner.name}"
            pairs = slice_pairs(owner.skills, owner.slice_pairs, seed=seed, taken=taken)
            taken |= {pair.prompt_digest for pair in pairs}
            slices[owner.name] = _labelled(owner, pairs, seed)
    return slices


def _pairs(
    owner: OwnerPlan, seed: str, others: Mapping[str, tuple[PreferencePair, ...]]
) -> tuple[PreferencePair, ...]:
    if owner.copy_of is not None:
        return reordered(others[owner.copy_of], seed=seed)
    return _labelled(owner, owner_pairs(owner.skills, owner.pairs, seed=seed), seed)


def _labelled(owner: OwnerPlan, pairs: tuple[PreferencePair, ...], seed: str) -> tuple[PreferencePair, ...]:
    """As the owner labels what it has."""
    if owner.fraction is not None:
        return flipped(pairs, owner.fraction, seed=seed)
    return coin_labelled(pairs, seed=seed) if owner.quality == "random" else pairs
