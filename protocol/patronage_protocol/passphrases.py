"""Where the passphrase of a private key comes from: the same for every command, and for what they start.

1. the file of `--passphrase-file`
2. the file that PATRONAGE_PASSPHRASE_FILE names: a credential of systemd, or what `lent` hands on
3. a person at the terminal

A passphrase is never on a command line, in the environment itself, on a disk where it was not, or in a log.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from getpass import getpass
from pathlib import Path
from typing import TypeAlias

from patronage_protocol.errors import UsageError
from patronage_protocol.files import read_bytes
from patronage_protocol.pkcs8 import MAX_PEM_BYTES, is_encrypted

__all__ = ["ENVIRONMENT", "UNNAMED", "Passphrase", "Unlock"]

ENVIRONMENT = "PATRONAGE_PASSPHRASE_FILE"

_MAX_BYTES = 65_536

Unlock: TypeAlias = Callable[[Path], bytes | None]
"""The passphrase of the private key in this file; None for a key in the clear."""


@dataclass(frozen=True)
class Passphrase:
    """The passphrase that a person means, found when it is needed. It is an `Unlock`.

    Attributes:
        file: what `--passphrase-file` names, if anything.
    """

    file: Path | None = None

    def __call__(self, key: Path) -> bytes | None:
        """The passphrase of the key in a file. One that was named is given for a key in the clear, too.

        Raises:
            UsageError: there is none and nobody to ask, or its file holds something else.
            UnavailableError: a file cannot be read.
        """
        if self.file is None and not is_encrypted(read_bytes(key, limit=MAX_PEM_BYTES)):
            return None
        path = self._path()
        return _typed(f"the passphrase of {key}") if path is None else _read(path)

    def of_new_key(self, *, wanted: bool) -> bytes | None:
        """What is to encrypt a new key; None leaves it in the clear.

        Args:
            wanted: whether to ask a person for one where no file is named.

        Raises:
            UsageError, UnavailableError: as for a key that is there; or it was typed in two ways.
        """
        path = self._path()
        if path is not None:
            return _read(path)
        return _typed_twice() if wanted else None

    @contextmanager
    def lent(self, passphrase: bytes | None) -> Iterator[dict[str, str]]:
        """What processes that this one starts find in their environment, to open the same key.

        What was typed lies in memory, for processes of the same user, as long as this lasts.

        Args:
            passphrase: what this gave.

        Raises:
            UsageError: it was typed, on a system that has no such memory.
        """
        path = self._path()
        if passphrase is None:
            yield {}
        elif path is not None:
            yield {ENVIRONMENT: str(path.absolute())}
        else:
            descriptor = _in_memory(passphrase)
            try:
                yield {ENVIRONMENT: f"/proc/{os.getpid()}/fd/{descriptor}"}
            finally:
                os.close(descriptor)

    def _path(self) -> Path | None:
        named = os.environ.get(ENVIRONMENT)
        return self.file or (Path(named) if named else None)


UNNAMED: Unlock = Passphrase()
"""Of whoever named no file: found in the environment, or typed."""


def _read(path: Path) -> bytes:
    try:
        lines = read_bytes(path, limit=_MAX_BYTES).decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise UsageError(
            "a file with one line of UTF-8", got="other bytes", do="write it as text", where=str(path)
        ) from error
    if not lines[0] or any(lines[1:]):
        raise UsageError(
            "a file with one line", got=f"{len(lines)} lines", do="keep one line", where=str(path)
        )
    return lines[0].encode()


def _typed(what: str) -> bytes:
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(
            what,
            got="none, and no terminal to ask at",
            do=f"name a file that holds it with --passphrase-file, or in {ENVIRONMENT}",
        )
    return getpass(f"Type {what}: ").encode()


def _typed_twice() -> bytes:
    passphrase = _typed("a passphrase for the new key")
    if _typed("the same passphrase again") != passphrase:
        raise UsageError("one passphrase, typed twice", got="two", do="try again")
    return passphrase


def _in_memory(passphrase: bytes) -> int:
    """A file without a name that is in memory alone; memfd_create(2)."""
    if not hasattr(os, "memfd_create"):
        raise UsageError(
            "a file with the passphrase, for the processes that are started",
            got="a passphrase that was typed, on a system other than Linux",
            do=f"name one with --passphrase-file, or in {ENVIRONMENT}",
        )
    descriptor = os.memfd_create("passphrase")
    os.write(descriptor, passphrase)
    return descriptor
