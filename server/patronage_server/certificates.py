"""A certificate authority for one consortium and the certificate of its server (X.509, RFC 5280).

Owners trust this authority alone for the operator's address, and no public one. Keys are ECDSA on P-256;
the authority may sign servers only (path length 0).
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from patronage_protocol.errors import FormatError

__all__ = ["KeyPair", "expiry", "make_authority", "make_server_certificate"]

AUTHORITY_DAYS = 3650
SERVER_DAYS = 397
LOOPBACK = ("localhost", "127.0.0.1", "::1")
CLOCK_SLACK = timedelta(hours=1)
"""A certificate is valid from a little before it was made: clocks differ."""


@dataclass(frozen=True)
class KeyPair:
    """A certificate and its private key, both PEM."""

    certificate: bytes
    key: bytes


def make_authority(name: str, now: datetime) -> KeyPair:
    """A self-signed authority called `name`."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name(f"{name} certificate authority")
    builder = (
        _builder(subject, subject, key.public_key(), now, AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return _pair(builder.sign(key, hashes.SHA256()), key)


def make_server_certificate(authority: KeyPair, hosts: Sequence[str], now: datetime) -> KeyPair:
    """A certificate for `hosts` (names or addresses) and for this machine itself, signed by `authority`.

    Raises:
        FormatError: the authority's key is not an elliptic-curve key.
    """
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    issuer_key = load_pem_private_key(authority.key, None)
    if not isinstance(issuer_key, ec.EllipticCurvePrivateKey):
        raise FormatError(
            "an elliptic-curve key of the authority", got=type(issuer_key).__name__, do="restore ca.key"
        )
    key = ec.generate_private_key(ec.SECP256R1())
    names = dict.fromkeys((*hosts, *LOOPBACK))
    issuer_public = issuer_key.public_key()
    builder = (
        _builder(_name(hosts[0]), issuer.subject, key.public_key(), now, SERVER_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_public), critical=False)
    )
    return _pair(builder.sign(issuer_key, hashes.SHA256()), key)


def expiry(certificate: bytes) -> datetime:
    """The last moment at which a PEM certificate is valid.

    Raises:
        FormatError: it is no certificate.
    """
    try:
        return x509.load_pem_x509_certificate(certificate).not_valid_after_utc
    except ValueError as error:
        raise FormatError("a PEM certificate", got=str(error), do="restore the file") from error


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now.astimezone(UTC) - CLOCK_SLACK)
        .not_valid_after(now.astimezone(UTC) + timedelta(days=days))
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> KeyPair:
    return KeyPair(
        certificate.public_bytes(Encoding.PEM),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )
