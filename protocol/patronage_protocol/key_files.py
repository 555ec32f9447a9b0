"""The file of a private key and the one that will follow it: no crash leaves a party without its key.

key.pem                 the key that counts
key-next.pem            the next one, until its rotation is recorded
key-retired-<id>.pem    what was key.pem before; nobody takes its word any more
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from patronage_protocol.errors import UnavailableError
from patronage_protocol.files import fsync_folder, read_bytes, write_atomic
from patronage_protocol.keys import PrivateKey
from patronage_protocol.passphrases import UNNAMED, Unlock
from patronage_protocol.pkcs8 import MAX_PEM_BYTES

__all__ = ["KeyFile"]


@dataclass(frozen=True)
class KeyFile:
    """A private key at rest, and the one that is to take its place, encrypted as that one is.

    Attributes:
        path: the key that counts.
        unlock: gives its passphrase, once, when the first key is read.
    """

    path: Path
    unlock: Unlock = UNNAMED

    @cached_property
    def passphrase(self) -> bytes | None:
        """What both are encrypted with; None where they are in the clear.

        Raises:
            UsageError, UnavailableError: it cannot be had.
        """
        return self.unlock(self.path)

    @property
    def next_path(self) -> Path:
        """Where the next key waits."""
        return self.path.with_name(f"{self.path.stem}-next.pem")

    def load(self) -> PrivateKey:
        """The key that counts.

        Raises:
            UnavailableError, UsageError, FormatError: it cannot be read.
        """
        return PrivateKey.load(self.path, self.passphrase)

    def next(self) -> PrivateKey | None:
        """The next key, or None where none is waiting.

        Raises:
            UnavailableError, UsageError, FormatError: it cannot be read.
        """
        return PrivateKey.load(self.next_path, self.passphrase) if self.next_path.exists() else None

    def make_next(self) -> PrivateKey:
        """The next key: the one that waits, or a new one, on disk before this returns.

        Raises:
            UnavailableError, UsageError, FormatError: it cannot be read or written.
        """
        key = self.next()
        if key is None:
            key = PrivateKey.generate()
            key.save(self.next_path, self.passphrase)
        return key

    def promote(self, current: PrivateKey) -> Path:
        """Put the next key into the place of `current`; returns where that one lies now.

        Raises:
            UnavailableError: a file cannot be read or written; the key in place is still one of the two.
        """
        retired = self.path.with_name(f"{self.path.stem}-retired-{current.public.keyid[:8]}.pem")
        write_atomic(retired, read_bytes(self.path, limit=MAX_PEM_BYTES), mode=0o600)
        try:
            self.next_path.replace(self.path)
            fsync_folder(self.path.parent)
        except OSError as error:
            raise UnavailableError(
                f"a folder {self.path.parent} that can be written",
                got=error.strerror or str(error),
                do="see to the disk and do it again",
            ) from error
        return retired
