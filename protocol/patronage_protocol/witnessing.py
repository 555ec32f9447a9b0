"""Whose cosignatures a round asks for: from the manifest's terms to a trust policy, and the check of a head.

The witnesses are owners, under the key that the manifest gives. Their quorum on the head at `close` stands
before any reveal, their quorum on the head at `final` before any receipt.
"""

from patronage_protocol.errors import FormatError, RemoteProtocolError, VerificationError
from patronage_protocol.keys import PublicKey
from patronage_protocol.ledger.checkpoints import SignedCheckpoint
from patronage_protocol.ledger.notes import Note, VerifierKey
from patronage_protocol.ledger.trust import Group, TrustPolicy
from patronage_protocol.manifest import Manifest

__all__ = [
    "check_quorum",
    "has_quorum",
    "in_order",
    "log_key",
    "witness_key",
    "witness_name",
    "witness_policy",
]

QUORUM = b"QUORUM"
"""The name of the group in a policy; no witness has it, since the names of owners are lower-case."""


def witness_name(consortium: str, owner: str) -> str:
    """The key name under which an owner cosigns the heads of a consortium's ledger."""
    return f"{consortium}/{owner}"


def witness_key(manifest: Manifest, owner: str) -> VerifierKey:
    """The verifier key, type 04, of a witness of the manifest."""
    party = manifest.owner(owner)
    assert party is not None, "the manifest's witnesses are owners"
    return VerifierKey.cosigner(witness_name(manifest.consortium, owner), PublicKey.from_base64(party.key))


def log_key(manifest: Manifest) -> VerifierKey:
    """The verifier key, type 01, with which the operator signs heads."""
    return VerifierKey.ed25519(manifest.origin, PublicKey.from_base64(manifest.operator.key))


def witness_policy(manifest: Manifest) -> TrustPolicy:
    """The policy of the manifest: the operator's log and a quorum of its witnesses."""
    keys = {key.name.encode(): key for key in (witness_key(manifest, o) for o in manifest.witness.owners)}
    return TrustPolicy(
        (log_key(manifest),), keys, {QUORUM: Group(manifest.witness.quorum, tuple(keys))}, QUORUM
    )


def check_quorum(signed: SignedCheckpoint, manifest: Manifest) -> tuple[str, ...]:
    """Check that the operator signed a head and a quorum of the manifest's witnesses cosigned it.

    Returns:
        The names of the owners that cosigned, sorted.

    Raises:
        RemoteProtocolError: the quorum is missing, a signature does not verify, or it is of another log.
    """
    try:
        times = witness_policy(manifest).check(signed).times
    except (VerificationError, FormatError) as error:
        raise RemoteProtocolError(
            error.expected, got=error.got, do="the head is not relied on", where="witness §quorum"
        ) from error
    return tuple(sorted(name.removeprefix(f"{manifest.consortium}/") for name in times))


def has_quorum(signed: SignedCheckpoint, manifest: Manifest) -> bool:
    """Whether `check_quorum` holds."""
    try:
        check_quorum(signed, manifest)
    except RemoteProtocolError:
        return False
    return True


def in_order(signed: SignedCheckpoint, manifest: Manifest) -> SignedCheckpoint:
    """The same head with the lines of the log and of the manifest's witnesses alone, in that order."""
    keys = [log_key(manifest), *(witness_key(manifest, owner) for owner in manifest.witness.owners)]
    lines = (signed.note.signature_by(key) for key in keys)
    return SignedCheckpoint(signed.checkpoint, Note(signed.note.text, tuple(line for line in lines if line)))
