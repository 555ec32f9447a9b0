"""Files and folders that are whole or absent: write to a temporary name, fsync, rename, fsync the folder."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from patronage_protocol.errors import UnavailableError, UsageError

__all__ = ["fsync_folder", "new_folder", "read_bytes", "whole_folder", "write_atomic"]


def write_atomic(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replace `path` by `data`. After a crash the old file or the new one is there, never a part.

    Raises:
        UnavailableError: the disk is full or not writable; `path` is as it was.
    """
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(file.fileno(), mode)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        fsync_folder(path.parent)
    except OSError as error:
        raise UnavailableError(
            f"{len(data)} bytes written to {path}",
            got=error.strerror or str(error),
            do="free some room or choose another folder; nothing was replaced",
        ) from error


def read_bytes(path: Path, *, limit: int) -> bytes:
    """The bytes of a file of at most `limit` bytes.

    Raises:
        UnavailableError: it is not there or cannot be read.
        UsageError: it is larger than `limit`.
    """
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise UnavailableError(
            f"a readable file {path}", got=error.strerror or str(error), do="check the path"
        ) from error
    if len(data) > limit:
        raise UsageError(
            f"at most {limit} bytes in {path}",
            got="a larger file",
            do="check that it is the right one",
        )
    return data


def new_folder(path: Path) -> Path:
    """Make `path`, or take it if it is empty.

    Raises:
        UsageError: something is there already; nothing was touched.
        UnavailableError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        occupied = any(path.iterdir())
    except OSError as error:
        raise UnavailableError(
            f"a folder {path}", got=error.strerror or str(error), do="choose another place"
        ) from error
    if occupied:
        raise UsageError(
            f"an empty or new folder {path}",
            got="a folder with files in it",
            do="name another with --out",
        )
    return path


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A new folder to fill; it becomes `path` when the context ends without an error, and is gone otherwise.

    Raises:
        UsageError: `path` is there already, with something in it.
        UnavailableError: the disk is full or not writable.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
        temporary.chmod(0o755)
        yield temporary
        fsync_folder(temporary)
        temporary.rename(path)
        fsync_folder(path.parent)
    except OSError as error:
        if error.errno in {errno.ENOTEMPTY, errno.EEXIST} and path.is_dir():
            raise UsageError(
                f"no folder {path}, or an empty one", got="one with files in it", do="name another"
            ) from error
        raise UnavailableError(
            f"a new folder {path}",
            got=error.strerror or str(error),
            do="free some room or choose another place; nothing was left behind",
        ) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def fsync_folder(folder: Path) -> None:
    """Wait until the names in `folder` are on disk.

    Raises:
        OSError: as the operating system has it.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
