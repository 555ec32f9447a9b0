"""C2SP signed notes (https://c2sp.org/signed-note@v1.0.0): a text, and lines that say who signed it.

    note = text LF signature-line...       the text ends in LF; the last blank line is the border
    signature-line = U+2014 SP name SP base64(keyid[4] || signature) LF
    keyid = SHA-256(name || 0A || type || public key)[:4]
    vkey = name "+" hex(keyid) "+" base64(type || public key)

Stricter than the specification: at most 64 signatures and 512 KiB, and no two lines with the same name and
key id.
"""

import hashlib
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Self

from patronage_protocol.errors import FormatError, VerificationError
from patronage_protocol.keys import PrivateKey, PublicKey
from patronage_protocol.ledger import mldsa
from patronage_protocol.strict import base64_bytes, base64_text, shortened, utf8

__all__ = ["Note", "NoteSignature", "SignatureType", "VerifierKey", "check_key_name", "sign_note"]

MAX_NOTE_BYTES = 512 * 1024
MAX_SIGNATURES = 64
MAX_NAME_BYTES = 255
KEYID_BYTES = 4
_DASH = "\u2014 "


class SignatureType(IntEnum):
    """The signature types in use (signed-note, section "Signature types")."""

    ED25519 = 0x01
    COSIGNATURE = 0x04
    ML_DSA_44 = 0x06


_MATERIAL_BYTES = {
    SignatureType.ED25519: 32,
    SignatureType.COSIGNATURE: 32,
    SignatureType.ML_DSA_44: mldsa.PUBLIC_KEY_BYTES,
}


@dataclass(frozen=True)
class VerifierKey:
    """A public key under a name, for one kind of signature.

    Attributes:
        name: without Unicode spaces and plus signs; the origin, for the key of a log.
        kind: what this key signs, and how.
        material: the raw public key; 32 bytes for Ed25519, 1,312 for ML-DSA-44.
    """

    name: str
    kind: SignatureType
    material: bytes

    def __post_init__(self) -> None:
        check_key_name(self.name)
        if len(self.material) != _MATERIAL_BYTES[self.kind]:
            raise FormatError(
                f"a public key of {_MATERIAL_BYTES[self.kind]} bytes for {self.name}",
                got=f"{len(self.material)} bytes",
                do="refuse it",
            )
        if self.kind is not SignatureType.ML_DSA_44:
            PublicKey.from_raw(self.material)

    @classmethod
    def ed25519(cls, name: str, key: PublicKey) -> Self:
        """The key of a log, type 01."""
        return cls(name, SignatureType.ED25519, key.raw)

    @classmethod
    def cosigner(cls, name: str, key: PublicKey) -> Self:
        """The key of a witness that signs cosignature/v1, type 04."""
        return cls(name, SignatureType.COSIGNATURE, key.raw)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a vkey.

        Raises:
            FormatError: not one, not in its one spelling, or a key that is not acceptable.
        """
        name, _, rest = text.partition("+")
        keyid, _, encoded = rest.partition("+")
        public = base64_bytes(encoded, what="the key of a vkey")
        if not public or public[0] not in list(SignatureType):
            raise FormatError(
                "a vkey of type 01, 04 or 06", got=repr(shortened(text)), do="ask for a key of these types"
            )
        key = cls(name, SignatureType(public[0]), public[1:])
        if keyid != key.keyid.hex():
            raise FormatError(
                f"the key id {key.keyid.hex()} in the vkey of {name}",
                got=repr(shortened(keyid)),
                do="refuse it",
            )
        return key

    @property
    def text(self) -> str:
        """The vkey."""
        return f"{self.name}+{self.keyid.hex()}+{base64_text(bytes([self.kind]) + self.material)}"

    @property
    def keyid(self) -> bytes:
        """The four bytes that name this key in a signature line; a label, not a hash to rely on."""
        return hashlib.sha256(self.name.encode() + b"\n" + bytes([self.kind]) + self.material).digest()[:4]

    def verify(self, signature: bytes, message: bytes) -> None:
        """Check a bare signature of `message`.

        Raises:
            VerificationError: it does not verify.
            UnavailableError: ML-DSA-44 where the installed `cryptography` has none.
        """
        if self.kind is SignatureType.ML_DSA_44:
            mldsa.verify(self.material, signature, message)
        else:
            PublicKey.from_raw(self.material).verify(signature, message)


@dataclass(frozen=True)
class NoteSignature:
    """One signature line: who claims to have signed, and the bytes behind the key id."""

    name: str
    keyid: bytes
    signature: bytes

    @property
    def line(self) -> str:
        """The line with its newline."""
        return f"{_DASH}{self.name} {base64_text(self.keyid + self.signature)}\n"

    @classmethod
    def parse(cls, line: str) -> Self:
        """Read a line without its newline.

        Raises:
            FormatError: not a signature line in its one spelling.
        """
        name, space, encoded = line.removeprefix(_DASH).partition(" ")
        if not line.startswith(_DASH) or not space:
            raise FormatError(
                "a signature line: dash, name, base64", got=repr(shortened(line)), do="refuse the note"
            )
        check_key_name(name)
        blob = base64_bytes(encoded, what=f"the signature of {name}")
        if len(blob) <= KEYID_BYTES:
            raise FormatError(
                f"a key id and a signature of {name}", got=f"{len(blob)} bytes", do="refuse the note"
            )
        return cls(name, blob[:KEYID_BYTES], blob[KEYID_BYTES:])


@dataclass(frozen=True)
class Note:
    """A text and its signature lines, in their order. Nothing is verified by being parsed."""

    text: str
    signatures: tuple[NoteSignature, ...]

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a note, which must be exactly what `encode` writes.

        Raises:
            FormatError: names the first thing that is wrong.
        """
        if len(data) > MAX_NOTE_BYTES:
            raise FormatError(f"a note of at most {MAX_NOTE_BYTES} bytes", got=str(len(data)), do="refuse it")
        content = utf8(data, what="a signed note")
        text, border, lines = content.rpartition("\n\n")
        if not border or not lines.endswith("\n"):
            raise FormatError(
                "a text, a blank line, and signature lines", got="no such border", do="refuse the note"
            )
        signatures = parse_signatures(lines)
        return cls(text + "\n", signatures)

    def encode(self) -> bytes:
        """The bytes of the note."""
        return (self.text + "\n" + "".join(signature.line for signature in self.signatures)).encode()

    def signature_by(self, key: VerifierKey) -> NoteSignature | None:
        """The line with the name and the key id of `key`, or None. It is not verified."""
        return next((s for s in self.signatures if (s.name, s.keyid) == (key.name, key.keyid)), None)

    def verify(self, key: VerifierKey) -> None:
        """Check that `key`, of type 01, signed this text.

        Raises:
            VerificationError: there is no signature by it, or it does not verify.
        """
        signature = self.signature_by(key)
        if signature is None or key.kind is not SignatureType.ED25519:
            raise VerificationError(
                f"a note signed by {key.text}",
                got="signatures by " + (", ".join(s.name for s in self.signatures) or "nobody"),
                do="do not rely on the note",
            )
        key.verify(signature.signature, self.text.encode())

    def with_signatures(self, *more: NoteSignature) -> Self:
        """The same text with further lines behind the others.

        Raises:
            FormatError: a key has signed already, or there are too many lines.
        """
        signatures = (*self.signatures, *more)
        _check_lines(signatures)
        return type(self)(self.text, signatures)


