"""Make an owner's folder: its keys, its settings, and the registration that it sends to the operator."""

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from pydantic import ValidationError

from patronage_client.home import WITNESS, OwnerConfig
from patronage_protocol.canonical import first_problem
from patronage_protocol.errors import UsageError
from patronage_protocol.files import whole_folder, write_atomic
from patronage_protocol.joining import Registration, write_envelope
from patronage_protocol.keys import PrivateKey, PublicKey
from patronage_protocol.ledger.witness import make_memory
from patronage_protocol.pair_files import read_pairs

__all__ = ["REGISTRATION", "found_owner"]

REGISTRATION = "registration.json"
SECRET_BYTES = 32


@dataclass(frozen=True)
class _Keys:
    protocol: PrivateKey
    node: ec.EllipticCurvePrivateKey


def found_owner(
    folder: Path,
    *,
    name: str,
    data: Path,
    base_model: str,
    operator_key: str,
    passphrase: bytes | None = None,
) -> Registration:
    """Make the folder, whole or not at all.

    Args:
        folder: a new folder.
        name: the owner's name in the consortium.
        data: its preference pairs, which stay where they are.
        base_model: hub id, folder, GGUF file or `tiny`.
        operator_key: the operator's public key, from a channel that the owner trusts.
        passphrase: encrypts the owner's key; None leaves it in the clear.

    Raises:
        UsageError: something is there already, or a name or key is not in its form.
        DataError: the pairs are unusable.
        UnavailableError: a file cannot be read or written.
    """
    read_pairs(data)
    PublicKey.from_base64(operator_key)
    settings = {
        "name": name,
        "data": str(data.absolute()),
        "base_model": base_model,
        "operator_key": operator_key,
    }
    try:
        OwnerConfig.model_validate(settings)
    except ValidationError as error:
        raise UsageError("a usable owner", got=first_problem(error), do="see --help") from error
    keys = _Keys(PrivateKey.generate(), ec.generate_private_key(ec.SECP384R1()))
    registration = Registration(
        owner=name, key=keys.protocol.public.text, node_key=_openssh(keys.node.public_key())
    )
    with whole_folder(folder) as new:
        keys.protocol.save(new / "key.pem", passphrase)
        _write_toml(new / "owner.toml", settings)
        make_memory(new / WITNESS)
        _write_node(new / "node", keys.node)
        write_envelope(new / REGISTRATION, registration.seal(keys.protocol))
    return registration


def _write_node(folder: Path, key: ec.EllipticCurvePrivateKey) -> None:
    folder.mkdir(mode=0o700)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    write_atomic(folder / "key", pem, mode=0o600)
    write_atomic(folder / "secret", secrets.token_hex(SECRET_BYTES).encode(), mode=0o600)


def _openssh(key: ec.EllipticCurvePublicKey) -> str:
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode("ascii")


def _write_toml(path: Path, settings: Mapping[str, str]) -> None:
    """Strings alone, whose JSON spelling is also TOML."""
    lines = (f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in settings.items())
    write_atomic(path, "".join(lines).encode())
