"""The data signature: owners as vectors in the plane of two objectives. A pure function to inline SVG.

After the data signatures of arXiv 2512.15765, with the intervals of both coordinates as a cross. Places
follow strips.py: per cent across, pixels down.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from patronage_server.report.markup import Markup, join, tag
from patronage_server.report.strips import Axis, axis_strip

__all__ = ["Signature", "signature_plot"]

HEIGHT = 360
PADDING = 18


@dataclass(frozen=True)
class Signature:
    """An owner's shares in two objectives: (point, lower, upper) across, and upwards."""

    owner: str
    across: tuple[float, float, float]
    up: tuple[float, float, float]


def signature_plot(signatures: Sequence[Signature], *, across: str, up: str) -> Markup:
    """Owners as vectors from the origin, which is the base model.

    Args:
        signatures: one for each owner.
        across: the objective of the horizontal axis.
        up: the objective of the vertical axis.
    """
    horizontal = Axis.covering(number for one in signatures for number in one.across)
    vertical = Axis.covering(number for one in signatures for number in one.up)
    label = f"Shares of {len(signatures)} owners in {across} (across) and {up} (upwards)"
    lines = [
        tag("line", x1="0%", x2="100%", y1=_y(vertical, 0), y2=_y(vertical, 0), class_="zero"),
        tag("line", x1=horizontal.at(0), x2=horizontal.at(0), y1=0, y2=HEIGHT, class_="zero"),
    ]
    marks = (mark for one in signatures for mark in _marks(one, horizontal, vertical))
    names = (
        tag("text", across, x="100%", y=_y(vertical, 0), dy=-6, text_anchor="end", class_="base"),
        tag("text", up, x=horizontal.at(0), y=12, dx=6, class_="base"),
    )
    scale = (
        tag("text", text, x="100%", y=_y(vertical, tick), dx=-10, dy="0.32em", text_anchor="end")
        for tick, text in zip(vertical.ticks, vertical.labels(), strict=True)
    )
    plot = tag(
        "svg",
        tag("title", label),
        *lines,
        *names,
        *marks,
        class_="plot",
        width="100%",
        height=HEIGHT,
        role="img",
        aria_label=label,
    )
    side = tag("svg", *scale, class_="side", width="100%", height=HEIGHT, aria_hidden="true")
    below = tag("div", tag("span"), axis_strip(horizontal), class_="beside")
    return join(tag("div", side, plot, class_="beside"), below)


def _marks(one: Signature, horizontal: Axis, vertical: Axis) -> Iterator[Markup]:
    """The vector, its cross of intervals and the name."""
    (x, left, right), (y, low, high) = one.across, one.up
    kind = "helps" if x > 0 and y > 0 else "harms" if x < 0 and y < 0 else "unsure"
    ends = {"x2": horizontal.at(x), "y2": _y(vertical, y)}
    yield tag(
        "g",
        tag("line", x1=horizontal.at(0), y1=_y(vertical, 0), **ends, class_="vector"),
        tag(
            "line",
            x1=horizontal.at(left),
            x2=horizontal.at(right),
            y1=ends["y2"],
            y2=ends["y2"],
            class_="cross",
        ),
        tag(
            "line", x1=ends["x2"], x2=ends["x2"], y1=_y(vertical, low), y2=_y(vertical, high), class_="cross"
        ),
        tag("circle", cx=ends["x2"], cy=ends["y2"], r=5.5, class_="point"),
        class_=kind,
    )
    yield tag("text", one.owner, x=ends["x2"], y=ends["y2"], dx=9, dy=-8, class_="label")


def _y(axis: Axis, value: float) -> str:
    return f"{PADDING + (1 - axis.part(value)) * (HEIGHT - 2 * PADDING):.1f}"
