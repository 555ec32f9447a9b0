"""The file of a private key and the one that will follow it: no crash leaves a party without its key.

key.pem                 the key that counts
key-next.pem            the next one, until its rotation is recorded
key-retired-<id>.pem    what was key.pem before; nobody takes its word any more
"""

from dataclasses import dataclass
from pathlib import Path

from patronage_protocol.errors import UnavailableError, UsageError
from patronage_protocol.files import fsync_folder, read_bytes, write_atomic
from patronage_protocol.keys import PrivateKey

__all__ = ["NextKey", "read_passphrase"]

_MAX_PEM_BYTES = 16_384
_MAX_PASSPHRASE_BYTES = 65_536


@dataclass(frozen=True)
class NextKey:
    """The key that is to take the place of the one in `path`, encrypted as that one is."""

    path: Path
    passphrase: bytes | None

    @property
    def file(self) -> Path:
        """Where the next key waits."""
        return self.path.with_name(f"{self.path.stem}-next.pem")

    def load(self) -> PrivateKey | None:
        """The next key, or None where none is waiting.

        Raises:
            UnavailableError, UsageError, FormatError: it cannot be read.
        """
        return PrivateKey.load(self.file, self.passphrase) if self.file.exists() else None

    def make(self) -> PrivateKey:
        """The next key: the one that waits, or a new one, on disk before this returns.

        Raises:
            UnavailableError, UsageError, FormatError: it cannot be read or written.
        """
        key = self.load()
        if key is None:
            key = PrivateKey.generate()
            key.save(self.file, self.passphrase)
        return key

    def promote(self, current: PrivateKey) -> Path:
        """Put the next key into the place of `current`; returns where that one lies now.

        Raises:
            UnavailableError: a file cannot be read or written; the key in place is still one of the two.
        """
        retired = self.path.with_name(f"{self.path.stem}-retired-{current.public.keyid[:8]}.pem")
        write_atomic(retired, read_bytes(self.path, limit=_MAX_PEM_BYTES), mode=0o600)
        try:
            self.file.replace(self.path)
            fsync_folder(self.path.parent)
        except OSError as error:
            raise UnavailableError(
                f"a folder {self.path.parent} that can be written",
                got=error.strerror or str(error),
                do="see to the disk and do it again",
            ) from error
        return retired


def read_passphrase(path: Path | None) -> bytes | None:
    """The passphrase in a file with one line; None without a file.

    Raises:
        UsageError: the file holds something else.
        UnavailableError: it cannot be read.
    """
    if path is None:
        return None
    try:
        lines = read_bytes(path, limit=_MAX_PASSPHRASE_BYTES).decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise UsageError(
            "a file with one line of UTF-8", got="other bytes", do="write it as text", where=str(path)
        ) from error
    if not lines[0] or any(lines[1:]):
        raise UsageError(
            "a file with one line", got=f"{len(lines)} lines", do="keep one line", where=str(path)
        )
    return lines[0].encode()
