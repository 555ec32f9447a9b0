"""What `patronage operator status` shows: the round, its owners, the nodes and the runs."""

from datetime import UTC, datetime

from pydantic import BaseModel

from patronage_protocol.errors import UnavailableError
from patronage_protocol.files import read_bytes
from patronage_server.certificates import expiry
from patronage_server.control import open_control
from patronage_server.follow import is_driven, last_round
from patronage_server.home import OperatorHome
from patronage_server.network import Network

__all__ = ["OperatorStatus", "operator_status"]

MAX_CERTIFICATE = 65_536


class OwnerStatus(BaseModel):
    """One registered owner: whether its node is connected, and where it stands in the round."""

    name: str
    node: str
    standing: str


class RoundStatus(BaseModel):
    """The last round in the ledger."""

    number: int
    manifest: str
    phase: str


class OperatorStatus(BaseModel):
    """Everything at a glance.

    Attributes:
        superlink: up, or why not.
        driven: whether a process is driving the round now.
        certificate_until: last day of the server's certificate.
        round: the last round in the ledger, if any.
        owners: the registered owners.
        run: the latest run and its true status, if any.
    """

    superlink: str
    driven: bool
    certificate_until: str
    round: RoundStatus | None
    owners: list[OwnerStatus]
    run: str | None


def operator_status(home: OperatorHome, network: Network) -> OperatorStatus:
    """Look at the folder and at SuperLink, and change nothing.

    Raises:
        PatronageError: the folder is damaged. A SuperLink that is not up is no error.
    """
    ledger = home.store
    state = last_round(ledger)
    nodes, run, superlink = _superlink(network)
    standing = {} if state is None else {name: one.value for name, one in state.standing.items()}
    until: datetime = expiry(read_bytes(network.certificate, limit=MAX_CERTIFICATE)).astimezone(UTC)
    return OperatorStatus(
        superlink=superlink,
        driven=is_driven(ledger),
        certificate_until=f"{until:%Y-%m-%d}",
        round=None
        if state is None
        else RoundStatus(
            number=state.manifest.round, manifest=state.manifest.digest, phase=state.phase.value
        ),
        owners=[
            OwnerStatus(
                name=entry.owner,
                node=nodes.get(entry.owner, "unknown"),
                standing=standing.get(entry.owner, "not in a round"),
            )
            for entry in network.registrations
        ],
        run=run,
    )


def _superlink(network: Network) -> tuple[dict[str, str], str | None, str]:
    try:
        with open_control(network) as control:
            nodes = {node.owner: node.status for node in control.nodes()}
            runs = control.runs()
    except UnavailableError as error:
        return {}, None, str(error)
    run = None
    if runs:
        latest = runs[0]
        run = f"{latest.run}: {latest.status}" + (f", {latest.outcome}" if latest.outcome else "")
    return nodes, run, "up"
