"""The second place: the last signed head, kept where a restored backup of the store does not reach.

The likeliest way to fork a log is an honest one: an operator restores last week's backup and goes on.
Before anything is signed, the head in the second place must be a prefix of the tree that is about to be
signed.
"""

from collections.abc import Callable
from pathlib import Path

from patronage_protocol import files
from patronage_protocol.errors import UnavailableError, VerificationError
from patronage_protocol.ledger.checkpoints import SignedCheckpoint
from patronage_protocol.ledger.notes import MAX_NOTE_BYTES

__all__ = ["Guard"]


class Guard:
    """The file in the second place, best on another disk or machine than the store."""

    def __init__(self, path: Path, verify: Callable[[SignedCheckpoint], None]) -> None:
        """Take the path, and the check that the log itself signed a head."""
        self.path = path
        self._verify = verify
        self._seen: tuple[int, int, int] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether the last check found no head, and none was recorded since."""
        return self._seen is None

    def check(self, size: int, root_at: Callable[[int], bytes], *, expected: bool) -> None:
        """Check that the head signed last is a prefix of the tree with `size` entries.

        A file that was checked or written by this object, and has not been replaced since, is not read again:
        trees only grow.

        Args:
            size: entries of the tree about to be signed.
            root_at: the root of its first k entries, for k up to `size`.
            expected: whether the store has signed a head before, so that there must be one here.

        Raises:
            VerificationError: the store lacks entries that were signed for or holds others, or the second
                place is empty though the store is not.
            UnavailableError: the second place cannot be read.
        """
        identity = self._identity()
        if identity is not None and identity == self._seen:
            return
        if identity is None:
            if not expected:
                return
            raise self._refused("no file, beside a store with signed heads", do="find out where it went")
        last = SignedCheckpoint.parse(files.read_bytes(self.path, limit=MAX_NOTE_BYTES))
        self._verify(last)
        signed = last.checkpoint
        if signed.size > size:
            raise self._refused(
                f"a signed head of {signed.size} entries, beside a store of {size}",
                do="the store is an old backup: restore the missing entries from the published files",
            )
        if root_at(signed.size) != signed.root:
            raise self._refused(
                f"a signed head with another root at size {signed.size}",
                do="this store is not the one that signed it: stop, and keep both",
            )
        self._seen = identity

    def record(self, signed: SignedCheckpoint) -> None:
        """Put a newly signed head in the second place, on disk before this returns.

        Raises:
            UnavailableError: it cannot be written.
        """
        data = signed.encode()
        if self._identity() is None or files.read_bytes(self.path, limit=MAX_NOTE_BYTES) != data:
            files.write_atomic(self.path, data)
        self._seen = self._identity()

    def _identity(self) -> tuple[int, int, int] | None:
        # A replaced file is another inode or another time: `write_atomic` never writes into a file.
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UnavailableError(
                f"the second place {self.path}", got=error.strerror or str(error), do="mount it again"
            ) from error
        return found.st_ino, found.st_mtime_ns, found.st_size

    def _refused(self, got: str, *, do: str) -> VerificationError:
        return VerificationError(
            f"a store that continues the head in the second place, {self.path}",
            got=got,
            do=do,
            where="ledger",
        )
