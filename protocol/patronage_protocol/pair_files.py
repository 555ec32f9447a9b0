"""Preference pairs in files that people keep: JSON Lines, Parquet, or a folder of `datasets.save_to_disk`.

Every row becomes a pair, or a bad row with its place `file:number`. Rows are streamed, the pairs are held.
How the files are read is `row_files`; what makes a row a pair is `preferences.pair_from_row`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from patronage_protocol.canonical import Name
from patronage_protocol.errors import DataError, UnavailableError
from patronage_protocol.files import write_atomic
from patronage_protocol.preferences import PreferencePair, pair_from_row
from patronage_protocol.row_files import FORMS, Unparsed, is_row_file, read_rows

__all__ = ["BadRow", "Check", "LoadedPairs", "owners_from_folder", "pair_lines", "read_pairs", "write_pairs"]

Check = Callable[[PreferencePair], str | None]
_NAME = TypeAdapter(Name)
_COLUMNS = ("prompt", "chosen", "rejected", "source")


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that holds no usable pair: `place` is `file:number`, `reason` one line."""

    place: str
    reason: str


@dataclass(frozen=True, slots=True)
class LoadedPairs:
    """What a file holds. `places[k]` is where `pairs[k]` stood; `skipped` are the rows left out."""

    pairs: tuple[PreferencePair, ...]
    places: tuple[str, ...]
    skipped: tuple[BadRow, ...]


def read_pairs(
    path: Path, *, on_bad_row: Literal["stop", "skip"] = "stop", check: Check | None = None
) -> LoadedPairs:
    """Read the pairs of one file or `datasets` folder.

    Args:
        path: a `.jsonl` or `.parquet` file, or a folder written by `Dataset.save_to_disk`.
        on_bad_row: "stop" raises for the first bad row, "skip" leaves bad rows out and lists them.
        check: a further demand on a pair, such as the length of its prompt in tokens; returns why the pair
            is refused, or None. A refused pair is a bad row.

    Raises:
        DataError: a bad row (with "stop"), no usable row, a file that is not of its form.
        UnavailableError: the file is not there or cannot be read.
        MissingExtraError: the form needs a package that is not installed.
    """
    pairs: list[PreferencePair] = []
    places: list[str] = []
    bad: list[BadRow] = []
    for number, row in read_rows(path, columns=_COLUMNS):
        place = f"{path}:{number}"
        pair = _pair_or_reason(row, check)
        if isinstance(pair, str):
            bad.append(BadRow(place, pair))
        else:
            pairs.append(pair)
            places.append(place)
    if bad and on_bad_row == "stop":
        raise _first_of(bad)
    if not pairs:
        raise _no_pair(path, bad)
    return LoadedPairs(tuple(pairs), tuple(places), tuple(bad))


def write_pairs(path: Path, pairs: Iterable[PreferencePair]) -> None:
    """Write JSON Lines, one canonical line a pair; `read_pairs` gives the same pairs back.

    Raises:
        UnavailableError: the disk is full or not writable; `path` is as it was.
    """
    write_atomic(path, pair_lines(pairs))


def pair_lines(pairs: Iterable[PreferencePair]) -> bytes:
    """Pairs as canonical JSON, one line each."""
    return b"".join(pair.encode() + b"\n" for pair in pairs)


def owners_from_folder(folder: Path, *, held_out: Path | None = None, least: int = 2) -> dict[str, Path]:
    """The owners of a consortium by name: `NAME.jsonl`, `NAME.parquet` or a `datasets` folder `NAME/` each.

    The file `held_out` belongs to nobody. Hidden files and notes (`.md`, `.txt`) are passed over; anything
    else that is no set of pairs is an error, because it may be an owner who would be missed.

    Raises:
        DataError: a name or a file that cannot be used, two files of one owner, fewer than `least` owners.
        UnavailableError: the folder is not there or cannot be read.
    """
    owners: dict[str, Path] = {}
    for path in _entries(folder):
        if path.name.startswith(".") or path.suffix in {".md", ".txt"} or _same(path, held_out):
            continue
        name = _owner_name(path)
        if name in owners:
            raise DataError(
                f"one file for the owner {name!r}",
                got=f"{owners[name].name} and {path.name}",
                do="keep one of them, or rename one",
                where=str(folder),
            )
        owners[name] = path
    if len(owners) < least:
        raise DataError(
            "at least two owners" if least > 1 else "at least one owner",
            got=f"only {next(iter(owners))!r}" if owners else "none",
            do=f"put {FORMS} into it for each owner",
            where=str(folder),
        )
    return owners


def _pair_or_reason(row: object, check: Check | None) -> PreferencePair | str:
    if isinstance(row, Unparsed):
        return row.reason
    try:
        pair = pair_from_row(row)
    except DataError as error:
        return error.got
    return (check(pair) if check else None) or pair


def _first_of(bad: list[BadRow]) -> DataError:
    more = f" ({len(bad) - 1} more bad rows follow)" if len(bad) > 1 else ""
    return DataError(
        "a usable preference pair",
        got=f"{bad[0].reason}{more}",
        do="mend the row, or choose to skip bad rows",
        where=bad[0].place,
    )


def _no_pair(path: Path, bad: list[BadRow]) -> DataError:
    got = f"{len(bad)} bad rows, the first: {bad[0].reason}" if bad else "no row at all"
    return DataError(
        "at least one usable preference pair",
        got=got,
        do="check that it is the right file",
        where=bad[0].place if bad else str(path),
    )


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise UnavailableError(
            f"a readable folder {folder}", got=error.strerror or str(error), do="check the path"
        ) from error


def _same(path: Path, other: Path | None) -> bool:
    return other is not None and path.resolve() == other.resolve()


def _owner_name(path: Path) -> str:
    if not is_row_file(path):
        raise DataError(
            f"pairs of an owner as {FORMS}",
            got="something else",
            do="convert it or move it out of the folder",
            where=str(path),
        )
    name = path.name if path.is_dir() else path.stem
    try:
        return _NAME.validate_python(name)
    except ValidationError as error:
        raise DataError(
            "an owner's name of lower-case letters, digits, '.', '_' and '-', at most 64, with a letter or "
            "digit at both ends",
            got=repr(name),
            do="rename it",
            where=str(path),
        ) from error
