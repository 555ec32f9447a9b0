"""From what the user names to a plan: a scenario with generated pairs, or files of real pairs.

With real pairs every row is read and judged before any folder is made, so that a mistake in a file costs
seconds and not a training.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from patronage_protocol.errors import DataError
from patronage_protocol.pair_files import LoadedPairs, owners_from_folder, read_pairs
from patronage_protocol.policy import length_check, shared_base_model
from patronage_protocol.preferences import PreferencePair, overlap
from patronage_protocol.settings import read_settings
from patronage_server.terms import RoundTerms
from patronage_simulations.consortium import Plan
from patronage_simulations.progress import Progress
from patronage_simulations.scenarios import Scenario, generate, load_scenario, presets

__all__ = ["Computing", "OnBadRow", "OnOverlap", "plan_of_files", "plan_of_scenario"]

OnBadRow = Literal["stop", "skip"]
OnOverlap = Literal["warn", "refuse"]


@dataclass(frozen=True)
class Computing:
    """How every party of a simulated consortium computes, as in owner.toml."""

    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    device: str = "auto"
    threads: int = 0
    cache: str = ""

    @property
    def cache_folder(self) -> Path | None:
        """The cache as a path, if there is one."""
        return Path(self.cache) if self.cache else None


def plan_of_scenario(scenario: Scenario, computing: Computing) -> Plan:
    """The plan of a scenario, its pairs generated.

    Raises:
        UsageError: a skill has fewer prompts than pairs are wanted.
    """
    pairs = generate(scenario)
    return Plan(
        name=scenario.name,
        seed=scenario.seed,
        base_model=scenario.base_model,
        terms=scenario.terms,
        owners=pairs.owners,
        held_out=pairs.held_out,
        slices=pairs.slices,
        privacy={
            owner.name: (owner.epsilon, owner.delta)
            for owner in scenario.owners
            if owner.epsilon is not None and owner.delta is not None
        },
        **vars(computing),
    )


def plan_of_files(
    owners: Path,
    held_out: Path,
    terms_file: Path,
    base_model: str,
    *,
    name: str,
    seed: int,
    on_bad_row: OnBadRow,
    on_overlap: OnOverlap,
    computing: Computing,
    progress: Progress,
    slices: Path | None = None,
) -> Plan:
    """The plan of a folder with one file of pairs an owner, and a file of held-out pairs.

    The terms are a file, or those of a preset by its name. `slices` is a folder like the first, with the
    held-out pairs that owners contribute.

    Raises:
        DataError: the terms or a row are unusable, or a held-out pair is an owner's too, and that is to
        stop the run; or a slice is nobody's. UnavailableError: a file is missing.
    """
    terms = _terms(terms_file)
    base = shared_base_model(
        base_model,
        precision=computing.precision,
        device=computing.device,
        cache=computing.cache_folder,
    )
    check = length_check(base, terms.dpo.max_length)

    def read(path: Path) -> LoadedPairs:
        loaded = read_pairs(path, on_bad_row=on_bad_row, check=check)
        for row in loaded.skipped:
            progress.say(f"left out {row.place}: {row.reason}")
        return loaded

    files = owners_from_folder(owners, held_out=held_out)
    loaded = {owner: read(path) for owner, path in files.items()}
    scored = read(held_out)
    contributed = {} if slices is None else owners_from_folder(slices, least=1)
    _require_owners(contributed, loaded)
    parts = {owner: read(path) for owner, path in contributed.items()}
    for owner, pairs in loaded.items():
        for those in (scored, *(part for other, part in parts.items() if other != owner)):
            _report_overlap(owner, pairs.pairs, those, on_overlap, progress)
    return Plan(
        name=name,
        seed=seed,
        base_model=base_model,
        terms=terms,
        owners={owner: pairs.pairs for owner, pairs in loaded.items()},
        held_out=scored.pairs,
        slices={owner: part.pairs for owner, part in parts.items()},
        **vars(computing),
    )


def _terms(named: Path) -> RoundTerms:
    """Terms by the path of a TOML file, or by the name of a preset that has them."""
    if str(named) in presets():
        return load_scenario(str(named)).terms
    return read_settings(named, RoundTerms)


def _require_owners(contributed: Mapping[str, Path], owners: Collection[str]) -> None:
    for name, path in contributed.items():
        if name not in owners:
            raise DataError(
                f"slices of the owners {', '.join(sorted(owners))}",
                got=f"one of {name}",
                do="name the file after its owner",
                where=str(path),
            )


def _report_overlap(
    owner: str,
    pairs: Sequence[PreferencePair],
    scored: LoadedPairs,
    on_overlap: OnOverlap,
    progress: Progress,
) -> None:
    """Held-out pairs that an owner could have trained on flatter that owner's share."""
    common = overlap(scored.pairs, pairs)
    if common.pairs and on_overlap == "refuse":
        raise DataError(
            f"held-out pairs that {owner} does not have",
            got=f"{len(common.pairs)} that it has",
            do="take them out, or pass --on-overlap warn",
            where=scored.places[common.pairs[0]],
        )
    if common.pairs:
        first = scored.places[common.pairs[0]]
        progress.say(f"warning: {len(common.pairs)} held-out pairs are also {owner}'s, first {first}")
    elif common.prompts:
        progress.say(f"note: {len(common.prompts)} held-out pairs share a prompt with {owner}'s")
