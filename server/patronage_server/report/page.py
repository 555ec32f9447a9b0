"""The page: sections in the order in which a reader needs them, one style sheet, no script, one file."""

from importlib.resources import files as package_files
from pathlib import Path

from patronage_protocol.errors import UsageError
from patronage_protocol.files import write_atomic
from patronage_server.report import evidence, ledger, objectives, outcome, reach, slices
from patronage_server.report.markup import Markup, tag
from patronage_server.report.model import Report
from patronage_server.report.words import outcome as verdict

__all__ = ["GENERATOR", "render", "save"]

GENERATOR = "Patronage report"
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""Nothing is fetched and nothing runs, whatever a ledger may hold."""
OURS_WITHIN = 2048


def render(report: Report) -> bytes:
    """The page as UTF-8; the same bytes for the same ledger and round."""
    sections = (
        outcome.shares(report),
        outcome.budget(report),
        objectives.objectives(report),
        slices.slices(report),
        evidence.margins(report),
        reach.coalitions(report),
        evidence.saturation(report),
        ledger.timeline(report),
        evidence.intake(report),
        ledger.ledger(report),
        ledger.terms(report),
    )
    shown = [part for part in sections if part is not None]
    foot = tag("footer", "Made from the published ledger alone by ", tag("code", "patronage report"), ".")
    main = Markup("\n".join([outcome.headline(report), *shown]))
    body = tag("body", tag("main", main), foot)
    document = tag("html", _head(report), Markup("\n"), body, lang="en")
    return f"<!doctype html>\n{document}\n".encode()


def save(report: Report, path: Path) -> bytes:
    """Write the page to `path` and return its bytes; an earlier report there is replaced.

    Raises:
        UsageError: another file lies there; it was not touched.
        UnavailableError: it cannot be written.
    """
    if path.exists() and not _is_ours(path):
        raise UsageError(
            f"a new name or an earlier report at {path}",
            got="another file",
            do="choose another name with --out",
        )
    page = render(report)
    write_atomic(path, page)
    return page


def _head(report: Report) -> Markup:
    manifest = report.manifest
    style = package_files("patronage_server.report").joinpath("style.css").read_text("utf-8")
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        Markup("\n"),
        tag("meta", name_="generator", content=GENERATOR),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name_="color-scheme", content="light dark"),
        tag("meta", name_="robots", content="noindex"),
        tag("link", rel="icon", href="data:,"),
        Markup("\n"),
        tag("title", f"{manifest.consortium}, round {manifest.round}: {verdict(report).title}"),
        Markup("\n"),
        tag("style", Markup(style)),
    )


def _is_ours(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return f'content="{GENERATOR}"'.encode() in file.read(OURS_WITHIN)
