"""Before a node starts: is the operator's machine there, is it the right one, and will it let this node in?

A SuperNode that cannot connect says so in its log, and leaves or waits. Each likely cause is looked for here
and told in one line: nobody answers, another certificate authority, an expired certificate, clocks apart, a
key that the operator has not registered.
"""

import http.client
import socket
import ssl
import time
from email.utils import parsedate_to_datetime

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL
from flwr.proto.fleet_pb2 import ActivateNodeRequest, DeactivateNodeRequest
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.client import ProtobufClientInterceptor
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from patronage_client.node import NodeFiles
from patronage_protocol.errors import FormatError, UnavailableError, UsageError, VerificationError
from patronage_protocol.files import read_bytes, write_atomic

__all__ = ["check_door", "check_node"]

EXPIRED = 10  # X509_V_ERR_CERT_HAS_EXPIRED
TIMEOUT = 10.0
MOST_SKEW = 5.0
"""Seconds between the clocks. SuperLink refuses a request that is stamped more than 5 seconds ahead."""


def check_door(address: str, authority: str) -> None:
    """Ask the operator's machine for its health, over TLS with the invitation's authority.

    Args:
        address: host and port.
        authority: PEM.

    Raises:
        UnavailableError: nobody answers, or SuperLink is not up.
        VerificationError: it is another machine, or its certificate has expired.
        UsageError: the clocks are too far apart.
        FormatError: `authority` is no certificate.
    """
    host, _, port = address.rpartition(":")
    try:
        context = ssl.create_default_context(cadata=authority)
    except ssl.SSLError as error:
        raise FormatError(
            "a PEM certificate in the invitation", got=str(error), do="ask for the file again"
        ) from error
    connection = http.client.HTTPSConnection(host.strip("[]"), int(port), timeout=TIMEOUT, context=context)
    try:
        connection.request("GET", "/health")
        answer = connection.getresponse()
        status, date = answer.status, answer.headers.get("Date", "")
    except ssl.SSLCertVerificationError as error:
        raise _wrong_certificate(address, error) from error
    except (OSError, http.client.HTTPException) as error:
        got = error.strerror if isinstance(error, socket.gaierror) else str(error)
        raise UnavailableError(
            f"the operator's machine at {address}",
            got=got or type(error).__name__,
            do="check the network and the firewall, or ask the operator whether it is serving",
        ) from error
    finally:
        connection.close()
    if status != http.client.OK:
        raise UnavailableError(
            f"a SuperLink behind {address}", got=f"HTTP status {status}", do="try again in a minute"
        )
    _check_clock(date)


def check_node(address: str, files: NodeFiles) -> None:
    """Let the node be activated and deactivated once, which shows that the operator has registered its key.

    Raises:
        UsageError: it has not.
        UnavailableError: nobody answers.
    """
    key = files.key()
    authority = read_bytes(files.certificate_authority, limit=2**16)
    interceptors: list[ProtobufClientInterceptor] = [
        RuntimeVersionHttpInterceptor(component_name="SuperNode"),
        NodeAuthHttpInterceptor(key, key.public_key()),
    ]
    with FleetHttpClient.from_server_address(address, False, authority, interceptors) as client:
        try:
            _forget(client, files)
            node = _activate(client, key)
            write_atomic(files.node_id, str(node).encode())
            client.DeactivateNode(DeactivateNodeRequest(node_id=node))
        except httpx.HTTPStatusError as error:
            raise UsageError(
                "a node that the operator has registered",
                got=f"a refusal of its key (HTTP status {error.response.status_code})",
                do="send registration.json to the operator, and try again when it has been registered",
            ) from error
        except httpx.TransportError as error:
            raise UnavailableError(
                f"the operator's machine at {address}", got=str(error), do="try again in a minute"
            ) from error


def _activate(client: FleetHttpClient, key: ec.EllipticCurvePrivateKey) -> int:
    request = ActivateNodeRequest(
        public_key=public_key_to_bytes(key.public_key()), heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL
    )
    return int(client.ActivateNode(request).node_id)


def _forget(client: FleetHttpClient, files: NodeFiles) -> None:
    """SuperLink takes a node that was killed for connected for a minute, and refuses it meanwhile."""
    if not files.node_id.exists():
        return
    node = int(read_bytes(files.node_id, limit=32))
    try:
        client.DeactivateNode(DeactivateNodeRequest(node_id=node))
    except httpx.HTTPStatusError:
        return  # it was not connected, or SuperLink has a new number for it


def _wrong_certificate(address: str, error: ssl.SSLCertVerificationError) -> VerificationError:
    if error.verify_code == EXPIRED:
        return VerificationError(
            f"a certificate of {address} that is valid today",
            got="one that has expired",
            do="ask the operator to renew it; if it has not, check this machine's clock",
        )
    return VerificationError(
        f"a certificate of {address} by the consortium's authority",
        got=error.verify_message,
        do="do not connect: ask the operator for a new invitation",
    )


def _check_clock(date: str) -> None:
    try:
        theirs = parsedate_to_datetime(date).timestamp()
    except ValueError:
        return  # no date, nothing to compare
    skew = time.time() - theirs
    if abs(skew) > MOST_SKEW:
        raise UsageError(
            f"clocks at most {MOST_SKEW:.0f} seconds apart",
            got=f"this machine's {abs(skew):.0f} seconds {'ahead' if skew > 0 else 'behind'}",
            do="set the clock (NTP) here, or tell the operator",
        )
