"""The rows of a file, one after the other: JSON Lines, Parquet, or a folder of `datasets.save_to_disk`.

JSON Lines are UTF-8, split at line feeds alone (a string may contain U+2028 or a lone carriage return), and
numbered with their blank lines, as an editor does. Rows of the other two forms are counted from one. They
need the optional packages `pyarrow` and `datasets`, which are imported when such a file comes.
"""

import codecs
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import chain
from pathlib import Path
from types import ModuleType

from patronage_protocol.canonical import strict_json
from patronage_protocol.errors import DataError, FormatError, MissingExtraError, UnavailableError

__all__ = ["FORMS", "Unparsed", "is_row_file", "read_rows"]

FORMS = "a .jsonl or .parquet file or a folder of datasets' save_to_disk"
MAX_LINE = 64 * 1024 * 1024
BATCH = 1024

Rows = Iterator[tuple[int, object]]


@dataclass(frozen=True, slots=True)
class Unparsed:
    """A line that is no JSON, and why."""

    reason: str


def is_row_file(path: Path) -> bool:
    """Whether `path` has one of the forms that `read_rows` reads."""
    return _is_saved_dataset(path) or (path.suffix in {".jsonl", ".parquet"} and path.is_file())


def read_rows(path: Path, *, columns: Sequence[str]) -> Rows:
    """Yield each row with its number; a line that is no JSON comes as `Unparsed`.

    Args:
        path: the file or folder.
        columns: the only columns that are wanted; a form that stores columns apart reads no others.

    Raises:
        DataError: not one of the forms, or the file is broken beyond single rows.
        UnavailableError: nothing is there, or it cannot be read.
        MissingExtraError: the form needs a package that is not installed.
    """
    if not path.exists():
        raise UnavailableError(f"{FORMS} at {path}", got="nothing there", do="check the path")
    if not is_row_file(path):
        kind = "another folder" if path.is_dir() else f"a file that ends in {path.suffix or 'nothing'!r}"
        raise DataError(FORMS, got=kind, do="convert it or name another", where=str(path))
    if path.is_dir():
        return _dataset_rows(path, columns)
    return _parquet_rows(path, columns) if path.suffix == ".parquet" else _json_rows(path)


def _json_rows(path: Path) -> Rows:
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE + 1):
                number += 1
                if len(line) > MAX_LINE:
                    raise _broken(path, f"line {number} of more than {MAX_LINE} bytes")
                if number == 1:
                    line = line.removeprefix(codecs.BOM_UTF8)
                if line.strip():
                    yield number, _parsed(line)
    except OSError as error:
        raise UnavailableError(
            f"a readable file {path}", got=error.strerror or str(error), do="check the path"
        ) from error


def _parsed(line: bytes) -> object:
    try:
        return strict_json(line, what="a row")
    except FormatError as error:
        return Unparsed(f"no strict JSON ({error.got})")


def _parquet_rows(path: Path, columns: Sequence[str]) -> Rows:
    parquet = _optional("pyarrow.parquet")
    broken = (OSError, _optional("pyarrow").ArrowException)
    try:
        with parquet.ParquetFile(path) as file:
            present = [name for name in columns if name in file.schema_arrow.names]
            batches = file.iter_batches(BATCH, columns=present)
            yield from enumerate(chain.from_iterable(batch.to_pylist() for batch in batches), start=1)
    except broken as error:
        raise _broken(path, f"no whole Parquet file ({_line(error)})") from error


def _dataset_rows(path: Path, columns: Sequence[str]) -> Rows:
    datasets = _optional("datasets")
    broken = (OSError, ValueError, LookupError, _optional("pyarrow").ArrowException)
    try:
        dataset = datasets.load_from_disk(str(path))
        if isinstance(dataset, Mapping):
            raise _broken(path, f"the splits {', '.join(sorted(dataset))}", do="name the folder of one split")
        present = [name for name in columns if name in dataset.column_names]
        batches = dataset.select_columns(present).with_format("arrow").iter(BATCH)
        yield from enumerate(chain.from_iterable(batch.to_pylist() for batch in batches), start=1)
    except broken as error:
        raise _broken(path, f"no whole data set ({_line(error)})") from error


def _is_saved_dataset(path: Path) -> bool:
    return any((path / name).is_file() for name in ("state.json", "dataset_dict.json"))


def _optional(module: str) -> ModuleType:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or module, extra="client") from error


def _broken(path: Path, got: str, *, do: str = "write it again") -> DataError:
    return DataError(FORMS, got=got, do=do, where=str(path))


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
