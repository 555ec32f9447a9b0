"""The owners that an operator has registered: one signed file each, no two with a name or key in common."""

from pathlib import Path

from patronage_protocol.errors import UsageError
from patronage_protocol.joining import Registration, read_envelope, write_envelope
from patronage_server.network import Network

__all__ = ["register"]


def register(network: Network, path: Path) -> Registration:
    """Take an owner's registration file into the folder; registering the same file twice is harmless.

    Raises:
        DataError, FormatError, VerificationError: it is no registration, or not signed by its own key.
        UsageError: its name or one of its keys belongs to another owner.
        UnavailableError: it cannot be read or kept.
    """
    envelope = read_envelope(path)
    new = Registration.open(envelope)
    if new.owner == network.config.name:
        raise UsageError(
            "an owner with a name of its own",
            got=f"{new.owner}, the operator's",
            do="ask it to choose another",
        )
    for known in network.registrations:
        if known != new:
            _require_distinct(known, new)
    write_envelope(network.home / "owners" / f"{new.owner}.json", envelope)
    return new


def _require_distinct(known: Registration, new: Registration) -> None:
    for field, what in (("owner", "name"), ("key", "protocol key"), ("node_key", "node key")):
        if getattr(known, field) == getattr(new, field):
            raise UsageError(
                f"an owner with a {what} of its own",
                got=f"the {what} under which {known.owner} is registered",
                do=f"ask {new.owner} for a new registration, or remove owners/{known.owner}.json first",
            )
