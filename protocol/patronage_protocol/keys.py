"""Ed25519 keys (RFC 8032): who said something, and the files in which a private key rests.

A public key is checked when it is made, not when it is used: see `edwards25519`. A signature is 64 bytes,
and its second half must be reduced modulo the group order, so that nobody can turn one signature into a
second.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from patronage_protocol import edwards25519, files, pkcs8
from patronage_protocol.errors import FormatError, UsageError, VerificationError
from patronage_protocol.strict import base64_bytes, base64_text

__all__ = ["PrivateKey", "PublicKey"]

KEY_BYTES = 32
SIGNATURE_BYTES = 64


@dataclass(frozen=True)
class PublicKey:
    """A checked Ed25519 public key.

    Attributes:
        raw: the 32 bytes of RFC 8032, section 5.1.2.
    """

    raw: bytes

    def __post_init__(self) -> None:
        problem = (
            edwards25519.refusal(self.raw)
            if len(self.raw) == KEY_BYTES
            else f"{len(self.raw)} bytes instead of {KEY_BYTES}"
        )
        if problem:
            raise FormatError(
                "an Ed25519 public key of prime order, canonically encoded",
                got=problem,
                do="refuse the key and ask its holder for one made with: patronage keygen",
            )

    @classmethod
    def from_raw(cls, raw: bytes) -> Self:
        """The key with these 32 bytes.

        Raises:
            FormatError: the encoding is not canonical, or the point is not of prime order.
        """
        return cls(raw)

    @classmethod
    def from_base64(cls, text: str) -> Self:
        """The key that `text` spells, as in a manifest.

        Raises:
            FormatError: not canonical base64, or not an acceptable key.
        """
        return cls(base64_bytes(text, what="a public key", length=KEY_BYTES))

    @property
    def text(self) -> str:
        """Standard base64 of the 32 bytes, 44 characters."""
        return base64_text(self.raw)

    @property
    def keyid(self) -> str:
        """SHA-256 of the 32 bytes, hexadecimal: the key's name in a DSSE envelope."""
        return hashlib.sha256(self.raw).hexdigest()

    def verify(self, signature: bytes, message: bytes) -> None:
        """Check that the holder of this key signed `message`.

        Raises:
            VerificationError: it did not, or the signature is not in its one form.
        """
        if len(signature) != SIGNATURE_BYTES:
            raise self._refused(f"a signature of {len(signature)} bytes")
        if int.from_bytes(signature[32:], "little") >= edwards25519.ORDER:
            raise self._refused("a signature whose S is not reduced")
        if signature[:32] == edwards25519.IDENTITY:
            raise self._refused("a signature whose R is the neutral point")
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except InvalidSignature as error:
            raise self._refused("one that does not verify") from error

    def _refused(self, got: str) -> VerificationError:
        return VerificationError(
            f"an Ed25519 signature by the key {self.text}", got=got, do="do not rely on what it signs"
        )


class PrivateKey:
    """An Ed25519 private key. It shows itself by its public half alone."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = PublicKey.from_raw(key.public_key().public_bytes_raw())

    def __repr__(self) -> str:
        return f"PrivateKey(public={self.public.text})"

    @classmethod
    def generate(cls) -> Self:
        """A new key from the operating system's randomness."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_seed(cls, seed: bytes) -> Self:
        """The key of a 32-byte seed (RFC 8032, section 5.1.5). For tests and simulations.

        Raises:
            FormatError: another length.
        """
        if len(seed) != KEY_BYTES:
            raise FormatError(f"a seed of {KEY_BYTES} bytes", got=f"{len(seed)} bytes", do="give all of it")
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    @classmethod
    def load(cls, path: Path, passphrase: bytes | None) -> Self:
        """Read what `save` wrote.

        Raises:
            UnavailableError: the file cannot be read.
            UsageError: the passphrase is missing, wrong or superfluous.
            FormatError: the file holds no Ed25519 key.
        """
        pem = files.read_bytes(path, limit=pkcs8.MAX_PEM_BYTES)
        return cls(pkcs8.decode(pem, passphrase, where=str(path)))

    def save(self, path: Path, passphrase: bytes | None) -> None:
        """Write PKCS#8 PEM for its owner's eyes alone; a file that is there is never replaced.

        Raises:
            UsageError: the file exists, or the passphrase is empty.
            UnavailableError: it cannot be written.
        """
        pem = pkcs8.encode(self._key, passphrase)
        if path.exists():
            raise UsageError(
                f"a new file {path}", got="one that exists", do="choose another name; keys are not replaced"
            )
        files.write_atomic(path, pem, mode=0o600)

    def sign(self, message: bytes) -> bytes:
        """The 64-byte signature of `message`: deterministic, the same every time."""
        return self._key.sign(message)
