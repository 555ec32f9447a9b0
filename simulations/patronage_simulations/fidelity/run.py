"""One study from pairs to its table and figure.

In its folder: `results/`, adapters and log-ratios by digest, from which an interrupted study goes on;
`findings.json`, every number; `tables.md`, the same for people; `figure-UTILITY.svg`.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from patronage_protocol.canonical import sha256
from patronage_protocol.errors import UnavailableError, UsageError
from patronage_protocol.files import write_atomic
from patronage_protocol.policy import BaseModel, tokenize_pairs
from patronage_simulations.consortium import Plan
from patronage_simulations.fidelity.extent import Extent
from patronage_simulations.fidelity.figure import figure
from patronage_simulations.fidelity.findings import Findings, estimates, find
from patronage_simulations.fidelity.margins import StudyMargins
from patronage_simulations.fidelity.measures import shares_of
from patronage_simulations.fidelity.store import Store
from patronage_simulations.fidelity.study import measure
from patronage_simulations.fidelity.subject import Pairs, Subject
from patronage_simulations.fidelity.tables import markdown
from patronage_simulations.fidelity.trainings import Trainings

__all__ = ["RESULTS", "report", "sample", "study", "subject_of"]

RESULTS = "results"
SCATTERED = ("policy:sum", "factors:sum", "blended policy:sum")


def subject_of(
    plan: Plan, base: BaseModel, seeds: Sequence[int], *, pairs: int = 0, held_out: int = 0, longest: int = 0
) -> Subject:
    """What to study of a plan: all of it, or a sample.

    Args:
        plan: pairs and terms.
        base: the model, whose tokens count.
        seeds: of training.
        pairs: at most so many an owner; 0 for all.
        held_out: at most so many held-out pairs; 0 for all.
        longest: pairs of more tokens (prompt and both completions) are left out; 0 keeps all.

    Raises:
        UsageError: nothing is left of an owner or of the held-out pairs.
    """
    length = plan.terms.dpo.max_length

    def drawn(owner: str, found: Pairs, count: int) -> Pairs:
        if longest:
            tokens = tokenize_pairs(base, found, max_length=length)
            sizes = [len(pair.prompt) + len(pair.chosen) + len(pair.rejected) for pair in tokens]
            found = tuple(pair for pair, size in zip(found, sizes, strict=True) if size <= longest)
        if not found:
            raise UsageError(
                f"pairs of at most {longest} tokens", got="none", do="raise the limit", where=owner
            )
        return sample(found, count)

    owners = {owner: drawn(owner, tuple(found), pairs) for owner, found in plan.owners.items()}
    scored = drawn("held-out pairs", tuple(plan.held_out), held_out)
    return Subject(plan.name, owners, scored, plan.terms, tuple(seeds))


def sample(pairs: Pairs, count: int) -> Pairs:
    """At most `count` pairs (0 for all) in their order: those whose SHA-256 comes first."""
    if not count or len(pairs) <= count:
        return pairs
    keys = [sha256(pair.encode()) for pair in pairs]
    kept = set(sorted(range(len(pairs)), key=keys.__getitem__)[:count])
    return tuple(pair for index, pair in enumerate(pairs) if index in kept)


def study(
    subject: Subject,
    base: BaseModel,
    out: Path,
    extent: Extent,
    *,
    threads: int | None = None,
    measured_only: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> tuple[StudyMargins, tuple[Findings, ...]]:
    """Measure what is not measured yet, unless `measured_only`, and write table and figure.

    Raises:
        UsageError: `out` holds something that is no study.
        UnavailableError: the disk is full, or the device has not enough memory.
    """
    store = Store(_results(out), computes=not measured_only)
    measured = measure(Trainings(subject, base, store, threads=threads, tell=tell), extent, tell=tell)
    findings = find(measured)
    report(subject, measured, findings, out)
    return measured, findings


def report(subject: Subject, measured: StudyMargins, findings: Sequence[Findings], out: Path) -> None:
    """Write `findings.json`, `tables.md` and a figure for every utility."""
    summary: dict[str, Any] = {
        "schema_version": 1,
        "subject": subject.name,
        "owners": dict(zip(measured.owners, measured.sizes, strict=True)),
        "held_out": {"pairs": len(measured.clusters), "prompts": int(measured.clusters.max()) + 1},
        "terms": subject.terms.model_dump(mode="json"),
        "utilities": [found.as_json() for found in findings],
    }
    write_atomic(
        out / "findings.json", json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False).encode()
    )
    write_atomic(out / "tables.md", markdown(measured, findings).encode())
    for found in findings:
        scatter = {
            name: {
                seed: shares_of(by_rule[name][1], found.utility, scale_bits=measured.scale_bits)
                .mean(axis=1)
                .tolist()
                for seed, by_rule in _estimates(measured).items()
                if name in by_rule
            }
            for name in SCATTERED
        }
        shown = {name: by_seed for name, by_seed in scatter.items() if by_seed}
        write_atomic(out / f"figure-{found.utility}.svg", figure(found, shown).encode())


def _estimates(measured: StudyMargins) -> dict[int, Any]:
    return {seed: estimates(margins, measured.sizes) for seed, margins in measured.seeds.items()}


def _results(out: Path) -> Path:
    results = out / RESULTS
    try:
        if out.is_dir() and any(out.iterdir()) and not results.is_dir():
            raise UsageError(
                f"a new folder {out}, or that of an earlier study",
                got="a folder with other files",
                do="name another with --out",
            )
        results.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UnavailableError(
            f"a folder {results}", got=error.strerror or str(error), do="choose another place"
        ) from error
    return results
