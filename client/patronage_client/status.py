"""What `patronage owner status` shows: who the owner is, what it has joined, and how far each round got."""

from pathlib import Path

from pydantic import BaseModel

from patronage_client.home import OwnerHome
from patronage_client.node import NodeFiles
from patronage_protocol.joining import Invitation, read_envelope

__all__ = ["OwnerReport", "owner_status"]


class RoundFolder(BaseModel):
    """One round: its folder's name and the furthest step that left something there."""

    round: str
    step: str


class OwnerReport(BaseModel):
    """Everything at a glance.

    Attributes:
        name: the owner's name.
        key: its public key.
        address: where the last invitation connects to; empty if none was joined.
        manifest: the terms of that invitation; empty if none was joined.
        accepted: whether they were accepted.
        rounds: the rounds that it took part in.
    """

    name: str
    key: str
    address: str
    manifest: str
    accepted: bool
    rounds: list[RoundFolder]


STEPS = (
    ("receipt.tlog-proof", "paid out, receipt kept"),
    ("adapter.safetensors", "trained"),
    ("training", "training, may go on from a checkpoint"),
    ("manifest.json", "accepted"),
)


def owner_status(home: OwnerHome) -> OwnerReport:
    """Look at the folder, and change nothing.

    Raises:
        PatronageError: the folder is damaged.
    """
    kept = NodeFiles(home.path / "node").invitation
    # It was checked when it was joined, under keys that may have changed since.
    invitation = Invitation.claimed(read_envelope(kept)) if kept.exists() else None
    folders = sorted(path for path in (home.path / "rounds").glob("*") if path.is_dir())
    return OwnerReport(
        name=home.config.name,
        key=home.key.public.text,
        address=invitation.address if invitation else "",
        manifest=invitation.manifest.digest if invitation else "",
        accepted=home.accepts(invitation.manifest.digest) if invitation else False,
        rounds=[RoundFolder(round=folder.name, step=_step(folder)) for folder in folders],
    )


def _step(folder: Path) -> str:
    return next((step for name, step in STEPS if (folder / name).exists()), "nothing yet")
