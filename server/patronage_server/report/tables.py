"""Tables that keep their meaning when style.css lays them out as cards on a narrow page."""

from collections.abc import Iterable, Sequence

from patronage_server.report.markup import Child, Markup, join, tag
from patronage_server.report.strips import Axis, axis_strip

__all__ = ["axis_row", "cell", "facts", "row", "row_head", "table"]


def table(
    caption: str, heads: Sequence[Child], rows: Iterable[Markup], *, class_: str, style: str | None = None
) -> Markup:
    """A table; the caption is for those who do not see the heading above it.

    Roles are spelled out because browsers drop them from tables that are laid out as grids.
    """
    head = tag(
        "tr",
        *(tag("th", child, role="columnheader", scope="col") for child in heads),
        role="row",
        class_="heads",
    )
    return tag(
        "table",
        tag("caption", caption),
        tag("thead", head, role="rowgroup"),
        tag("tbody", *rows, role="rowgroup"),
        class_=class_,
        style=style,
        role="table",
    )


def row(*cells: Markup, class_: str | None = None) -> Markup:
    """A row of cells."""
    return tag("tr", *cells, role="row", class_=class_)


def row_head(*children: Child, class_: str | None = None) -> Markup:
    """The cell that names its row."""
    return tag("th", *children, role="rowheader", scope="row", class_=class_)


def cell(*children: Child, class_: str | None = None, style: str | None = None) -> Markup:
    """A cell."""
    return tag("td", *children, role="cell", class_=class_, style=style)


def axis_row(axis: Axis, *, after: int = 1) -> Markup:
    """The last row of a column of strips: its axis, with as many empty cells after it."""
    return row(cell(), cell(axis_strip(axis), class_="figure"), *[cell()] * after, class_="ticks")


def facts(pairs: Iterable[tuple[str, Child]], *, class_: str = "facts") -> Markup:
    """A definition list."""
    items = (tag("div", tag("dt", term), tag("dd", definition)) for term, definition in pairs)
    return tag("dl", join(*items), class_=class_)
