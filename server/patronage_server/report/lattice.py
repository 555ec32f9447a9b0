"""The plot of coalitions by size and utility: a pure function to inline SVG.

Places follow strips.py: per cent across, pixels down.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from patronage_server.report.markup import Markup, tag
from patronage_server.report.strips import Axis

__all__ = ["Dot", "coalition_plot"]

HEIGHT = 320
PADDING = 26
SPREAD = 28
LABEL_GAP = 14


@dataclass(frozen=True)
class Dot:
    """A coalition in the plot.

    Attributes:
        column: its size.
        value: its utility.
        name: what a pointer over it shows.
        kind: a class of style.css, empty for an ordinary one.
        label: lines of type beside the dot, none for most.
        side: where the label stands.
    """

    column: int
    value: float
    name: str
    kind: str = ""
    label: tuple[str, ...] = ()
    side: Literal["left", "above", "right"] = "left"


def coalition_plot(
    dots: Sequence[Dot], edges: Iterable[tuple[Dot, Dot]], axis: Axis, ticks: Sequence[str], *, label: str
) -> Markup:
    """Coalitions by size (columns) and utility (height); an edge is one owner joining.

    Args:
        dots: one for each coalition.
        edges: pairs of dots from a coalition to one with one member more.
        axis: of the utilities.
        ticks: a text for each tick of the axis.
        label: what the figure shows.
    """
    columns = 1 + max(dot.column for dot in dots)
    lines = [
        tag("line", x1="0%", x2="100%", y1=_y(axis, tick), y2=_y(axis, tick), class_="grid")
        for tick in axis.ticks
    ]
    zero = tag("line", x1="0%", x2="100%", y1=_y(axis, 0), y2=_y(axis, 0), class_="zero")
    joins = (
        tag(
            "line",
            x1=_column(one.column, columns),
            y1=_y(axis, one.value),
            x2=_column(more.column, columns),
            y2=_y(axis, more.value),
            class_="edge falls" if more.value < one.value else "edge rises",
        )
        for one, more in edges
    )
    sizes = (
        tag("text", str(size), x=_column(size, columns), y=HEIGHT + 16, text_anchor="middle")
        for size in range(columns)
    )
    scale = (
        tag("text", text, x="100%", y=_y(axis, tick), dx=-10, dy="0.32em", text_anchor="end")
        for tick, text in zip(axis.ticks, ticks, strict=True)
    )
    base = tag(
        "text", "base model", x="100%", y=_y(axis, 0), dx=-10, dy="1.5em", text_anchor="end", class_="base"
    )
    height = HEIGHT + 22
    plot = tag(
        "svg",
        tag("title", label),
        *lines,
        zero,
        *joins,
        *_circles(dots, columns, axis),
        *_labels(dots, columns, axis),
        *sizes,
        class_="plot",
        width="100%",
        height=height,
        role="img",
        aria_label=label,
    )
    side = tag("svg", *scale, base, class_="side", width="100%", height=height, aria_hidden="true")
    return tag("div", side, plot, class_="beside")


def _circles(dots: Sequence[Dot], columns: int, axis: Axis) -> Iterator[Markup]:
    heaps: dict[tuple[int, int], list[Dot]] = defaultdict(list)
    for dot in dots:
        heaps[dot.column, int(float(_y(axis, dot.value)) / 6)].append(dot)
    small = len(dots) > 64
    for (column, _), heap in sorted(heaps.items()):
        ordered = sorted(heap, key=lambda dot: (bool(dot.kind), dot.value, dot.name))
        step = min(8.0, SPREAD / len(ordered))
        for place, dot in enumerate(ordered):
            shift = step * ((place + 1) // 2) * (-1) ** place if len(ordered) > 1 else 0.0
            yield tag(
                "circle",
                tag("title", dot.name),
                cx=_column(column, columns),
                cy=_y(axis, dot.value),
                r=6 if dot.kind else 2.5 if small else 4,
                transform=f"translate({shift:.1f} 0)" if shift else None,
                class_=f"coalition {dot.kind}".strip(),
            )


def _labels(dots: Sequence[Dot], columns: int, axis: Axis) -> Iterator[Markup]:
    """Labels beside their dots; those to the left of a column are moved apart where they would touch."""
    for column in range(columns):
        left = [dot for dot in dots if dot.column == column and dot.label and dot.side == "left"]
        left.sort(key=lambda dot: -dot.value)
        for dot, place in zip(left, _apart([float(_y(axis, dot.value)) for dot in left]), strict=True):
            yield _label(dot, columns, place)
    for dot in dots:
        if dot.label and dot.side != "left":
            rise = 22 + LABEL_GAP * (len(dot.label) - 1) / 2 if dot.side == "above" else 0
            yield _label(dot, columns, float(_y(axis, dot.value)) - rise)


def _label(dot: Dot, columns: int, place: float) -> Markup:
    anchor, shift = {"left": ("end", -12), "above": ("middle", 0), "right": ("start", 12)}[dot.side]
    x = _column(dot.column, columns)
    lines = (
        tag("tspan", line, x=x, dx=shift, dy=LABEL_GAP if number else None)
        for number, line in enumerate(dot.label)
    )
    return tag(
        "text",
        *lines,
        x=x,
        y=f"{place + 4 - LABEL_GAP * (len(dot.label) - 1) / 2:.1f}",
        text_anchor=anchor,
        class_=f"label {dot.kind}".strip(),
    )


def _apart(places: list[float]) -> list[float]:
    """Ascending places, each at least a line below the one before."""
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + LABEL_GAP) if moved else place)
    return moved


def _column(column: int, columns: int) -> str:
    return f"{100 * (column + 0.15) / (columns - 0.7):.2f}%"


def _y(axis: Axis, value: float) -> str:
    return f"{PADDING + (1 - axis.part(value)) * (HEIGHT - 2 * PADDING):.1f}"
