"""How an operator's machine is reached, and where the files of its network side lie in the operator's folder.

network.toml           the public address, and two ports
owners/<name>.json     the signed registrations of the owners
tls/                   ca.pem, ca.key, server.pem, server.key (keys with mode 0600)
flower/                SuperLink's database, log and installed bundles; may be deleted between rounds
invitation.json        what owners get for the current round
"""

from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from patronage_protocol.joining import Address, Registration, read_envelope
from patronage_protocol.manifest import Party
from patronage_protocol.settings import Settings, read_settings

__all__ = ["Network", "NetworkConfig", "split_address"]

Port = Field(ge=1, le=65_535)


class NetworkConfig(Settings):
    """What stands in network.toml.

    Attributes:
        name: the operator's name in the consortium and its ledger.
        consortium: the consortium's name.
        address: host and port under which owners reach this machine.
        listen: the interface that the gateway binds.
        superlink_port: of SuperLink on the loopback interface, which nobody else can reach.
    """

    name: str
    consortium: str
    address: Address
    listen: str = "0.0.0.0"  # noqa: S104 - the gateway is the one door, and it is there to be reached
    superlink_port: int = Port


@dataclass(frozen=True)
class Network:
    """The network side of an operator's folder, read."""

    home: Path
    config: NetworkConfig

    @classmethod
    def load(cls, home: Path) -> "Network":
        """Read network.toml.

        Raises:
            UnavailableError: it is missing.
            DataError: it does not say what it must; names the key.
        """
        return cls(home, read_settings(home / "network.toml", NetworkConfig))

    @property
    def certificate_authority(self) -> Path:
        """What SuperLink, the gateway and the nodes verify each other's server with."""
        return self.home / "tls" / "ca.pem"

    @property
    def certificate(self) -> Path:
        """The server's certificate."""
        return self.home / "tls" / "server.pem"

    @property
    def certificate_key(self) -> Path:
        """The server's private key."""
        return self.home / "tls" / "server.key"

    @property
    def flower(self) -> Path:
        """Where SuperLink keeps its things."""
        return self.home / "flower"

    @property
    def superlink(self) -> str:
        """SuperLink's address, on this machine alone."""
        return f"127.0.0.1:{self.config.superlink_port}"

    @property
    def registrations(self) -> tuple[Registration, ...]:
        """The owners that were registered, sorted by name.

        Raises:
            DataError, FormatError, VerificationError: a file does not hold a registration.
        """
        files = sorted((self.home / "owners").glob("*.json"))
        return tuple(Registration.open(read_envelope(path)) for path in files)

    @property
    def parties(self) -> tuple[Party, ...]:
        """The owners as a manifest names them."""
        return tuple(Party(name=entry.owner, key=entry.key) for entry in self.registrations)


def split_address(address: str) -> tuple[str, int]:
    """Host, without the brackets of an IPv6 address, and port."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)
