"""Checkpoints (https://c2sp.org/tlog-checkpoint@v1.0.0): the head of a log as the text of a signed note.

    origin LF  decimal size LF  base64(root) LF

Stricter than the specification: extension lines are refused, because no auditor can check them and ML-DSA
cosignatures do not cover them; the origin is a key name, because the log signs under it.
"""

from dataclasses import dataclass
from typing import Self

from patronage_protocol.errors import FormatError, VerificationError
from patronage_protocol.keys import PrivateKey
from patronage_protocol.ledger.merkle import EMPTY_ROOT, HASH_BYTES
from patronage_protocol.ledger.notes import Note, VerifierKey, check_key_name, sign_note
from patronage_protocol.strict import MAX_INTEGER, base64_bytes, base64_text, decimal, shortened

__all__ = ["Checkpoint", "SignedCheckpoint"]


@dataclass(frozen=True)
class Checkpoint:
    """The size and the root of one log.

    Attributes:
        origin: the log's name, the same in all of its checkpoints.
        size: number of entries.
        root: the RFC 6962 root over them, 32 bytes.
    """

    origin: str
    size: int
    root: bytes

    def __post_init__(self) -> None:
        check_key_name(self.origin)
        if not 0 <= self.size <= MAX_INTEGER or len(self.root) != HASH_BYTES:
            raise FormatError(
                f"a size below 2**63 and a root of {HASH_BYTES} bytes",
                got=f"{self.size} and {len(self.root)} bytes",
                do="refuse the checkpoint",
            )
        if self.size == 0 and self.root != EMPTY_ROOT:
            raise FormatError("the root of the empty tree at size 0", got=self.root.hex(), do="refuse it")

    @property
    def text(self) -> str:
        """The three lines that are signed."""
        return f"{self.origin}\n{self.size}\n{base64_text(self.root)}\n"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the three lines.

        Raises:
            FormatError: another number of lines, or one not in its one spelling.
        """
        lines = text.split("\n")
        if len(lines) != 4 or lines[3]:
            raise FormatError(
                "a checkpoint of three lines: origin, size, root", got=repr(shortened(text)), do="refuse it"
            )
        return cls(
            lines[0],
            decimal(lines[1], what="the size of a checkpoint"),
            base64_bytes(lines[2], what="the root of a checkpoint", length=HASH_BYTES),
        )

    def sign(self, key: PrivateKey) -> "SignedCheckpoint":
        """This head signed by the log's key, under the origin as name."""
        return SignedCheckpoint(self, sign_note(self.text, self.origin, key))


@dataclass(frozen=True)
class SignedCheckpoint:
    """A checkpoint and the note that carries it: the log's signature and those of witnesses."""

    checkpoint: Checkpoint
    note: Note

    def __post_init__(self) -> None:
        if self.note.text != self.checkpoint.text:
            raise FormatError("the note of this checkpoint", got="another text", do="refuse it")

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the bytes of a signed checkpoint. No signature is verified.

        Raises:
            FormatError: not a signed note, or its text is no checkpoint.
        """
        note = Note.parse(data)
        return cls(Checkpoint.parse(note.text), note)

    def encode(self) -> bytes:
        """The bytes of the note."""
        return self.note.encode()

    def verify(self, key: VerifierKey) -> None:
        """Check that the log with this key signed the checkpoint.

        Raises:
            VerificationError: it did not, or the key belongs to another origin.
        """
        if key.name != self.checkpoint.origin:
            raise VerificationError(
                f"a checkpoint of {key.name}", got=f"one of {self.checkpoint.origin}", do="get the right one"
            )
        self.note.verify(key)
