"""ML-DSA-44 (FIPS 204) where the installed `cryptography` has it: an option for witnesses.

Empty context string, as https://c2sp.org/tlog-cosignature has it. Keys rest as their 32-byte seed.
"""

from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from patronage_protocol.errors import FormatError, UnavailableError, VerificationError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey, MLDSA44PublicKey

__all__ = ["PUBLIC_KEY_BYTES", "SIGNATURE_BYTES", "available", "public_key", "sign", "verify"]

PUBLIC_KEY_BYTES = 1312
SIGNATURE_BYTES = 2420
SEED_BYTES = 32


def available() -> bool:
    """Whether ML-DSA-44 can be used here."""
    try:
        public_key(bytes(SEED_BYTES))
    except UnavailableError:
        return False
    return True


def public_key(seed: bytes) -> bytes:
    """The 1,312-byte public key of a 32-byte seed.

    Raises:
        FormatError: another length.
        UnavailableError: ML-DSA-44 is not here.
    """
    return _private(seed).public_key().public_bytes_raw()


def sign(seed: bytes, message: bytes) -> bytes:
    """A 2,420-byte signature, randomised ("hedged"): two calls give two signatures.

    Raises:
        FormatError: a seed of another length.
        UnavailableError: ML-DSA-44 is not here.
    """
    return _private(seed).sign(message)


def verify(key: bytes, signature: bytes, message: bytes) -> None:
    """Check a signature.

    Raises:
        VerificationError: it does not verify.
        UnavailableError: ML-DSA-44 is not here.
    """
    try:
        _public(key).verify(signature, message)
    except (InvalidSignature, ValueError) as error:
        raise VerificationError(
            "an ML-DSA-44 signature by the configured key",
            got="one that does not verify",
            do="do not rely on what it signs",
        ) from error


def _private(seed: bytes) -> "MLDSA44PrivateKey":
    if len(seed) != SEED_BYTES:
        raise FormatError(f"a seed of {SEED_BYTES} bytes", got=f"{len(seed)} bytes", do="give all of it")
    try:
        from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey  # noqa: PLC0415

        return MLDSA44PrivateKey.from_seed_bytes(seed)
    except (ImportError, UnsupportedAlgorithm) as error:
        raise _unavailable() from error


def _public(key: bytes) -> "MLDSA44PublicKey":
    try:
        from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PublicKey  # noqa: PLC0415

        return MLDSA44PublicKey.from_public_bytes(key)
    except (ImportError, UnsupportedAlgorithm) as error:
        raise _unavailable() from error


def _unavailable() -> UnavailableError:
    return UnavailableError(
        "an installation of cryptography with ML-DSA-44",
        got="one without it",
        do="install a newer cryptography, or use an Ed25519 witness",
    )
