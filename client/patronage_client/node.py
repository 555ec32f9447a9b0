"""The owner's SuperNode: its files, and the child process that speaks with the operator's machine.

node/key         its EC P-384 key (OpenSSH), mode 0600; the operator has registered the public half
node/secret      what this program proves to its own SuperNode, mode 0600
node/ca.pem      the one certificate authority that it trusts, from the invitation
node/invitation.json
node/supernode.log
node/lock        held by the one `patronage owner join` that runs
"""

import fcntl
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from patronage_protocol.errors import FormatError, UnavailableError, UsageError
from patronage_protocol.files import read_bytes
from patronage_protocol.processes import command_path, start_child, stop_child

__all__ = ["NodeFiles", "SuperNode"]

MAX_KEY = 65_536


@dataclass(frozen=True)
class NodeFiles:
    """Where the node's files lie."""

    folder: Path

    @property
    def certificate_authority(self) -> Path:
        """The trusted authority."""
        return self.folder / "ca.pem"

    @property
    def invitation(self) -> Path:
        """The invitation that was joined last."""
        return self.folder / "invitation.json"

    @property
    def log(self) -> Path:
        """What the SuperNode says."""
        return self.folder / "supernode.log"

    @property
    def node_id(self) -> Path:
        """The number under which the operator's SuperLink knew this node last."""
        return self.folder / "node-id"

    def key(self) -> ec.EllipticCurvePrivateKey:
        """The node's private key.

        Raises:
            UnavailableError: it is missing.
            FormatError: it is no EC key.
        """
        path = self.folder / "key"
        try:
            key = load_ssh_private_key(read_bytes(path, limit=MAX_KEY), None)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise FormatError(
                "an OpenSSH private key", got=str(error), do="restore it", where=str(path)
            ) from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise FormatError("an EC key", got=type(key).__name__, do="restore it", where=str(path))
        return key

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the folder: SuperLink lets one node connect with a key, and a second would put the first out.

        Raises:
            UsageError: another process holds it.
            UnavailableError: the folder cannot be written.
        """
        path = self.folder / "lock"
        try:
            file = path.open("ab")
        except OSError as error:
            raise UnavailableError(
                f"a file {path}", got=error.strerror or str(error), do="make room or mend permissions"
            ) from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise UsageError(
                    f"one node of {self.folder.parent} at a time",
                    got="one that takes part already",
                    do="end the other `patronage owner join` first",
                ) from error
            yield

    def secret(self) -> bytes:
        """What proves to the SuperNode that this program may take its tasks.

        Raises:
            UnavailableError: it is missing.
        """
        return read_bytes(self.folder / "secret", limit=MAX_KEY)


class SuperNode:
    """The child process. `runtime` is where it hands out tasks, on this machine alone."""

    def __init__(self, files: NodeFiles, superlink: str) -> None:
        self._files = files
        self._superlink = superlink
        self._process: subprocess.Popen[bytes] | None = None
        self.runtime = ""

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the process; its output goes to node/supernode.log.

        Raises:
            UnavailableError: the program is not there, or the folder cannot be written.
        """
        port = _free_port()
        self.runtime = f"127.0.0.1:{port}"
        self._process = start_child(
            self._command(port), environment=_environment(self._files), log=self._files.log
        )

    def stop(self) -> None:
        """End the process and wait for it."""
        if self._process is None:
            return
        stop_child(self._process)
        self._process = None

    def _command(self, port: int) -> list[str]:
        folder = self._files.folder
        return [
            str(command_path("flower-supernode", extra="client")),
            *("--superlink", self._superlink),
            *("--root-certificates", str(self._files.certificate_authority.absolute())),
            *("--auth-supernode-private-key", str((folder / "key").absolute())),
            *("--isolation", "process"),
            *("--superexec-auth-secret-file", str((folder / "secret").absolute())),
            *("--host", "127.0.0.1", "--port", str(port)),
            *("--node-config", f"patronage-home={_quoted(folder.parent.absolute())}"),
        ]


def _quoted(path: Path) -> str:
    """A path as a quoted value of Flower's node configuration."""
    return '"' + str(path) + '"'


def _environment(files: NodeFiles) -> dict[str, str]:
    return {
        "FLWR_HOME": str((files.folder / "flower").absolute()),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
