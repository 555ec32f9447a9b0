"""`patronage operator serve`: SuperLink behind the gateway, for as long as owners may connect.

SuperLink is started again when it dies; nodes see a 503 from the gateway meanwhile and keep trying. Owners
that are registered while it runs are let in within a few seconds.
"""

import logging
import signal
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

import uvicorn

from patronage_protocol.errors import PatronageError, UnavailableError
from patronage_protocol.files import read_bytes
from patronage_server.certificates import expiry
from patronage_server.control import node_key, open_control
from patronage_server.gateway import gateway
from patronage_server.network import Network, split_address
from patronage_server.superlink import SuperLink, require_free

__all__ = ["serve"]

log = logging.getLogger("patronage.operator")

LOOK_SECONDS = 1.0
MOST_STARTS = 5
WITHIN_SECONDS = 60.0
MAX_CERTIFICATE = 65_536


def serve(network: Network, environment: Mapping[str, str] = MappingProxyType({})) -> None:
    """Serve until interrupted.

    Args:
        network: the network side of the operator's folder.
        environment: what the processes of a round find in theirs; `Passphrase.lent` says what to give.

    Raises:
        UnavailableError: a port is taken, the certificate has expired, or SuperLink does not stay up.
    """
    _require_valid(network.certificate)
    _require_valid(network.certificate_authority)
    port = split_address(network.config.address)[1]
    require_free(network.config.listen, port)
    door = uvicorn.Server(
        uvicorn.Config(
            gateway(network.superlink, str(network.certificate_authority)),
            host=network.config.listen,
            port=port,
            ssl_certfile=str(network.certificate),
            ssl_keyfile=str(network.certificate_key),
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=3,
        )
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        # uvicorn stops on these and then raises them once more; SuperLink is to be ended first.
        signal.signal(number, lambda *_: None)
    watch = _Watch(network, door, environment)
    watch.superlink.start()
    thread = threading.Thread(target=watch.run, name="patronage-superlink", daemon=True)
    thread.start()
    try:
        door.run()
    finally:
        watch.ended.set()
        thread.join()
        watch.superlink.stop()
    if watch.failure is not None:
        raise watch.failure


class _Watch:
    """Keeps SuperLink up, and its list of nodes as long as the operator's."""

    def __init__(self, network: Network, door: uvicorn.Server, environment: Mapping[str, str]) -> None:
        self.superlink = SuperLink(network, environment)
        self.ended = threading.Event()
        self.failure: PatronageError | None = None
        self._network = network
        self._door = door
        self._starts = [time.monotonic()]
        self._known: set[bytes] = set()

    def run(self) -> None:
        """Look every second until `ended` is set; a failure that cannot be mended ends the gateway too."""
        try:
            while not self.ended.wait(LOOK_SECONDS):
                if not self.superlink.running:
                    self._start_again()
                else:
                    self._register()
        except PatronageError as error:
            self.failure = error
            self._door.should_exit = True

    def _start_again(self) -> None:
        now = time.monotonic()
        self._starts = [start for start in self._starts if now - start < WITHIN_SECONDS]
        if len(self._starts) >= MOST_STARTS:
            raise UnavailableError(
                "a SuperLink that stays up",
                got=f"{MOST_STARTS} starts within {WITHIN_SECONDS:.0f} seconds",
                do=f"see {self._network.flower / 'superlink.log'}",
            )
        log.warning("SuperLink has ended; starting it again")
        self._starts.append(now)
        self._known.clear()
        self.superlink.start()

    def _register(self) -> None:
        """Let in whoever is in the folder and not in SuperLink."""
        wanted = {node_key(entry): entry for entry in self._network.registrations}
        if wanted.keys() <= self._known:
            return
        try:
            with open_control(self._network) as control:
                self._known = {node.key for node in control.nodes()}
                for key in wanted.keys() - self._known:
                    control.register(wanted[key])
                    self._known.add(key)
                    log.warning("registered the node of %s", wanted[key].owner)
        except UnavailableError as error:
            log.info("SuperLink is not up yet: %s", error)


def _require_valid(certificate: Path) -> None:
    until = expiry(read_bytes(certificate, limit=MAX_CERTIFICATE))
    if until <= datetime.now(UTC):
        raise UnavailableError(
            "a certificate that is valid today",
            got=f"one that expired on {until:%Y-%m-%d}",
            do="renew it: patronage operator renew DIR",
            where=str(certificate),
        )
