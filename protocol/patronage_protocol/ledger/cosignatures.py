"""Cosignatures (https://c2sp.org/tlog-cosignature@v1.0.0): which head of a log a witness saw, and when.

    Ed25519, type 04, signs     "cosignature/v1" LF "time " decimal LF checkpoint text
    ML-DSA-44, type 06, signs   "subtree/v1" LF NUL, name<1>, u64 time, origin<1>, u64 0, u64 size, root
    the signature line holds    keyid[4] || u64 time || signature

A cosignature says: at that time, this was the largest head of this log that I had seen, and it continues
all I saw before.
"""

from dataclasses import dataclass
from typing import Protocol

from patronage_protocol.errors import FormatError, VerificationError
from patronage_protocol.keys import PrivateKey
from patronage_protocol.ledger import mldsa
from patronage_protocol.ledger.checkpoints import Checkpoint, SignedCheckpoint
from patronage_protocol.ledger.notes import NoteSignature, SignatureType, VerifierKey
from patronage_protocol.strict import MAX_INTEGER

__all__ = ["Cosigner", "Ed25519Cosigner", "MlDsaCosigner", "cosignature_time", "message"]

_TIME_BYTES = 8


class Cosigner(Protocol):
    """Somebody who can cosign a checkpoint."""

    @property
    def verifier(self) -> VerifierKey:
        """The public half."""

    def cosign(self, checkpoint: Checkpoint, time: int) -> NoteSignature:
        """The signature line of this cosigner for `checkpoint` at `time` (Unix seconds)."""


@dataclass(frozen=True)
class Ed25519Cosigner:
    """Cosigns with cosignature/v1. The same key must not serve two names: the name is not signed."""

    name: str
    key: PrivateKey

    @property
    def verifier(self) -> VerifierKey:
        """The public half, type 04."""
        return VerifierKey.cosigner(self.name, self.key.public)

    def cosign(self, checkpoint: Checkpoint, time: int) -> NoteSignature:
        """The signature line for `checkpoint` at `time` (Unix seconds)."""
        return _line(self.verifier, self.key.sign(message(self.verifier, checkpoint, time)), time)


@dataclass(frozen=True)
class MlDsaCosigner:
    """Cosigns with ML-DSA-44, where the installed `cryptography` has it. `seed` is 32 secret bytes."""

    name: str
    seed: bytes

    def __repr__(self) -> str:
        return f"MlDsaCosigner(name={self.name!r})"

    @property
    def verifier(self) -> VerifierKey:
        """The public half, type 06."""
        return VerifierKey(self.name, SignatureType.ML_DSA_44, mldsa.public_key(self.seed))

    def cosign(self, checkpoint: Checkpoint, time: int) -> NoteSignature:
        """The signature line for `checkpoint` at `time` (Unix seconds)."""
        verifier = self.verifier
        return _line(verifier, mldsa.sign(self.seed, message(verifier, checkpoint, time)), time)


def message(key: VerifierKey, checkpoint: Checkpoint, time: int) -> bytes:
    """The bytes that a cosigner with `key` signs.

    Raises:
        FormatError: the time is not a positive number below 2**63, or the key is none of a cosigner.
    """
    if not 0 < time <= MAX_INTEGER:
        raise FormatError("a positive time in Unix seconds", got=str(time), do="set the clock")
    if key.kind is SignatureType.COSIGNATURE:
        return f"cosignature/v1\ntime {time}\n{checkpoint.text}".encode()
    if key.kind is SignatureType.ML_DSA_44:
        return b"".join(
            (
                b"subtree/v1\n\x00",
                _vector(key.name),
                time.to_bytes(8, "big"),
                _vector(checkpoint.origin),
                bytes(8),
                checkpoint.size.to_bytes(8, "big"),
                checkpoint.root,
            )
        )
    raise FormatError("the key of a cosigner, type 04 or 06", got=key.text, do="configure a cosigner's vkey")


def cosignature_time(signed: SignedCheckpoint, key: VerifierKey) -> int | None:
    """When the witness with `key` cosigned this checkpoint (Unix seconds), or None where it did not.

    Raises:
        VerificationError: there is a line by this key that does not verify. Reject the whole checkpoint.
    """
    line = signed.note.signature_by(key)
    if line is None:
        return None
    time = int.from_bytes(line.signature[:_TIME_BYTES], "big")
    try:
        signed_bytes = message(key, signed.checkpoint, time)
    except FormatError as error:
        raise VerificationError(
            f"a cosignature by {key.name}", got=f"one at the time {time}", do="reject the checkpoint"
        ) from error
    key.verify(line.signature[_TIME_BYTES:], signed_bytes)
    return time


def _line(key: VerifierKey, signature: bytes, time: int) -> NoteSignature:
    return NoteSignature(key.name, key.keyid, time.to_bytes(_TIME_BYTES, "big") + signature)


def _vector(text: str) -> bytes:
    data = text.encode()
    return bytes([len(data)]) + data
