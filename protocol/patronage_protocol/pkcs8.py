"""Private keys at rest: PKCS#8 in PEM (RFC 5958), encrypted under PBES2 (RFC 8018) with a passphrase.

PBES2 is written here because `cryptography` offers no choice of its cost and takes 2,048 rounds of PBKDF2.
These files take 600,000 rounds of PBKDF2-HMAC-SHA-256 and AES-256-CBC; `openssl pkey -in FILE` reads them.
PBES2 does not authenticate: a file that somebody changed may yield another key, so compare the public half
with the one you know.
"""

import base64
import hashlib
import os

from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from patronage_protocol.errors import FormatError, UsageError

__all__ = ["MAX_PEM_BYTES", "decode", "encode", "is_encrypted"]

MAX_PEM_BYTES = 16_384
ROUNDS = 600_000

_PBES2 = bytes.fromhex("06092a864886f70d01050d")
_PBKDF2 = bytes.fromhex("06092a864886f70d01050c")
_HMAC_SHA256 = bytes.fromhex("300c06082a864886f70d02090500")
_AES_256_CBC = bytes.fromhex("060960864801650304012a")


def encode(key: Ed25519PrivateKey, passphrase: bytes | None) -> bytes:
    """The PEM text of `key`; without a passphrase it is in the clear.

    Raises:
        UsageError: an empty passphrase.
    """
    if passphrase is None:
        return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    if not passphrase:
        raise UsageError(
            "a passphrase of at least one byte", got="an empty one", do="type one, or ask for no passphrase"
        )
    plain = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    body = base64.encodebytes(_pbes2(plain, passphrase, salt=os.urandom(16), iv=os.urandom(16)))
    return b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n" + body + b"-----END ENCRYPTED PRIVATE KEY-----\n"


def is_encrypted(pem: bytes) -> bool:
    """Whether it takes a passphrase to read the key in `pem`."""
    return b"-----BEGIN ENCRYPTED PRIVATE KEY-----" in pem


def decode(pem: bytes, passphrase: bytes | None, *, where: str) -> Ed25519PrivateKey:
    """The Ed25519 key in `pem`.

    Raises:
        UsageError: a passphrase is missing, is wrong, or was given for a key in the clear.
        FormatError: this is not a PKCS#8 Ed25519 key; `where` names the file.
    """
    encrypted = is_encrypted(pem)
    if encrypted != (passphrase is not None):
        raise UsageError(
            "a passphrase" if encrypted else "no passphrase",
            got="none for an encrypted key" if encrypted else "one for a key that is not encrypted",
            do="give --passphrase-file exactly when the key has a passphrase",
            where=where,
        )
    try:
        key = load_pem_private_key(pem, passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm, InternalError) as error:
        if encrypted:
            raise UsageError(
                "the passphrase of this key",
                got="another one, or a damaged file",
                do="try again",
                where=where,
            ) from error
        raise _not_a_key(where) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise _not_a_key(where)
    return key


def _not_a_key(where: str) -> FormatError:
    return FormatError(
        "an Ed25519 private key in PKCS#8 PEM",
        got="something else",
        do="make one with: patronage keygen",
        where=where,
    )


def _pbes2(plain: bytes, passphrase: bytes, *, salt: bytes, iv: bytes) -> bytes:
    key = hashlib.pbkdf2_hmac("sha256", passphrase, salt, ROUNDS, dklen=32)
    padder = PKCS7(128).padder()
    encryptor = Cipher(AES(key), CBC(iv)).encryptor()
    ciphertext = encryptor.update(padder.update(plain) + padder.finalize()) + encryptor.finalize()
    rounds = _der(0x02, ROUNDS.to_bytes(3, "big"))
    derivation = _der(0x30, _PBKDF2 + _der(0x30, _der(0x04, salt) + rounds + _HMAC_SHA256))
    scheme = _der(0x30, _AES_256_CBC + _der(0x04, iv))
    algorithm = _der(0x30, _PBES2 + _der(0x30, derivation + scheme))
    return _der(0x30, algorithm + _der(0x04, ciphertext))


def _der(tag: int, content: bytes) -> bytes:
    length = len(content)
    if length < 0x80:
        return bytes([tag, length]) + content
    return bytes([tag, 0x81, length]) + content  # nothing here reaches 256 bytes
