"""What the shares rest on: margins, saturation, intake."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from patronage_protocol.entries import Judged
from patronage_protocol.evidence import MarginEvidence
from patronage_protocol.messages import Reveal
from patronage_server.report.markup import Child, Markup, tag
from patronage_server.report.model import Report
from patronage_server.report.numbers import grouped, percent, places_for, signed
from patronage_server.report.outcome import section
from patronage_server.report.strips import Axis, limit_strip, whisker_strip
from patronage_server.report.tables import axis_row, cell, row, row_head, table
from patronage_server.report.words import about_saturation

__all__ = ["intake", "margins", "saturation"]

STRONGEST = 0.85
"""Opacity of the strongest colour of the heat map; text stays readable on it."""


def margins(report: Report) -> Markup | None:
    """Mean margin by owner and source; None before evaluation, and where there are no margins."""
    if not isinstance(report.evidence, MarginEvidence):
        return None
    header = report.evidence.header
    means, pairs = _means(report.evidence)
    strongest = float(np.nanmax(np.abs(means))) or 1.0
    places = places_for([strongest], digits=2, least=2)
    order = report.order
    rows = [
        row(row_head(header.players[player]), *_heat(means[player], strongest, places)) for player in order
    ]
    together = np.nansum(means, axis=0)
    rows.append(
        row(
            row_head("Everybody"),
            *(cell(signed(float(mean), places)) for mean in together),
            class_="total",
        )
    )
    rows.append(row(row_head("Pairs"), *(cell(grouped(int(number))) for number in pairs), class_="pairs"))
    heads = ("Owner", *(tag("span", label) for label in header.labels), tag("span", "all pairs"))
    note = (
        "Mean margin of each adapter on the held-out pairs, by their source. Blue prefers the chosen "
        "completion more than the base model does, orange the rejected one; both ends of the scale are "
        "equally far from zero."
    )
    width = f"--columns:{len(header.labels) + 1}"
    heat = table("Mean margin by owner and source", heads, rows, class_="heat", style=width)
    scrolled = tag("div", heat, class_="scroll", tabindex="0", role="group", aria_label="Mean margins")
    return section("margins", "What each adapter does", note, scrolled, _key(strongest, places))


def saturation(report: Report) -> Markup | None:
    """Aumann-Shapley against Shapley; None before valuation."""
    if not report.shares:
        return None
    sliced = bool(report.manifest.slices.of)
    note = (
        "Under the Aumann-Shapley rule, parts of an adapter earn together what the whole earns. Here is "
        "how far its shares are from the Shapley shares, "
        f"{'both on all held-out pairs' if sliced else 'which were published'}."
    )
    found, scale = report.saturation, report.scale
    sentence = tag("p", about_saturation(report), class_="finding")
    if found is None:
        return section("saturation", "Whether splitting would pay", note, sentence)
    assert found.lower is not None, "asked for with intervals"
    assert found.upper is not None, "asked for with intervals"
    gaps = [tuple(map(float, gap)) for gap in zip(found.gaps, found.lower, found.upper, strict=True)]
    axis = Axis.covering(scale.in_units(number) for gap in gaps for number in gap)
    places = places_for(scale.in_units(number) for gap in gaps for number in gap)
    names = report.coalitions.owners if report.coalitions else ()
    rows = []
    for player in report.order:
        point, lower, upper = (scale.in_units(number) for number in gaps[player])
        interval = f"{signed(lower, places)} to {signed(upper, places)}"
        label = f"{names[player]}: gap {signed(point, places)} {scale.unit}, interval {interval}"
        kind = "harms" if upper < 0 else "helps" if lower > 0 else "unsure"
        rows.append(
            row(
                row_head(names[player]),
                cell(whisker_strip(axis, point, lower, upper, kind=kind, label=label), class_="figure"),
                cell(tag("strong", signed(point, places)), tag("small", interval), class_="number"),
            )
        )
    rows.append(axis_row(axis))
    heads = ("Owner", f"Gap, {scale.unit}", "Gap and interval")
    gap_table = table("Aumann-Shapley less Shapley", heads, rows, class_="strips")
    return section("saturation", "Whether splitting would pay", note, sentence, gap_table)


def intake(report: Report) -> Markup | None:
    """What intake measured on every adapter; None before the first verdict."""
    verdicts = report.of(Judged)
    if not verdicts:
        return None
    terms = report.manifest.intake
    rows = [_verdict_row(report, verdict) for verdict in verdicts]
    note = (
        f"The norm of dW must not exceed {terms.max_norm:g}, and its cosine with an adapter that was "
        f"committed earlier must stay below {terms.copy_cosine:g}, or it counts as a copy."
    )
    heads = ("Owner", "Norm and cap", "Norm", "Nearest earlier adapter", "Pairs declared", "Verdict")
    judged = table("Intake verdicts", heads, rows, class_="intake")
    return section("intake", "What intake measured", note, judged)


def _means(evidence: MarginEvidence) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Mean margins (players, labels + 1), the last column over all pairs, NaN without pairs; and counts."""
    sources = np.array(evidence.header.sources)
    chosen = [*(sources == label for label in range(len(evidence.header.labels))), sources >= 0]
    values = evidence.margins.reals()
    columns = [
        values[:, pick].mean(axis=1) if pick.any() else np.full(len(values), np.nan) for pick in chosen
    ]
    return np.stack(columns, axis=1), np.array([pick.sum() for pick in chosen])


def _heat(means: NDArray[np.float64], strongest: float, places: int) -> Iterator[Markup]:
    for mean in means:
        if np.isnan(mean):
            yield cell("–")
            continue
        side = "above" if mean > 0 else "below"
        depth = STRONGEST * abs(float(mean)) / strongest
        yield cell(signed(float(mean), places), class_=side, style=f"--depth:{depth:.3f}")


def _key(strongest: float, places: int) -> Markup:
    ends = (signed(-strongest, places), "0", signed(strongest, places))
    return tag("p", *(tag("span", end) for end in ends), class_="heatkey", aria_hidden="true")


def _verdict_row(report: Report, verdict: Judged) -> Markup:
    cap = report.manifest.intake.max_norm
    norm: Child = "unreadable"
    figure: Child = None
    if verdict.norm is not None:
        part = verdict.norm / cap
        norm = f"{_short(verdict.norm)}, {percent(part, 0 if part >= 0.1 else 1)}"
        kind = "harms" if verdict.norm > cap else "plain"
        figure = limit_strip(verdict.norm, cap, kind=kind, label=f"{verdict.owner}: norm {norm} of the cap")
    near = verdict.nearest
    nearest = "none before it" if near is None else f"{near.owner}, {signed(near.cosine, 4)}"
    said = "admitted" if verdict.accepted else f"rejected: {verdict.reason}"
    return row(
        row_head(verdict.owner),
        cell(figure, class_="figure"),
        cell(norm, class_="number"),
        cell(nearest, class_="nearest"),
        cell(_pairs(report.state.reveals[verdict.owner]), class_="number pairs"),
        cell(said, class_="verdict"),
        class_=None if verdict.accepted else "harms",
    )


def _pairs(reveal: Reveal) -> str:
    """How many pairs the owner says it trained on, and how privately."""
    if reveal.privacy is None:
        return grouped(reveal.pairs)
    spent = reveal.privacy
    return f"{grouped(reveal.pairs)}, private: ε {spent.epsilon:.3g}, δ {spent.delta:.1g}"


def _short(number: float) -> str:
    return f"{number:.3g}"
