"""One SQLite file that only grows: WAL, `synchronous=FULL`, STRICT tables, triggers that refuse changes.

Opening takes a lock for the lifetime of the process, so that two operators on one machine cannot write to
one store. After any storage error the database refuses further work until it is opened again: what a failed
`fsync` left behind is decided by recovery, and never guessed.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from patronage_protocol import files
from patronage_protocol.errors import (
    FormatError,
    LocalProtocolError,
    PatronageError,
    UnavailableError,
    UsageError,
)

__all__ = ["Database", "Row"]

Row = tuple[Any, ...]
"""The values of one row."""

_PRAGMAS = (
    "synchronous=FULL",
    "foreign_keys=ON",
    "recursive_triggers=ON",  # INSERT OR REPLACE must not get past the triggers
    "trusted_schema=OFF",
    "cell_size_check=ON",
)


class Database:
    """A connection with its lock. `schema` is executed once, at creation."""

    def __init__(self, path: Path, *, application_id: int, read_only: bool = False, reserve: int = 0) -> None:
        """Open what `create` made.

        Args:
            path: the SQLite file.
            application_id: what `create` was given.
            read_only: take no lock, and write nothing.
            reserve: bytes by which the write-ahead log is made to grow now, and not commit by commit: a
                commit then waits for its own bytes only, and not for the file's new length too.

        Raises:
            UnavailableError: it cannot be opened, or another process has it open.
            FormatError: it is not a file of this application.
        """
        self.path = path
        self._broken = False
        if not path.is_file():
            raise UnavailableError(f"a store {path}", got="no such file", do="check the path")
        self._lock = None if read_only else _locked(path)
        try:
            self._connection = _connect(path, read_only=read_only)
            self._require_kind(application_id)
            if reserve:
                self._grow_log(reserve)
        except BaseException:
            self._release()
            raise

    @classmethod
    def create(
        cls, path: Path, *, application_id: int, schema: str, rows: dict[str, list[Row]], reserve: int = 0
    ) -> Self:
        """Make a new file with `schema` and first `rows` (by table), whole or not at all, and open it.

        Raises:
            UsageError: there is something at `path`.
            UnavailableError: it cannot be written.
        """
        lock = _locked(path)
        try:
            if path.exists():
                raise UsageError(
                    f"no file at {path}", got="one that exists", do="open it, or choose another place"
                )
            _build(path, application_id, schema, rows)
        finally:
            lock.close()
        return cls(path, application_id=application_id, reserve=reserve)

    def close(self) -> None:
        """Close the file and give up the lock."""
        try:
            self._connection.close()
        except sqlite3.Error as error:
            raise _failed(self.path, error) from error
        finally:
            self._release()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of the block or nothing; on disk before it returns.

        Raises:
            UnavailableError: the storage failed.
            LocalProtocolError: the block tried to change what is there.
        """
        self.query("BEGIN IMMEDIATE")
        try:
            yield
            self.query("COMMIT")
        except BaseException:
            self._roll_back()
            raise

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Reads inside the block see one moment of the file."""
        self.query("BEGIN")
        try:
            yield
        finally:
            self._roll_back()

    def write(self, *statements: tuple[str, Sequence[Row]]) -> None:
        """One transaction: each statement once for each of its rows; on disk before it returns.

        Raises:
            UnavailableError: the storage failed.
            LocalProtocolError: a statement tried to change what is there.
        """
        self._require_whole()
        try:
            if len(statements) == 1 and len(statements[0][1]) == 1:  # is a transaction by itself
                self._connection.execute(statements[0][0], statements[0][1][0])
                return
            self._connection.execute("BEGIN IMMEDIATE")
            for statement, rows in statements:
                self._connection.executemany(statement, rows)
            self._connection.execute("COMMIT")
        except BaseException as error:
            self._roll_back()
            if isinstance(error, sqlite3.Error):
                raise self._error(error) from error
            raise

    def query(self, statement: str, parameters: Row = ()) -> list[Row]:
        """All rows of a query."""
        self._require_whole()
        try:
            return self._connection.execute(statement, parameters).fetchall()
        except sqlite3.Error as error:
            raise self._error(error) from error

    def one(self, statement: str, parameters: Row = ()) -> Row | None:
        """The first row of a query, or None."""
        rows = self.query(statement, parameters)
        return rows[0] if rows else None

    def _require_kind(self, application_id: int) -> None:
        row = self.one("PRAGMA application_id")
        if row != (application_id,):
            self._connection.close()
            raise FormatError(
                f"a store of kind {application_id:#x} at {self.path}",
                got=f"kind {row[0] if row else 0:#x}",
                do="check the path; a store of an earlier version is for that version",
            )

    def _grow_log(self, size: int) -> None:
        """Write `size` bytes that are never committed: they do not fit the cache, and spill into the log."""
        try:
            (pages,) = self._connection.execute("PRAGMA cache_size").fetchone()
            self._connection.execute("PRAGMA cache_size=1")
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.execute("CREATE TABLE reserve (data BLOB NOT NULL) STRICT")
            self._connection.execute("INSERT INTO reserve VALUES (zeroblob(?))", (size,))
            self._connection.execute("ROLLBACK")
            self._connection.execute(f"PRAGMA cache_size={pages}")
        except sqlite3.Error as error:
            self._connection.close()
            raise _failed(self.path, error) from error

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            try:
                self._connection.execute("ROLLBACK")
            except sqlite3.Error:
                self._broken = True

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.close()

    def _require_whole(self) -> None:
        if self._broken:
            raise UnavailableError(
                f"a store {self.path} that can be written",
                got="one whose storage failed earlier",
                do="see to the disk, then open the store again; it recovers by itself",
            )

    def _error(self, error: sqlite3.Error) -> PatronageError:
        if isinstance(error, sqlite3.IntegrityError):
            return LocalProtocolError(
                f"an append-only store {self.path}",
                got=str(error),
                do="this is a defect; nothing was changed",
            )
        self._broken = True
        return _failed(self.path, error)


def _connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    mode = "ro" if read_only else "rw"
    try:
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None
        )
    except sqlite3.Error as error:
        raise _failed(path, error) from error
    try:
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")
    except sqlite3.Error as error:
        connection.close()
        raise _failed(path, error) from error
    return connection


def _build(path: Path, application_id: int, schema: str, rows: dict[str, list[Row]]) -> None:
    # Under another name until it is whole: after a crash there is no file, or a complete one.
    temporary = path.with_name(f".{path.name}.part")
    try:
        for stale in (
            temporary,
            Path(f"{temporary}-journal"),
            Path(f"{temporary}-wal"),
            Path(f"{temporary}-shm"),
        ):
            stale.unlink(missing_ok=True)
        connection = sqlite3.connect(temporary, isolation_level=None)
        try:
            connection.execute(f"PRAGMA application_id={application_id}")
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.executescript(f"BEGIN IMMEDIATE; {schema}")
            for table, values in rows.items():
                marks = ", ".join("?" * len(values[0]))
                connection.executemany(f"INSERT INTO {table} VALUES ({marks})", values)  # noqa: S608 - ours
            connection.execute("COMMIT")
        finally:
            connection.close()
        temporary.replace(path)
        files.fsync_folder(path.parent)
    except (sqlite3.Error, OSError) as error:
        raise _failed(path, error) from error


def _locked(path: Path) -> sqlite3.Connection:
    # A second, empty database whose only use is its lock: portable, and gone with the process that held it.
    lock: sqlite3.Connection | None = None
    try:
        lock = sqlite3.connect(path.with_name(f"{path.name}.lock"), timeout=0, isolation_level=None)
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.Error as error:
        if lock is not None:
            lock.close()
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY:
            raise UnavailableError(
                f"the store {path} for this process alone",
                got="another process that has it open",
                do="stop the other one first",
            ) from error
        raise _failed(path, error) from error
    return lock


def _failed(path: Path, error: Exception) -> UnavailableError:
    return UnavailableError(
        f"a store at {path} that can be read and written",
        got=str(error),
        do="see to the disk, then open the store again; what was acknowledged is there",
    )
