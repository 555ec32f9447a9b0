"""The second place: the last signed head, kept where a restored backup of the store does not reach.

The likeliest way to fork a log is an honest one: an operator restores last week's backup and goes on.
Before anything is signed, the head in the second place must be a prefix of the tree that is about to be
signed.
"""

from collections.abc import Callable
from pathlib import Path

from patronage_protocol import files
from patronage_protocol.checkpoints import SignedCheckpoint
from patronage_protocol.errors import VerificationError
from patronage_protocol.notes import MAX_NOTE_BYTES, VerifierKey

__all__ = ["Guard"]


class Guard:
    """The file in the second place, best on another disk or machine than the store."""

    def __init__(self, path: Path, key: VerifierKey) -> None:
        self.path = path
        self._key = key

    def check(self, size: int, root_at: Callable[[int], bytes]) -> None:
        """Check that the head signed last is a prefix of the tree with `size` entries.

        Args:
            size: entries of the tree about to be signed.
            root_at: the root of its first k entries, for k up to `size`.

        Raises:
            VerificationError: the store lacks entries that were signed for or holds others, or the second
                place is empty though the store is not.
            UnavailableError: the second place cannot be read.
        """
        if not self.path.exists():
            if size == 0:
                return
            raise self._refused(f"no file, beside a store of {size} entries", do="find out where it went")
        last = SignedCheckpoint.parse(files.read_bytes(self.path, limit=MAX_NOTE_BYTES))
        last.verify(self._key)
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

    def record(self, signed: SignedCheckpoint) -> None:
        """Put a newly signed head in the second place, on disk before this returns.

        Raises:
            UnavailableError: it cannot be written.
        """
        files.write_atomic(self.path, signed.encode())

    def _refused(self, got: str, *, do: str) -> VerificationError:
        return VerificationError(
            f"a store that continues the head in the second place, {self.path}",
            got=got,
            do=do,
            where="ledger",
        )
