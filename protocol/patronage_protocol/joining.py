"""The two files that pass between an owner and an operator before the first message over the network.

    registration    owner -> operator   who I am: my name, my protocol key, the key of my node
    invitation      operator -> owner   where to connect, what certificate to expect, which bundle, the terms

Each is one DSSE envelope, signed by the party that writes it. The operator's key is not learnt from the
invitation: an owner has it from elsewhere, and an invitation that it did not sign is refused.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints

from patronage_protocol.canonical import Canonical, Digest, Name, strict_json
from patronage_protocol.envelopes import Envelope, seal
from patronage_protocol.errors import DataError, FormatError, VerificationError
from patronage_protocol.files import read_bytes, write_atomic
from patronage_protocol.keys import PrivateKey, PublicKey
from patronage_protocol.manifest import Manifest, PublicKeyText

__all__ = ["Address", "Invitation", "NodeKeyText", "Registration", "read_envelope", "write_envelope"]

MAX_FILE = 32 * 2**20
PROTOCOL = 1

Address = Annotated[
    str, StringConstraints(pattern=r"^(?:[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:]+\]):[0-9]{1,5}\z")
]
"""Host and port, as in `consortium.example:8443`."""

NodeKeyText = Annotated[str, StringConstraints(pattern=r"^ecdsa-sha2-nistp384 [A-Za-z0-9+/]+={0,2}\z")]
"""The node's public key as OpenSSH writes it (RFC 5656), without a comment."""


class Registration(Canonical):
    """An owner introduces itself. The envelope is signed by `key`, so nobody can register a key it lacks."""

    protocol: Literal[1] = 1
    owner: Name
    key: PublicKeyText
    node_key: NodeKeyText

    @classmethod
    def open(cls, envelope: Envelope) -> Self:
        """Read a registration and check that it is signed by the key that it names.

        Raises:
            FormatError, VerificationError: it is not.
        """
        claimed = cls.decode(_payload(envelope, REGISTRATION_TYPE))
        envelope.open(REGISTRATION_TYPE, PublicKey.from_base64(claimed.key))
        return claimed

    def seal(self, key: PrivateKey) -> Envelope:
        """Sign it."""
        return seal(REGISTRATION_TYPE, self.encode(), key)


class Invitation(Canonical):
    """All that an owner's node needs to take part in one round.

    Attributes:
        protocol: the version of what the two sides say to each other.
        address: where nodes connect.
        certificate: the consortium's certificate authority, PEM.
        bundle: SHA-256 of the one Flower bundle that the round runs under.
        manifest: the terms of the round.
        rotations: of the operator's key in this ledger; an owner that knows an earlier key follows them.
    """

    protocol: Literal[1] = 1
    address: Address
    certificate: Annotated[str, Field(max_length=65_536)]
    bundle: Digest
    manifest: Manifest
    rotations: tuple[Envelope, ...] = ()

    @classmethod
    def claimed(cls, envelope: Envelope) -> Self:
        """What an invitation says, before anybody looked at its signature: to find out whose key to ask for.

        Raises:
            FormatError: it is of another version of the protocol, or no invitation.
            VerificationError: it is another kind of file.
        """
        return cls.decode(_payload(envelope, INVITATION_TYPE))

    @classmethod
    def open(cls, envelope: Envelope, operator: PublicKey) -> Self:
        """Read an invitation that `operator` signed.

        Raises:
            FormatError: it is of another version of the protocol, or no invitation.
            VerificationError: somebody else signed it.
        """
        return cls.decode(_supported(envelope.open(INVITATION_TYPE, operator)))

    def seal(self, key: PrivateKey) -> Envelope:
        """Sign it."""
        return seal(INVITATION_TYPE, self.encode(), key)


REGISTRATION_TYPE = "application/vnd.patronage.registration.v1+json"
INVITATION_TYPE = "application/vnd.patronage.invitation.v1+json"


def read_envelope(path: Path) -> Envelope:
    """The envelope in a file.

    Raises:
        UnavailableError: it cannot be read.
        DataError: it holds something else.
    """
    try:
        return Envelope.decode(read_bytes(path, limit=MAX_FILE))
    except FormatError as error:
        raise DataError(
            "a signed envelope", got=error.got, do="ask for the file again", where=str(path)
        ) from error


def write_envelope(path: Path, envelope: Envelope) -> None:
    """Write an envelope to a file.

    Raises:
        UnavailableError: it cannot be written.
    """
    write_atomic(path, envelope.encode())


def _payload(envelope: Envelope, kind: str) -> bytes:
    if envelope.payloadType != kind:
        raise VerificationError(
            f"an envelope of type {kind}",
            got=repr(envelope.payloadType[:80]),
            do="check that it is the right file",
        )
    return _supported(envelope.unverified_payload)


def _supported(payload: bytes) -> bytes:
    """The payload, if it is of a version that this side speaks; says so before any field is looked at."""
    value = strict_json(payload, what="the file")
    version = value.get("protocol") if isinstance(value, dict) else None
    if version != PROTOCOL:
        raise FormatError(
            f"protocol version {PROTOCOL}",
            got=f"version {version}",
            do="install the release of Patronage that the other side runs",
        )
    return payload
