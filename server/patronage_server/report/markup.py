"""HTML and SVG elements as values. Text is escaped because it is text: only `Markup` is taken as it stands.

Characters that nobody can see (controls, direction overrides) become U+FFFD, so that a name from a ledger
cannot rearrange the line that it stands in.
"""

import unicodedata
from html import escape
from typing import TypeAlias

__all__ = ["Child", "Markup", "join", "plain", "tag"]

INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
VOID = frozenset({"br", "link", "meta"})


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


Child: TypeAlias = "str | Markup | None"
"""What may stand in an element; None is left out."""


def tag(name: str, /, *children: Child, **attributes: str | float | bool | None) -> Markup:
    """One element.

    Args:
        name: of the element.
        children: text, which is escaped, and markup, which is not.
        attributes: `class_` stands for class, and `aria_label` for aria-label; None and False are left out.
    """
    head = name + "".join(_attribute(key, value) for key, value in attributes.items())
    if name in VOID:
        return Markup(f"<{head}>")
    return Markup(f"<{head}>{join(*children)}</{name}>")


def join(*children: Child) -> Markup:
    """The children one after another, escaped where they are text."""
    return Markup("".join(_escaped(child) for child in children if child is not None))


def plain(text: str) -> str:
    """`text` on one line, with every invisible character made visible."""
    return "".join("\ufffd" if unicodedata.category(char) in INVISIBLE else char for char in text)


def _escaped(child: str) -> str:
    return child if isinstance(child, Markup) else escape(plain(child))


def _attribute(key: str, value: str | float | bool | None) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escape(plain(str(value)))}"'
