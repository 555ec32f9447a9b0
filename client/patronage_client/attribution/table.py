"""The values of pairs as files: JSON Lines and Parquet for programs, one SVG picture for people."""

import html
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from patronage_client.attribution.problem import Valuation
from patronage_protocol.files import write_atomic
from patronage_protocol.preferences import PreferencePair

__all__ = ["Row", "kept", "rows", "write_table"]

SCHEMA_VERSION = 1
_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 860, 340, 80, 46, 46
_HELPS, _HARMS, _INK = "#2c7a4b", "#b3423a", "#333"


@dataclass(frozen=True)
class Row:
    """One pair: where it stood, what it is worth, and its place among all (1 = helps most)."""

    place: str
    source: str
    value: float
    rank: int
    kept: bool


def kept(valuation: Valuation, keep: float) -> tuple[int, ...]:
    """Positions of the best pairs, a fraction `keep` of all rounded to whole pairs, in their own order."""
    count = max(1, round(keep * len(valuation.values)))
    return tuple(sorted(int(i) for i in _best_first(valuation)[:count]))


def rows(
    valuation: Valuation, pairs: Sequence[PreferencePair], places: Sequence[str], keep: float
) -> list[Row]:
    """A row for each pair, in their order."""
    ranks = np.empty(len(pairs), dtype=int)
    ranks[_best_first(valuation)] = np.arange(1, len(pairs) + 1)
    stays = set(kept(valuation, keep))
    return [
        Row(places[i], pair.source, float(valuation.values[i]), int(ranks[i]), i in stays)
        for i, pair in enumerate(pairs)
    ]


def write_table(folder: Path, valuation: Valuation, table: Sequence[Row]) -> tuple[Path, Path, Path]:
    """Write `values.jsonl`, `values.parquet` and `values.svg`.

    Raises:
        UnavailableError: one cannot be written.
    """
    lines = [
        {
            "schema_version": SCHEMA_VERSION,
            "method": valuation.method,
            "units": valuation.units,
            **vars(row),
        }
        for row in table
    ]
    paths = folder / "values.jsonl", folder / "values.parquet", folder / "values.svg"
    write_atomic(paths[0], "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines).encode())
    write_atomic(paths[1], _parquet(lines))
    write_atomic(paths[2], _picture(valuation, table).encode())
    return paths


def _best_first(valuation: Valuation) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    return np.argsort(-valuation.values, kind="stable")


def _parquet(lines: list[dict[str, object]]) -> bytes:
    from pyarrow import Table, parquet  # type: ignore[import-untyped]  # noqa: PLC0415 (slow to import)

    buffer = io.BytesIO()
    parquet.write_table(Table.from_pylist(lines), buffer)
    return buffer.getvalue()


def _picture(valuation: Valuation, table: Sequence[Row]) -> str:
    """A bar for each pair, best first; hollow where the pair is left out."""
    ordered = sorted(table, key=lambda row: row.rank)
    values = np.array([row.value for row in ordered])
    high, low = max(float(values.max()), 0.0), min(float(values.min()), 0.0)
    span = (high - low) or 1.0
    scale = (_HEIGHT - _TOP - _BOTTOM) / span
    zero = _TOP + high * scale
    step = (_WIDTH - _LEFT - 20) / len(ordered)
    bars = []
    for k, row in enumerate(ordered):
        top, height = min(zero, zero - row.value * scale), max(abs(row.value) * scale, 0.5)
        color = _HELPS if row.value > 0 else _HARMS
        opacity = 1.0 if row.kept else 0.35
        label = html.escape(
            f"{row.place}: {row.value:+.3e}, rank {row.rank}{'' if row.kept else ', left out'}"
        )
        bars.append(
            f'<rect x="{_LEFT + k * step:.2f}" y="{top:.2f}" width="{max(0.8 * step, 0.3):.2f}" '
            f'height="{height:.2f}" fill="{color}" fill-opacity="{opacity}"><title>{label}</title></rect>'
        )
    title = html.escape(f"{valuation.method}: what each of {len(ordered)} pairs is worth")
    harmful = int((values < 0).sum())
    caption = html.escape(f"{valuation.units}; {harmful} below zero; best first")
    ticks = "".join(
        f'<text x="{_LEFT - 8}" y="{zero - v * scale + 4:.1f}" text-anchor="end">{v:+.2g}</text>'
        for v in sorted({high, 0.0, low})
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'font-family="sans-serif" font-size="12" fill="{_INK}"><title>{title}</title>'
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>'
        f'<text x="{_LEFT}" y="24" font-size="15">{title}</text>{ticks}{"".join(bars)}'
        f'<line x1="{_LEFT}" y1="{zero:.2f}" x2="{_WIDTH - 20}" y2="{zero:.2f}" stroke="{_INK}"/>'
        f'<text x="{_LEFT}" y="{_HEIGHT - 16}">{caption}</text></svg>\n'
    )
