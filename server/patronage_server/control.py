"""SuperLink's Control API, as far as an operator needs it: nodes and runs.

This is the API that `flwr run` and `flwr list` call. They are not used themselves: `flwr run` exits with 0
when the run fails, packs the app anew (with whatever zlib is at hand, so the hash that owners pin would
differ), and wants a configuration file of its own.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
)
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.error import FlowerError
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from patronage_protocol.canonical import sha256
from patronage_protocol.errors import DataError, UnavailableError
from patronage_protocol.files import read_bytes
from patronage_protocol.joining import Registration
from patronage_server.network import Network

__all__ = ["ConnectedNode", "Control", "RunReport", "node_key", "open_control"]

FINISHED = "finished"
COMPLETED = "completed"
MAX_CERTIFICATE = 65_536


@dataclass(frozen=True)
class ConnectedNode:
    """A node that SuperLink knows: its number, the name it was registered with, and whether it is online."""

    node: int
    owner: str
    status: str
    key: bytes


@dataclass(frozen=True)
class RunReport:
    """How a run stands in truth.

    Attributes:
        run: its number.
        status: pending, starting, running or finished.
        outcome: completed, failed or stopped once it is finished; empty before.
        details: what went wrong, in words.
        sent, received: bytes between SuperLink and nodes.
    """

    run: int
    status: str
    outcome: str
    details: str
    sent: int
    received: int

    @property
    def active(self) -> bool:
        """Whether it is under way."""
        return self.status != FINISHED

    @property
    def completed(self) -> bool:
        """Whether it came to its end."""
        return self.outcome == COMPLETED


@dataclass(frozen=True)
class Control:
    """An open connection to SuperLink on this machine."""

    client: ControlHttpClient

    def register(self, registration: Registration) -> None:
        """Let the node of an owner connect.

        Raises:
            UnavailableError: SuperLink refuses it.
        """
        key = node_key(registration)
        with _explained("a node that SuperLink takes"):
            self.client.RegisterNode(RegisterNodeRequest(public_key=key, name=registration.owner))

    def nodes(self) -> tuple[ConnectedNode, ...]:
        """Every node that was registered, by name."""
        with _explained("a list of nodes"):
            found = self.client.ListNodes(ListNodesRequest()).nodes_info
        nodes = [ConnectedNode(node.node_id, node.name, node.status, node.public_key) for node in found]
        return tuple(sorted(nodes, key=lambda node: node.owner))

    def start_run(self, bundle: bytes, config: Mapping[str, str]) -> int:
        """Start a run; returns its number."""
        request = StartRunRequest(
            fab=fab_to_proto(Fab(sha256(bundle), bundle, {})),
            override_config=user_config_to_proto(dict(config)),
        )
        with _explained("a run that SuperLink starts"):
            response = self.client.StartRun(request)
        if not response.HasField("run_id"):
            raise UnavailableError(
                "a run that SuperLink starts",
                got="no run",
                do="see flower/superlink.log in the operator's folder",
            )
        return response.run_id

    def runs(self) -> tuple[RunReport, ...]:
        """The runs that SuperLink remembers, the latest first."""
        with _explained("a list of runs"):
            found = self.client.ListRuns(ListRunsRequest()).run_dict.values()
        reports = [
            RunReport(
                run.run_id,
                run.status.status,
                run.status.sub_status,
                run.status.details,
                run.bytes_sent,
                run.bytes_recv,
            )
            for run in sorted(found, key=lambda run: run.pending_at, reverse=True)
        ]
        return tuple(reports)

    def run(self, number: int) -> RunReport:
        """How one run stands.

        Raises:
            UnavailableError: SuperLink does not know it.
        """
        for report in self.runs():
            if report.run == number:
                return report
        raise UnavailableError(
            f"run {number}", got="none of that number", do="look at: patronage operator status"
        )

    def stop_run(self, number: int) -> None:
        """End a run that is under way."""
        with _explained("a run that can be stopped"):
            self.client.StopRun(StopRunRequest(run_id=number))


@contextmanager
def open_control(network: Network) -> Iterator[Control]:
    """Connect to SuperLink on this machine; nothing is sent before the first call."""
    client = ControlHttpClient.from_server_address(
        network.superlink,
        insecure=False,
        root_certificates=read_bytes(network.certificate_authority, limit=MAX_CERTIFICATE),
        interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
    )
    try:
        yield Control(client)
    finally:
        client.close()


def node_key(registration: Registration) -> bytes:
    """The node's public key in the form that SuperLink stores.

    Raises:
        DataError: it is not on a NIST curve.
    """
    try:
        key = load_ssh_public_key(registration.node_key.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _bad_key(registration, str(error)) from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise _bad_key(registration, type(key).__name__)
    return public_key_to_bytes(key)


def _bad_key(registration: Registration, got: str) -> DataError:
    return DataError(
        f"a P-384 node key of {registration.owner}",
        got=got,
        do="ask for a new registration: patronage owner init",
    )


@contextmanager
def _explained(wanted: str) -> Iterator[None]:
    try:
        yield
    except httpx.HTTPStatusError as error:
        said = FlowerError.from_json(error.response.text)
        got = said.message if said else f"HTTP status {error.response.status_code}"
        raise UnavailableError(
            wanted, got=got, do="see flower/superlink.log in the operator's folder"
        ) from error
    except httpx.TransportError as error:
        raise UnavailableError(
            "a running SuperLink",
            got=str(error) or type(error).__name__,
            do="start it: patronage operator serve DIR",
        ) from error
