"""DSSE envelopes (v1.0.2): what one party said, with its type and its signature.

The specification is github.com/secure-systems-lab/dsse. The signature covers PAE(type, body), so bytes
signed as one kind of statement never pass for another. An envelope is stored and compared as bytes: it has
one encoding (RFC 8785), and exactly the signatures that are asked for. A payload that is kept elsewhere is
signed detached, over the same PAE.
"""

from typing import Annotated, Self

from pydantic import AfterValidator, Field

from patronage_protocol.canonical import Canonical, Digest
from patronage_protocol.errors import VerificationError
from patronage_protocol.keys import PrivateKey, PublicKey
from patronage_protocol.strict import base64_bytes, base64_text

__all__ = ["Envelope", "EnvelopeSignature", "pae", "seal", "sign_detached", "verify_detached"]


def _canonical_base64(text: str) -> str:
    base64_bytes(text, what="a field of an envelope")
    return text


Base64 = Annotated[str, AfterValidator(_canonical_base64)]


class EnvelopeSignature(Canonical):
    """One signature: `keyid` is the SHA-256 of the raw public key, `sig` is base64."""

    keyid: Digest
    sig: Base64


class Envelope(Canonical):
    """A signed statement. Field names are DSSE's."""

    payload: Base64
    payloadType: str  # noqa: N815
    signatures: Annotated[tuple[EnvelopeSignature, ...], Field(min_length=1, max_length=16)]

    @property
    def unverified_payload(self) -> bytes:
        """The payload before anybody looked at its signature: to find out whose key to ask for, no more."""
        return base64_bytes(self.payload, what="the payload of an envelope")

    def open(self, payload_type: str, *keys: PublicKey) -> bytes:
        """The payload, if it is of this type and signed by exactly these keys, in this order.

        Raises:
            VerificationError: another type, other signers, or a signature that does not verify.
        """
        if self.payloadType != payload_type:
            raise VerificationError(
                f"an envelope of type {payload_type}", got=repr(self.payloadType[:80]), do="refuse it"
            )
        signers = [signature.keyid for signature in self.signatures]
        if not keys or signers != [key.keyid for key in keys]:
            raise VerificationError(
                "an envelope signed by " + " and ".join(key.text for key in keys),
                got="key ids " + ", ".join(signers),
                do="refuse it",
            )
        payload = self.unverified_payload
        for signature, key in zip(self.signatures, keys, strict=True):
            verify_detached(payload_type, payload, base64_bytes(signature.sig, what="a signature"), key)
        return payload

    def countersign(self, key: PrivateKey) -> Self:
        """The same statement with one more signature at the end."""
        signature = _signature(self.payloadType, self.unverified_payload, key)
        return self.model_copy(update={"signatures": (*self.signatures, signature)})


def seal(payload_type: str, payload: bytes, key: PrivateKey) -> Envelope:
    """An envelope with `payload`, signed by `key`."""
    return Envelope(
        payload=base64_text(payload),
        payloadType=payload_type,
        signatures=(_signature(payload_type, payload, key),),
    )


def sign_detached(payload_type: str, payload: bytes, key: PrivateKey) -> bytes:
    """The 64-byte signature over PAE(type, payload), for a payload kept elsewhere."""
    return key.sign(pae(payload_type, payload))


def verify_detached(payload_type: str, payload: bytes, signature: bytes, key: PublicKey) -> None:
    """Check what `sign_detached` made.

    Raises:
        VerificationError: the key did not sign this payload as this type.
    """
    key.verify(signature, pae(payload_type, payload))


def pae(payload_type: str, body: bytes) -> bytes:
    """Pre-authentication encoding: "DSSEv1" SP LEN(type) SP type SP LEN(body) SP body, LEN in bytes."""
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(body), body)


def _signature(payload_type: str, payload: bytes, key: PrivateKey) -> EnvelopeSignature:
    return EnvelopeSignature(
        keyid=key.public.keyid, sig=base64_text(sign_detached(payload_type, payload, key))
    )
