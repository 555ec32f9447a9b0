"""Flower's SuperLink as a child process: TLS, node authentication, state on disk, loopback alone."""

import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from patronage_protocol.errors import UnavailableError
from patronage_protocol.files import write_atomic
from patronage_protocol.processes import command_path, start_child, stop_child
from patronage_server import one_serverapp
from patronage_server.network import Network

__all__ = ["SuperLink", "require_free"]

SERVERAPP = "flwr-serverapp"


class SuperLink:
    """The process. It is started by `start`, and ends with `stop` or by itself."""

    def __init__(self, network: Network, environment: Mapping[str, str] = MappingProxyType({})) -> None:
        """Nothing is started yet; what is started finds `environment` beside this process's."""
        self._network = network
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """Its process id while it is there."""
        return self._process.pid if self._process is not None and self.running else None

    def start(self) -> None:
        """Start the process; its output goes to flower/superlink.log.

        Raises:
            UnavailableError: the port is taken, the program is not there, or the folder cannot be written.
        """
        require_free("127.0.0.1", self._network.config.superlink_port)
        try:
            self._network.flower.mkdir(mode=0o700, exist_ok=True)
            _write_starter(self._network)
        except OSError as error:
            raise UnavailableError(
                f"a folder {self._network.flower}", got=str(error), do="make room or mend permissions"
            ) from error
        self._process = start_child(
            _command(self._network),
            environment={**self._environment, **_environment(self._network)},
            log=self._network.flower / "superlink.log",
        )

    def stop(self) -> None:
        """End the process and wait for it."""
        if self._process is None:
            return
        stop_child(self._process)
        self._process = None


def require_free(host: str, port: int) -> None:
    """Check that nobody listens on a port.

    Raises:
        UnavailableError: somebody does, or the address is not of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UnavailableError(
                f"the port {port} of {host} to be free",
                got=error.strerror or str(error),
                do="stop what listens there (perhaps an earlier serve), or change network.toml",
            ) from error


def _command(network: Network) -> list[str]:
    return [
        str(_superlink()),
        *("--host", "127.0.0.1", "--port", str(network.config.superlink_port)),
        *("--ssl-ca-certfile", str(network.certificate_authority.absolute())),
        *("--ssl-certfile", str(network.certificate.absolute())),
        *("--ssl-keyfile", str(network.certificate_key.absolute())),
        "--enable-supernode-auth",
        *("--database", str((network.flower / "state.db").absolute())),
        "--disable-runtime-dependency-installation",
    ]


def _programs(network: Network) -> Path:
    """The folder in which SuperLink finds `flwr-serverapp` first."""
    return network.flower.absolute() / "bin"


def _write_starter(network: Network) -> None:
    """A `flwr-serverapp` that ends the one before; see `one_serverapp`."""
    folder = _programs(network)
    folder.mkdir(exist_ok=True)
    real = command_path(SERVERAPP, extra="server")
    lock = folder.parent / "serverapp.lock"
    command = shlex.join([sys.executable, "-I", "-S", one_serverapp.__file__, str(lock), str(real)])
    write_atomic(folder / SERVERAPP, f'#!/bin/sh\nexec {command} "$@"\n'.encode(), mode=0o700)


def _environment(network: Network) -> dict[str, str]:
    # SuperLink starts flower-superexec, and that flwr-serverapp, by bare name.
    path = (str(_programs(network)), str(_superlink().parent), os.environ.get("PATH", os.defpath))
    return {
        "PATH": os.pathsep.join(path),
        "FLWR_HOME": str(network.flower.absolute()),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
    }


def _superlink() -> Path:
    return command_path("flower-superlink", extra="server")
