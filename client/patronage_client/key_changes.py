"""An owner changes its key, or gives it up: a signed statement for the operator, which records it.

The next key waits beside the old one, which answers until the operator's terms name the next.
"""

from pathlib import Path

from patronage_client.home import OwnerHome
from patronage_client.node import NodeFiles
from patronage_client.receipts import last_manifest
from patronage_protocol.envelopes import Envelope
from patronage_protocol.errors import UsageError
from patronage_protocol.joining import Invitation, read_envelope, write_envelope
from patronage_protocol.ledger.cosignatures import Ed25519Cosigner
from patronage_protocol.ledger.rotation import REVOCATION_FILE, ROTATION_FILE, revoke, rotate
from patronage_protocol.ledger.witness import Witness
from patronage_protocol.witnessing import witness_name

__all__ = ["revoke_key", "rotate_key"]


def rotate_key(home: OwnerHome) -> Path:
    """Make the next key, encrypted as the old one is, and the statement of both; returns its file.

    Raises:
        UsageError: the owner has not joined anything yet.
        UnavailableError, FormatError: a file cannot be read or written.
    """
    origin = _origin(home)
    statement = rotate(origin, home.config.name, _seen(home, origin), home.key, home.key_file.make_next())
    return _written(home.path / ROTATION_FILE, statement)


def revoke_key(home: OwnerHome, reason: str) -> Path:
    """Make the statement that the key counts no more; returns its file.

    Raises:
        UsageError, UnavailableError, FormatError: as `rotate_key`.
    """
    origin = _origin(home)
    statement = revoke(origin, home.config.name, _seen(home, origin), home.key, reason)
    return _written(home.path / REVOCATION_FILE, statement)


def _origin(home: OwnerHome) -> str:
    """The ledger that knows this owner's key: that of the last terms, accepted or not."""
    invitation = NodeFiles(home.path / "node").invitation
    if invitation.exists():
        return Invitation.claimed(read_envelope(invitation)).manifest.origin
    try:
        return last_manifest(home).origin
    except UsageError as error:
        raise UsageError(
            "an owner whose key a ledger knows",
            got="one that has joined nothing",
            do="make a new folder with patronage owner init, and register that",
        ) from error


def _seen(home: OwnerHome, origin: str) -> int:
    """The size of the head that this owner cosigned last: no shorter ledger can take its statement."""
    consortium = origin.partition("/")[2]
    cosigner = Ed25519Cosigner(witness_name(consortium, home.config.name), home.key)
    with Witness.open(home.witness, cosigner, []) as witness:
        last = witness.last(origin)
    return last.checkpoint.size if last else 0


def _written(path: Path, statement: Envelope) -> Path:
    write_envelope(path, statement)
    return path
