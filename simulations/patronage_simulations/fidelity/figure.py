"""The figure of a study as SVG text: how far every rule is from retraining, and the shares themselves.

Left, a row a rule: the relative error of every seed, its mean with the bootstrap interval, the target, and
the seed noise. Right, estimated against retrained shares of a few rules. No plotting library; colours are
those of Okabe and Ito, and every rule on the right has a shape of its own.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape

from patronage_simulations.fidelity.findings import TARGET_ERROR, Findings

__all__ = ["SeedShares", "figure"]

SeedShares = Mapping[int, Sequence[float]]
"""Shares by seed."""

ROW, TOP, BOTTOM = 24, 56, 56
NAMES, PLOT, GAP, SQUARE, RIGHT = 190, 330, 90, 300, 20
COLOURS = ("#0072b2", "#d55e00", "#009e73")
INK, FAINT = "#222", "#ddd"


def figure(found: Findings, scatter: Mapping[str, SeedShares]) -> str:
    """Draw the findings under one utility.

    Args:
        found: the findings.
        scatter: estimated shares of up to three rules, by name and seed, for the right half.
    """
    height = TOP + max(ROW * len(found.rules), SQUARE) + BOTTOM
    width = NAMES + PLOT + GAP + SQUARE + RIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">',
        f"<title>{escape(_said(found))}</title>",
        f'<rect width="{width}" height="{height}" fill="white"/>',
        *_errors(found, height),
        *_shares(found, scatter),
    ]
    return "\n".join([*parts, "</svg>", ""])


def _said(found: Findings) -> str:
    best = min(found.rules, key=lambda rule: rule.error)
    return (
        f"Relative error of the shares against retraining, utility {found.utility}: "
        f"from {best.error:.3f} ({best.rule}) to {max(rule.error for rule in found.rules):.3f}"
    )


def _errors(found: Findings, height: int) -> Iterator[str]:
    seeds = [agreement.error for rule in found.rules for agreement in rule.seeds.values()]
    top = max(2 * TARGET_ERROR, *seeds, *(rule.upper for rule in found.rules))
    low = min([TARGET_ERROR / 2, *(error for error in seeds if error > 0)])

    def at(error: float) -> float:
        share = math.log(max(error, low) / low) / math.log(top / low)
        return NAMES + PLOT * min(1.0, share)

    yield _text(NAMES, 22, f"Relative error of shares, utility {found.utility}", size=14)
    bottom = TOP + ROW * len(found.rules)
    for tick in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0):
        if low <= tick <= top:
            yield f'<path d="M{at(tick):.1f} {TOP - 8}V{bottom}" stroke="{FAINT}"/>'
            yield _text(at(tick), bottom + 16, f"{tick:g}", anchor="middle", size=11)
    noise = next((part.mean for part in found.parts if part.name == "seed"), None)
    for value, label, dash in ((TARGET_ERROR, "target", "4 3"), (noise, "seed noise", "1 3")):
        if value is not None:
            x = at(value)
            yield f'<path d="M{x:.1f} {TOP - 14}V{bottom}" stroke="{INK}" stroke-dasharray="{dash}"/>'
            leftmost = noise is None or value == min(TARGET_ERROR, noise)
            yield _text(x, TOP - 18, label, anchor="end" if leftmost else "start", size=11)
    for number, rule in enumerate(found.rules):
        y = TOP + ROW * (number + 0.5)
        colour = COLOURS[0] if rule.trainings == "n" else COLOURS[1]
        yield _text(NAMES - 10, y + 4, rule.rule, anchor="end")
        bar = f"M{at(rule.lower):.1f} {y:.1f}H{at(rule.upper):.1f}"
        yield f'<path d="{bar}" stroke="{colour}" stroke-width="2"/>'
        for agreement in rule.seeds.values():
            x = at(agreement.error)
            yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="none" stroke="{colour}"/>'
        yield f'<circle cx="{at(rule.error):.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>'
    for number, (label, colour) in enumerate(zip(("n trainings", "n + 1 trainings"), COLOURS, strict=False)):
        x = NAMES + 140 * number
        yield f'<circle cx="{x}" cy="{height - 16}" r="4" fill="{colour}"/>'
        yield _text(x + 10, height - 12, label, size=11)
    yield _text(NAMES + 280, height - 12, "rings: seeds; bar: 95% interval over held-out prompts", size=11)


def _shares(found: Findings, scatter: Mapping[str, SeedShares]) -> Iterator[str]:
    left, size = NAMES + PLOT + GAP, SQUARE
    values = [share for shares in found.truth.values() for share in shares]
    values += [share for by_seed in scatter.values() for shares in by_seed.values() for share in shares]
    low, high = min(0.0, *values), max(values)
    pad = 0.06 * (high - low)
    low, high = low - pad, high + pad

    def at(value: float) -> float:
        return size * (value - low) / (high - low)

    yield _text(left, 22, "Shares: estimated against retrained", size=14)
    yield f'<rect x="{left}" y="{TOP}" width="{size}" height="{size}" fill="none" stroke="{FAINT}"/>'
    yield f'<path d="M{left} {TOP + size}L{left + size} {TOP}" stroke="{FAINT}"/>'
    for tick in _ticks(low, high):
        yield _text(left + at(tick), TOP + size + 16, f"{tick:g}", anchor="middle", size=11)
        yield _text(left - 6, TOP + size - at(tick) + 4, f"{tick:g}", anchor="end", size=11)
    for number, (name, by_seed) in enumerate(scatter.items()):
        colour = COLOURS[number % len(COLOURS)]
        for seed, shares in by_seed.items():
            for true, estimated in zip(found.truth[seed], shares, strict=True):
                yield _mark(left + at(true), TOP + size - at(estimated), number, colour)
        yield _mark(left + 14, TOP + 14 + 18 * number, number, colour)
        yield _text(left + 24, TOP + 18 + 18 * number, name)


def _ticks(low: float, high: float) -> list[float]:
    step = 10 ** math.floor(math.log10(high - low))
    step = next(part for part in (step / 5, step / 2, step, 2 * step) if (high - low) / part <= 6)
    return [round(k * step, 10) for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _mark(x: float, y: float, kind: int, colour: str) -> str:
    if kind == 0:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}" fill-opacity="0.8"/>'
    if kind == 1:
        return f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" fill="none" stroke="{colour}"/>'
    return (
        f'<path d="M{x:.1f} {y - 5:.1f}L{x + 5:.1f} {y + 4:.1f}L{x - 5:.1f} {y + 4:.1f}Z" fill="{colour}"/>'
    )


def _text(x: float, y: float, words: str, *, anchor: str = "start", size: int = 12) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{INK}">'
        f"{escape(words)}</text>"
    )
