"""What coalitions reach: the findings in words, the plot, and the table behind it."""

from dataclasses import replace

from patronage_server.report.coalitions import Coalition, Coalitions
from patronage_server.report.lattice import Dot, coalition_plot
from patronage_server.report.markup import Markup, join, tag
from patronage_server.report.model import Report
from patronage_server.report.numbers import count
from patronage_server.report.outcome import section
from patronage_server.report.strips import Axis, bar_strip, dumbbell_strip
from patronage_server.report.tables import axis_row, cell, row, row_head, table
from patronage_server.report.words import about_coalitions

__all__ = ["coalitions"]

MOST_IN_TABLE = 4
"""Up to so many owners every coalition has a row of its own."""
MOST_WITH_EDGES = 5
MOST_WITH_NAMES = 6


def coalitions(report: Report) -> Markup | None:
    """Utilities of coalitions; None before evaluation."""
    found = report.coalitions
    if found is None:
        return None
    n = len(found.owners)
    note = (
        f"The {report.scale.measure} of coalitions, recomputed from the published evidence. These are point "
        "values on the held-out set, without intervals."
    )
    findings = tag(
        "ul", *(tag("li", sentence) for sentence in about_coalitions(found, report)), class_="findings"
    )
    plot = _plot(found, report) if found.every else None
    if n <= MOST_IN_TABLE:
        behind = _every_coalition(found, report)
    else:
        behind = join(_alone_and_last(found, report), _all_of_them(found, report))
    return section("coalitions", "What coalitions reach", note, findings, plot, behind)


def _plot(found: Coalitions, report: Report) -> Markup:
    scale, n = report.scale, len(found.owners)
    best = found.best()
    axis = Axis.covering(coalition.utility for coalition in found.every)
    dots = [_dot(found, coalition, report, best=coalition == best) for coalition in found.every]
    edges = (
        (dots[mask], dots[mask | 1 << owner])
        for mask in range(1 << n)
        for owner in range(n)
        if n <= MOST_WITH_EDGES and not mask >> owner & 1
    )
    ticks = [scale.level(tick) for tick in axis.ticks]
    label = f"Coalitions by size and {scale.measure}. " + " ".join(about_coalitions(found, report))
    caption = tag(
        "p",
        f"Each dot is a coalition: to the right by size, upwards by {scale.measure}. "
        + (
            "A line is one owner joining: orange where that lowers the level." if n <= MOST_WITH_EDGES else ""
        ),
        class_="aside",
    )
    return join(coalition_plot(dots, edges, axis, ticks, label=label), caption)


def _dot(found: Coalitions, coalition: Coalition, report: Report, *, best: bool) -> Dot:
    size, level, name = len(coalition.members), report.scale.level(coalition.utility), found.name(coalition)
    hint = f"{name}: {level}"
    if size == len(found.owners):
        kind, said = ("best", f"{level}, best") if best else ("grand", level)
        return Dot(size, coalition.utility, hint, kind, ("everybody", said), "right")
    if best:
        return Dot(size, coalition.utility, hint, "best", (f"best {level}",), "above")
    if size == 0:
        return Dot(size, coalition.utility, hint, "empty")
    if size == 1 and len(found.owners) <= MOST_WITH_NAMES:
        return Dot(size, coalition.utility, hint, "single", (_shortened(name),))
    return Dot(size, coalition.utility, hint)


def _every_coalition(found: Coalitions, report: Report) -> Markup:
    ordered = sorted(found.every, key=lambda coalition: (-coalition.utility, coalition.members))
    axis = replace(Axis.covering(coalition.utility for coalition in ordered), ticks=(0.0,))
    best = found.best()
    rows = [
        row(
            row_head(found.name(coalition), tag("em", "best") if coalition == best else None),
            cell(
                bar_strip(
                    axis,
                    coalition.utility,
                    kind=_side(coalition.utility),
                    label=f"{found.name(coalition)}: {report.scale.level(coalition.utility)}",
                ),
                class_="figure",
            ),
            cell(tag("strong", report.scale.level(coalition.utility)), class_="number"),
            class_="all" if len(coalition.members) == len(found.owners) else None,
        )
        for coalition in ordered
    ]
    heads = ("Coalition", "From the base model", "Level")
    return table("Every coalition and its level", heads, rows, class_="strips tight")


def _alone_and_last(found: Coalitions, report: Report) -> Markup:
    scale = report.scale
    last = [found.grand - rest for rest in found.without]
    axis = Axis.covering(scale.in_units(number) for number in (*found.alone, *last))
    rows = [_dumbbell_row(found, report, axis, player, last[player]) for player in report.order]
    heads = ("Owner", f"Alone and joining last, {scale.unit}", "Joining last")
    key = f"○ what an owner adds to the base model alone, ● what it adds to all others, in {scale.unit}."
    both = table(
        "Every owner alone, and joining all others", heads, [*rows, axis_row(axis)], class_="strips tight"
    )
    return join(tag("p", key, class_="aside"), both)


def _dumbbell_row(found: Coalitions, report: Report, axis: Axis, player: int, last: float) -> Markup:
    scale, name, alone = report.scale, found.owners[player], found.alone[player]
    ends = f"alone {scale.difference(alone)}"
    figure = dumbbell_strip(
        axis,
        scale.in_units(alone),
        scale.in_units(last),
        kind=_side(last),
        label=f"{name}: {ends}, joining last {scale.difference(last)} {scale.unit}",
    )
    return row(
        row_head(name),
        cell(figure, class_="figure"),
        cell(tag("strong", scale.difference(last)), tag("small", ends), class_="number"),
    )


def _all_of_them(found: Coalitions, report: Report) -> Markup | None:
    if not found.every:
        return None
    ordered = sorted(found.every, key=lambda coalition: (-coalition.utility, coalition.members))
    rows = (
        row(row_head(found.name(coalition)), cell(report.scale.level(coalition.utility), class_="number"))
        for coalition in ordered
    )
    heads = ("Coalition", "Level")
    return tag(
        "details",
        tag("summary", f"All {count(len(ordered), 'coalition')}"),
        table("Every coalition and its level", heads, rows, class_="long"),
    )


def _side(utility: float) -> str:
    return "harms" if utility < 0 else "helps"


def _shortened(name: str) -> str:
    return name if len(name) <= 14 else f"{name[:13]}…"
