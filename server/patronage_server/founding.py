"""Found a consortium: the operator's folder with its keys, certificates, held-out pairs and settings.

The folder appears whole or not at all. What is in it: see `home` and `network`.
"""

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

from patronage_protocol.development import DEVELOPMENT
from patronage_protocol.errors import DataError, UsageError
from patronage_protocol.files import read_bytes, whole_folder, write_atomic
from patronage_protocol.held_out import SECRET_BYTES
from patronage_protocol.keys import PrivateKey, PublicKey
from patronage_protocol.pair_files import read_pairs, write_pairs
from patronage_server.certificates import KeyPair, expiry, make_authority, make_server_certificate
from patronage_server.development import apart
from patronage_server.network import Network, NetworkConfig, split_address

__all__ = ["Founding", "found_operator", "renew", "write_toml"]

MAX_TERMS = 2**20


@dataclass(frozen=True)
class Founding:
    """What a person decides when founding a consortium.

    Attributes:
        network: names and addresses.
        base_model: hub id, folder, GGUF file or `tiny`.
        held_out: the pairs on which coalitions are scored; a copy is kept.
        development: public pairs that owners may measure on; a copy is kept.
        terms: a file of round terms that were looked at, or None for the template.
        second_place: the file for the head signed last, in a folder that is there; None for the own folder.
        passphrase: encrypts the operator's key; None leaves it in the clear.
    """

    network: NetworkConfig
    base_model: str
    held_out: Path
    terms: Path | None = None
    second_place: Path | None = None
    development: Path | None = None
    passphrase: bytes | None = field(default=None, repr=False)


def found_operator(folder: Path, founding: Founding) -> PublicKey:
    """Make the folder; returns the operator's public key, which owners need from a channel they trust.

    Raises:
        UsageError: something is there already, or development pairs share prompts with held-out ones.
        DataError: held-out or development pairs are unusable.
        UnavailableError: a file cannot be read or written.
    """
    pairs = read_pairs(founding.held_out).pairs
    public = None if founding.development is None else read_pairs(founding.development).pairs
    apart(public or (), pairs, "development pairs", "the held-out pairs, on which rounds are scored")
    if founding.second_place is not None and not founding.second_place.parent.is_dir():
        raise UsageError(
            f"a folder {founding.second_place.parent}", got="none", do="make it, best on another disk"
        )
    template = files("patronage_server").joinpath("round_terms.toml").read_bytes()
    terms = read_bytes(founding.terms, limit=MAX_TERMS) if founding.terms else template
    key = PrivateKey.generate()
    with whole_folder(folder) as new:
        key.save(new / "key.pem", founding.passphrase)
        write_atomic(new / "held-out.secret", secrets.token_bytes(SECRET_BYTES), mode=0o600)
        write_pairs(new / "held-out.jsonl", pairs)
        if public is not None:
            write_pairs(new / DEVELOPMENT, public)
        write_atomic(new / "terms.toml", terms)
        settings = {"base_model": founding.base_model}
        if founding.second_place is None:
            (new / "second-place").mkdir()
        else:
            settings["second_place"] = str(founding.second_place.absolute())
        write_toml(new / "operator.toml", settings)
        write_toml(new / "network.toml", founding.network.model_dump())
        (new / "owners").mkdir()
        _certify(new / "tls", founding.network)
    return key.public


def renew(network: Network) -> datetime:
    """Replace the server's certificate by one of the same authority; returns its last moment.

    Raises:
        FormatError: the authority's key or certificate is damaged.
        UnavailableError: a file cannot be read or written.
    """
    folder = network.home / "tls"
    ca_files = [read_bytes(folder / name, limit=MAX_TERMS) for name in ("ca.pem", "ca.key")]
    host, _ = split_address(network.config.address)
    server = make_server_certificate(KeyPair(*ca_files), [host], datetime.now(UTC))
    write_atomic(folder / "server.key", server.key, mode=0o600)
    write_atomic(folder / "server.pem", server.certificate)
    return expiry(server.certificate)


def write_toml(path: Path, settings: Mapping[str, str | int]) -> None:
    """Strings and integers alone, whose JSON spelling is also TOML.

    Raises:
        UnavailableError: it cannot be written.
    """
    lines = (f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in settings.items())
    write_atomic(path, "".join(lines).encode())


def _certify(folder: Path, network: NetworkConfig) -> None:
    now = datetime.now(UTC)
    host, port = split_address(network.address)
    if not 0 < port < 2**16:
        raise DataError("a port from 1 to 65535", got=str(port), do="mend the address", where="--address")
    authority = make_authority(network.consortium, now)
    server = make_server_certificate(authority, [host], now)
    folder.mkdir(mode=0o700)
    write_atomic(folder / "ca.pem", authority.certificate)
    write_atomic(folder / "ca.key", authority.key, mode=0o600)
    write_atomic(folder / "server.pem", server.certificate)
    write_atomic(folder / "server.key", server.key, mode=0o600)
