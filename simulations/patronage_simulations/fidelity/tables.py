"""Findings as Markdown: one table a utility for the rules, one for the parts of the error."""

import math
from collections.abc import Iterator, Sequence

from patronage_simulations.fidelity.findings import (
    TARGET_ERROR,
    TARGET_PEARSON,
    Findings,
    RuleFinding,
)
from patronage_simulations.fidelity.margins import StudyMargins

__all__ = ["markdown"]


def markdown(study: StudyMargins, findings: Sequence[Findings]) -> str:
    """All tables, with what was studied in front."""
    owners = [f"{name} ({size} pairs)" for name, size in zip(study.owners, study.sizes, strict=True)]
    prompts = int(study.clusters.max()) + 1
    lines = [
        f"Owners: {', '.join(owners)}.",
        f"{len(study.clusters)} held-out pairs of {prompts} prompts.",
        f"Seeds of training: {', '.join(str(seed) for seed in study.seeds)}.",
        "",
    ]
    for found in findings:
        lines += [*_shares(study, found), "", *_rules(found), "", *_parts(found), ""]
    return "\n".join(lines)


def _shares(study: StudyMargins, found: Findings) -> Iterator[str]:
    yield f"### Utility `{found.utility}`"
    yield ""
    yield f"| Retrained on the union | {' | '.join(study.owners)} | v(N) |"
    yield "|---|" + "---|" * (len(study.owners) + 1)
    for seed, shares in found.truth.items():
        cells = [f"{share:+.4f}" for share in (*shares, found.grand[seed])]
        yield f"| seed {seed} | {' | '.join(cells)} |"


def _rules(found: Findings) -> Iterator[str]:
    yield (
        "| Rule | Trainings | Relative error, mean and 95% interval | by seed | Scale | Shape | Pearson | "
        f"Spearman (steps of {found.spearman_step:.2g}) | Largest payout difference | "
        "Against other seeds | Mean over seeds: error, Pearson | Target |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|---|---|"
    for rule in found.rules:
        yield f"| {' | '.join(_rule(rule))} |"
    yield ""
    yield (
        f"Target: relative error at most {TARGET_ERROR:.2f} and Pearson at least {TARGET_PEARSON:.2f}, "
        "in the mean of what the seeds reach; and for shares that are means over the seeds. Payouts in minor "
        "units, the largest of the seeds."
    )


def _rule(rule: RuleFinding) -> Iterator[str]:
    yield f"`{rule.rule}`"
    yield rule.trainings
    yield f"{rule.error:.3f} [{rule.lower:.3f}, {rule.upper:.3f}]"
    yield ", ".join(f"{found.error:.3f}" for found in rule.seeds.values())
    yield f"{rule.mean(lambda found: found.scale):.3f}"
    yield f"{rule.mean(lambda found: found.shape):.3f}"
    yield _number(rule.mean(lambda found: found.pearson), 4)
    yield _number(rule.mean(lambda found: found.spearman), 2)
    yield str(max(found.payout for found in rule.seeds.values()))
    yield _number(rule.across, 3)
    yield f"{rule.pooled.error:.3f}, {_number(rule.pooled.pearson, 4)}"
    yield f"{_verdict(rule.reaches_target)}; {_verdict(rule.pooled_reaches_target)}"


def _verdict(reached: bool) -> str:
    return "reached" if reached else "missed"


def _parts(found: Findings) -> Iterator[str]:
    yield "| Part of the error | What is compared | Mean | by seed |"
    yield "|---|---|---|---|"
    for part in found.parts:
        by_seed = ", ".join(f"{value:.3f} ({seed})" for seed, value in part.seeds.items())
        yield f"| {part.name} | {part.meaning} | {part.mean:.3f} | {by_seed} |"


def _number(value: float, places: int) -> str:
    return "not defined" if math.isnan(value) else f"{value:.{places}f}"
