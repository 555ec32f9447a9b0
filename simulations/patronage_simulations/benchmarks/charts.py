"""Line charts with logarithmic axes as SVG text, without a plotting library."""

import math
from collections.abc import Mapping, Sequence
from html import escape

__all__ = ["log_chart"]

Points = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 780, 440
LEFT, RIGHT, TOP, BOTTOM = 70, 240, 40, 50
COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#56b4e9",
    "#e69f00",
    "#000000",
    "#999999",
    "#7b3294",
    "#a6761d",
)


def log_chart(series: Mapping[str, Points], *, title: str, x_label: str, y_label: str) -> str:
    """One line with markers for each series of positive (x, y)."""
    points = [point for line in series.values() for point in line]
    x_axis = _Axis([x for x, _ in points], LEFT, WIDTH - RIGHT)
    y_axis = _Axis([y for _, y in points], HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text((LEFT + WIDTH - RIGHT) / 2, 20, title, anchor="middle", size=14),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, x_label, anchor="middle"),
        f'<g transform="translate(16 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)">'
        + _text(0, 0, y_label, anchor="middle")
        + "</g>",
    ]
    parts += [_grid(x_axis.at(tick), vertical=True, label=_number(tick)) for tick in x_axis.ticks()]
    parts += [_grid(y_axis.at(tick), vertical=False, label=_number(tick)) for tick in y_axis.ticks()]
    for index, (name, line) in enumerate(series.items()):
        parts.append(_line(line, x_axis, y_axis, COLOURS[index % len(COLOURS)]))
        y = TOP + 10 + 20 * index
        colour = COLOURS[index % len(COLOURS)]
        parts.append(f'<circle cx="{WIDTH - RIGHT + 16}" cy="{y - 4}" r="4" fill="{colour}"/>')
        parts.append(_text(WIDTH - RIGHT + 26, y, name))
    return "\n".join([*parts, "</svg>", ""])


class _Axis:
    """A logarithmic scale from values to pixels."""

    def __init__(self, values: Sequence[float], start: float, stop: float) -> None:
        self.low = math.log10(min(values)) - 0.1
        self.high = math.log10(max(values)) + 0.1
        self.start, self.stop = start, stop

    def at(self, value: float) -> float:
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return self.start + share * (self.stop - self.start)

    def ticks(self) -> list[float]:
        decades = range(math.ceil(self.low), math.floor(self.high) + 1)
        step = max(1, len(decades) // 8)
        ticks = [10.0**power for power in decades][::step]
        if len(ticks) > 1:
            return ticks
        fine = [m * 10.0**p for p in range(math.floor(self.low), math.ceil(self.high) + 1) for m in (1, 2, 5)]
        return [tick for tick in fine if self.low <= math.log10(tick) <= self.high]


def _grid(position: float, *, vertical: bool, label: str) -> str:
    if vertical:
        line = f'<path d="M{position:.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#ddd"/>'
        return line + _text(position, HEIGHT - BOTTOM + 16, label, anchor="middle")
    line = f'<path d="M{LEFT} {position:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>'
    return line + _text(LEFT - 6, position + 4, label, anchor="end")


def _line(points: Points, x_axis: _Axis, y_axis: _Axis, colour: str) -> str:
    places = [(x_axis.at(x), y_axis.at(y)) for x, y in points]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places)
    return f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>{dots}'


def _text(x: float, y: float, words: str, *, anchor: str = "start", size: int = 12) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{escape(words)}</text>'


def _number(value: float) -> str:
    return f"{value:g}" if 1e-3 <= value < 1e5 else f"{value:.0e}"
