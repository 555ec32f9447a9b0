"""Figures: pure functions from numbers to inline SVG.

Horizontal places are in per cent of the figure's width and vertical ones in pixels, so that a figure fills
any width while its type stays the size of the text. Colours are classes; style.css has them for both schemes.
A strip is one row of a figure, drawn in a cell of the table that holds its numbers.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from patronage_server.report.markup import Child, Markup, join, tag
from patronage_server.report.numbers import signed

__all__ = [
    "Axis",
    "axis_strip",
    "bar_strip",
    "budget_bar",
    "dumbbell_strip",
    "limit_strip",
    "tick_strip",
    "whisker_strip",
]


@dataclass(frozen=True)
class Axis:
    """A range of values over the width of a figure, and where its ticks are."""

    low: float
    high: float
    ticks: tuple[float, ...]

    @classmethod
    def covering(cls, values: Iterable[float], *, zero: bool = True, about: int = 5) -> "Axis":
        """An axis with a little room on both sides of the values, and of zero if it is asked for."""
        found = [*values, *([0.0] if zero else [])]
        low, high = min(found), max(found)
        room = 0.06 * (high - low) or 1.0
        low, high = low - room, high + room
        return cls(low, high, tuple(_ticks(low, high, about)))

    def labels(self) -> tuple[str, ...]:
        """The ticks as signed numbers, with as many decimals as they need."""
        step = self.ticks[1] - self.ticks[0] if len(self.ticks) > 1 else 1.0
        places = max(0, -math.floor(math.log10(step) + 1e-9))
        return tuple(signed(tick, places) for tick in self.ticks)

    def at(self, value: float) -> str:
        """The place of a value in per cent of the width."""
        return f"{100 * self.part(value):.2f}%"

    def part(self, value: float) -> float:
        """The place of a value, 0 at the low end and 1 at the high end."""
        return (value - self.low) / (self.high - self.low)


def whisker_strip(axis: Axis, point: float, lower: float, upper: float, *, kind: str, label: str) -> Markup:
    """A point with its interval over a zero line."""
    caps = (
        tag("line", x1=axis.at(bound), x2=axis.at(bound), y1=-5, y2=5, class_="whisker")
        for bound in (lower, upper)
    )
    mark = _middle(
        tag("line", x1=axis.at(lower), x2=axis.at(upper), y1=0, y2=0, class_="whisker"),
        *caps,
        tag("circle", cx=axis.at(point), cy=0, r=5.5, class_="point"),
    )
    return _strip(label, mark, axis=axis, kind=kind)


def bar_strip(axis: Axis, value: float, *, kind: str, label: str) -> Markup:
    """A bar from zero, with a round end, over a zero line."""
    left, right = sorted((axis.part(0), axis.part(value)))
    bar = _middle(
        tag(
            "rect",
            x=f"{100 * left:.2f}%",
            width=f"{100 * (right - left):.2f}%",
            y=-4,
            height=8,
            class_="bar",
        )
    )
    return _strip(label, bar, axis=axis, kind=kind)


def dumbbell_strip(axis: Axis, first: float, second: float, *, kind: str, label: str) -> Markup:
    """A hollow point and a full one, joined."""
    mark = _middle(
        tag("line", x1=axis.at(first), x2=axis.at(second), y1=0, y2=0, class_="whisker"),
        tag("circle", cx=axis.at(first), cy=0, r=5, class_="hollow"),
        tag("circle", cx=axis.at(second), cy=0, r=5, class_="point"),
    )
    return _strip(label, mark, axis=axis, kind=kind)


def limit_strip(value: float, limit: float, *, kind: str, label: str) -> Markup:
    """A bar from the left end, against a limit."""
    whole = 1.06 * max(value, limit)
    bar = _middle(tag("rect", x=0, width=f"{100 * value / whole:.2f}%", y=-4, height=8, class_="bar"))
    place = f"{100 * limit / whole:.2f}%"
    return _strip(label, bar, tag("line", x1=place, x2=place, y1="15%", y2="85%", class_="limit"), kind=kind)


def tick_strip(axis: Axis, times: Sequence[float], *, deadline: float | None, label: str) -> Markup:
    """Ticks on a time axis, joined from the first to the last, and a deadline if the axis reaches it."""
    places = [axis.at(time) for time in times]
    marks = [tag("line", x1=places[0], x2=places[-1], y1=0, y2=0, class_="span")]
    marks += [tag("line", x1=place, x2=place, y1=-6, y2=6, class_="event") for place in dict.fromkeys(places)]
    limit = None
    if deadline is not None and axis.low <= deadline <= axis.high:
        place = axis.at(deadline)
        limit = tag("line", x1=place, x2=place, y1="10%", y2="90%", class_="limit")
    base = tag("line", x1="0%", x2="100%", y1="50%", y2="50%", class_="grid")
    return _strip(label, base, limit, _middle(*marks), kind="")


def axis_strip(axis: Axis) -> Markup:
    """The numbers under a column of strips; the table holds them in words."""
    marks = (
        tag("text", text, x=axis.at(tick), y=14, text_anchor="middle")
        for tick, text in zip(axis.ticks, axis.labels(), strict=True)
    )
    return tag("svg", *marks, class_="axis", width="100%", height=20, aria_hidden="true")


def budget_bar(parts: Sequence[tuple[str, int, float]], *, label: str) -> Markup:
    """One bar for a whole amount.

    Args:
        parts: for each a description, its size and its opacity; a negative opacity marks the refund.
        label: what the bar shows.
    """
    whole = sum(size for _, size, _ in parts)
    edges = [0]
    for _, size, _ in parts:
        edges.append(edges[-1] + size)
    pieces = (
        tag(
            "rect",
            tag("title", name),
            x=f"{100 * start / whole:.4f}%",
            width=f"{100 * (end - start) / whole:.4f}%",
            y=0,
            height=40,
            class_="refund" if opacity < 0 else "paid",
            fill_opacity=None if opacity < 0 else f"{opacity:.2f}",
        )
        for (name, _, opacity), (start, end) in zip(parts, pairwise(edges), strict=True)
    )
    seams = (
        tag(
            "line",
            x1=f"{100 * edge / whole:.4f}%",
            x2=f"{100 * edge / whole:.4f}%",
            y1=0,
            y2=40,
            class_="seam",
        )
        for edge in edges[1:-1]
    )
    return tag(
        "svg",
        tag("title", label),
        *pieces,
        *seams,
        class_="budget",
        width="100%",
        height=40,
        role="img",
        aria_label=label,
    )


def _strip(label: str, *marks: Child, kind: str, axis: Axis | None = None) -> Markup:
    """Marks at the height of the row's first line, over rules that run the whole height of the row."""
    figure = tag(
        "svg", tag("title", label), *marks, class_=f"strip {kind}".strip(), role="img", aria_label=label
    )
    if axis is None:
        return figure
    return join(tag("svg", *_grid(axis), class_="rules", aria_hidden="true"), figure)


def _grid(axis: Axis) -> Iterator[Markup]:
    for tick in axis.ticks:
        place = axis.at(tick)
        yield tag("line", x1=place, x2=place, y1="0%", y2="100%", class_="grid" if tick else "zero")


def _middle(*children: Child) -> Markup:
    """Children whose vertical zero is the middle of the strip, whatever its height."""
    return tag("svg", join(*children), y="50%", width="100%", height=1, overflow="visible")


def _ticks(low: float, high: float, about: int) -> Iterator[float]:
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    yield from (index * step for index in range(first, last + 1))
