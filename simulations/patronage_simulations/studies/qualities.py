"""What each owner of a scenario is worth alone, and how near a copy comes to the owner it copies.

    python -m patronage_simulations.studies.qualities [SCENARIO] [--cache DIR] [--threads N]

Every owner trains as in a round, and is scored alone on the held-out pairs. Beside the owners of the scenario
there are five of the study's own, made from the pairs of the first clean owner: `without-two`, then with new
pairs for some of its own `four-exchanged`, `half-exchanged` and `all-exchanged` (an honest owner of the same
skills), and `other-skills`. Prints a line for each: pairs, ||dW||, solo utility with its interval, and the
cosine of dW with that of the first clean owner. The figures in docs/scenarios.md and the threshold
`copy_cosine` come from here.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patronage_client.training import train_adapter
from patronage_protocol.adapters import Tensors, cosine, norm
from patronage_protocol.errors import UsageError
from patronage_protocol.manifest import GameTerms, LoraTerms
from patronage_protocol.policy import (
    BaseModel,
    adapted,
    completion_logprobs,
    load_base_model,
    lora_groups,
    tokenize_pairs,
)
from patronage_protocol.preferences import PreferencePair
from patronage_protocol.valuation import IntervalSpec, value
from patronage_simulations.preferences import owner_pairs
from patronage_simulations.scenarios import OwnerPlan, Scenario, generate, load_scenario
from patronage_simulations.skills import SKILLS

__all__ = ["Finding", "main", "study"]

Pairs = tuple[PreferencePair, ...]


@dataclass(frozen=True)
class Finding:
    """One owner alone: solo utility with its interval, norm of dW, cosine with the first clean owner."""

    owner: str
    pairs: int
    norm: float
    utility: float
    lower: float
    upper: float
    cosine: float

    def __str__(self) -> str:
        interval = f"[{self.lower:+.4f}, {self.upper:+.4f}]"
        return (
            f"{self.owner:15} {self.pairs:5} pairs   ||dW|| {self.norm:6.3f}   "
            f"utility {self.utility:+.4f} {interval}   cosine {self.cosine:+.3f}"
        )


def study(scenario: Scenario, base: BaseModel, *, threads: int | None = None) -> Iterator[Finding]:
    """Train and score one owner after the other; the first clean owner comes first."""
    data = generate(scenario)
    original = next(owner for owner in scenario.owners if owner.quality == "clean")
    owners = {original.name: data.owners[original.name], **data.owners, **_relatives(scenario, original)}
    terms = scenario.terms
    lora = LoraTerms(
        rank=terms.lora.rank,
        alpha=terms.lora.alpha,
        init_seed=terms.lora.init_seed,
        groups=lora_groups(base.model, terms.lora.target_modules),
    )
    tokens = tokenize_pairs(base, data.held_out, max_length=terms.dpo.max_length)
    reference = completion_logprobs(base.model, tokens)
    first: Tensors | None = None
    for owner, pairs in owners.items():
        with tempfile.TemporaryDirectory() as folder:
            tensors = train_adapter(
                base, pairs, dpo=terms.dpo, lora=lora, workdir=Path(folder), threads=threads
            ).tensors
        first = tensors if first is None else first
        with adapted(base.model, lora) as slot:
            slot.load(tensors)
            ratios = completion_logprobs(base.model, tokens) - reference
        utility, lower, upper = _utility(
            scenario, terms.dpo.beta * (ratios[:, 0] - ratios[:, 1]), data.held_out
        )
        yield Finding(
            owner, len(pairs), norm(tensors, lora), utility, lower, upper, cosine(first, tensors, lora)
        )


def _relatives(scenario: Scenario, original: OwnerPlan) -> Mapping[str, Pairs]:
    pairs = generate(scenario).owners[original.name]
    new = owner_pairs(original.skills, original.pairs, seed=f"{scenario.seed}/study")
    others = [skill for skill in SKILLS if skill not in original.skills]
    half = len(pairs) // 2
    return {
        "without-two": pairs[2:],
        "four-exchanged": pairs[4:] + new[:4],
        "half-exchanged": pairs[half:] + new[:half],
        "all-exchanged": new,
        "other-skills": owner_pairs(others, original.pairs, seed=f"{scenario.seed}/study"),
    }


def _utility(scenario: Scenario, margins: NDArray[np.float64], held_out: Pairs) -> tuple[float, float, float]:
    terms, game = scenario.terms.interval, scenario.terms.game
    if not isinstance(game, GameTerms):
        raise UsageError("a scenario with margins", got="the utility reward", do="name another scenario")
    clusters: dict[str, int] = {}
    result = value(
        margins[None, :],
        utility=game.utility,
        clusters=np.array([clusters.setdefault(pair.prompt_digest, len(clusters)) for pair in held_out]),
        interval=IntervalSpec(level=terms.level, replicates=terms.replicates, seed=terms.seed),
    )
    assert result.intervals is not None, "an interval was asked for"
    return float(result.shares[0]), float(result.intervals.lower[0]), float(result.intervals.upper[0])


def main(arguments: list[str] | None = None) -> None:
    """Run the study and print a line for each owner."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", maxsplit=1)[0])
    parser.add_argument("scenario", nargs="?", default="tiny", help="a preset or a scenario file")
    parser.add_argument("--cache", type=Path, help="a folder for the de-quantised model")
    parser.add_argument("--threads", type=int, help="of torch on the CPU")
    options = parser.parse_args(arguments)
    scenario = load_scenario(options.scenario)
    base = load_base_model(scenario.base_model, cache=options.cache)
    for finding in study(scenario, base, threads=options.threads):
        sys.stdout.write(f"{finding}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