def parse_signatures(lines: str) -> tuple[NoteSignature, ...]:
    """Signature lines, each with its newline, as a witness answers them.

    Raises:
        FormatError: a line is wrong, there are none or too many, or two are by one key.
    """
    if not lines.endswith("\n"):
        raise FormatError("signature lines that end in a newline", got="no newline", do="refuse them")
    signatures = tuple(NoteSignature.parse(line) for line in lines[:-1].split("\n"))
    _check_lines(signatures)
    return signatures


def sign_note(text: str, name: str, key: PrivateKey) -> Note:
    """`text` signed by `key` under `name`, type 01.

    Raises:
        FormatError: the text does not end in a newline or holds a control character; the name is not one.
    """
    utf8(text.encode(), what="the text of a note")
    if not text.endswith("\n"):
        raise FormatError("a text that ends in a newline", got=repr(text[-20:]), do="add it")
    verifier = VerifierKey.ed25519(name, key.public)
    return Note(text, (NoteSignature(name, verifier.keyid, key.sign(text.encode())),))


@lru_cache(maxsize=256)  # a log states its own name with every head; what raises is not kept
def check_key_name(name: str) -> None:
    """Check a key name.

    Raises:
        FormatError: it is empty, holds a Unicode space, a plus sign or a control character, or is too long.
    """
    try:
        length = len(name.encode())
    except UnicodeEncodeError:  # a lone surrogate: no text at all
        length = 0
    if not 0 < length <= MAX_NAME_BYTES or any(c.isspace() or c == "+" or c < " " for c in name):
        raise FormatError(
            f"a key name of 1 to {MAX_NAME_BYTES} bytes without spaces and plus signs",
            got=repr(shortened(name)),
            do="rename it",
        )


def _check_lines(signatures: tuple[NoteSignature, ...]) -> None:
    if len(signatures) > MAX_SIGNATURES:
        raise FormatError(
            f"at most {MAX_SIGNATURES} signatures", got=str(len(signatures)), do="refuse the note"
        )
    signers = {(signature.name, signature.keyid) for signature in signatures}
    if len(signers) != len(signatures):
        raise FormatError("one signature line for each key", got="two by one key", do="refuse the note")
