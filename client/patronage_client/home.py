"""The owner's folder: its configuration, key, pairs, and what it keeps of each round.

    owner.toml              who the owner is, what it trains on, whom it trusts
    key.pem                 its Ed25519 key (PKCS#8), mode 0600
    key-next.pem            the key that takes its place once the operator has recorded the rotation
    operator-keys.json      how the operator's key changed since the one in owner.toml, in its own words
    privacy.toml            the differential privacy that was asked for in `owner join`, if any
    slice.json              held-out pairs that it contributes, as it hands them to the operator, mode 0600
    accepted/<digest>       one empty file for each manifest that the owner has accepted
    witness.sqlite          the last head of the ledger that it cosigned; lost, it takes a new key
    rounds/<name>-<number>/ manifest.json, adapter.safetensors, training/ (checkpoints), receipt.tlog-proof
    node/                   what its SuperNode needs; see `node`

Nothing is written outside the folder.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import Field

from patronage_client.operator_keys import OperatorKeys
from patronage_client.privacy import PrivacyChoice
from patronage_protocol.canonical import Digest, Name
from patronage_protocol.errors import RemoteProtocolError, UnavailableError
from patronage_protocol.files import write_atomic
from patronage_protocol.key_files import KeyFile
from patronage_protocol.keys import PrivateKey, PublicKey
from patronage_protocol.manifest import PublicKeyText
from patronage_protocol.passphrases import UNNAMED, Unlock
from patronage_protocol.settings import Settings, read_settings

__all__ = ["PRIVACY", "WITNESS", "OwnerConfig", "OwnerHome", "PrivacySettings"]

WITNESS = "witness.sqlite"

PRIVACY = "privacy.toml"

OPERATOR_KEYS = "operator-keys.json"


class PrivacySettings(Settings):
    """The guarantee that the owner asks for, and the norm to which the gradient of a pair is cut."""

    epsilon: float = Field(gt=0)
    delta: float = Field(gt=0, lt=1)
    clip: float = Field(default=1.0, gt=0)


class OwnerConfig(Settings):
    """What stands in owner.toml.

    Attributes:
        name: the owner's name in the consortium.
        data: its pairs; a path, relative to the folder.
        base_model: hub id, folder, GGUF file or `tiny`.
        operator_key: the one operator whose word it takes, base64: the key that it had when this owner began.
        accept: digest of the only manifest it accepts; `any` to accept whatever its base model fits; `asked`
            to accept what it said yes to in `patronage owner join`.
        audit: how many held-out pairs it asks to see after a round; as many as the terms allow if left out.
        on_bad_row: what an unusable row does.
        precision: of the base model; must be the manifest's unless `auto`.
        device: `auto` takes CUDA when there is one.
        threads: CPU threads for training; 0 leaves the choice to torch.
        cache: folder for de-quantised models, relative to the folder; empty for none.
        privacy: train with differential privacy, as docs/privacy.md has it; `privacy.toml` goes before it.
    """

    name: Name
    data: str
    base_model: str
    operator_key: PublicKeyText
    accept: Digest | Literal["any", "asked"] = "asked"
    audit: int | None = Field(default=None, ge=0)
    on_bad_row: Literal["stop", "skip"] = "stop"
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    device: str = "auto"
    threads: int = Field(default=0, ge=0)
    cache: str = ""
    privacy: PrivacySettings | None = None


@dataclass(frozen=True)
class OwnerHome:
    """An owner's folder, read; its key once it is needed, so that who only looks needs no passphrase."""

    path: Path
    config: OwnerConfig
    key_file: KeyFile

    @classmethod
    def load(cls, path: Path, unlock: Unlock = UNNAMED) -> "OwnerHome":
        """Read owner.toml.

        Raises:
            UnavailableError: it is missing.
            DataError: it does not say what it must; names the field.
        """
        config = read_settings(path / "owner.toml", OwnerConfig)
        return cls(path, config, KeyFile(path / "key.pem", unlock))

    @cached_property
    def key(self) -> PrivateKey:
        """The key in place.

        Raises:
            UnavailableError, UsageError, FormatError: it cannot be read; the passphrase is not the right one.
        """
        return self.key_file.load()

    def holds(self, key: str) -> bool:
        """Whether this public key is of the key in place, or of the next one."""
        new = self.key_file.next()
        return key == self.key.public.text or (new is not None and key == new.public.text)

    def with_key(self, key: str) -> "OwnerHome":
        """This folder with the key that the operator names: its own, or the next one, which takes its place.

        Raises:
            RemoteProtocolError: the operator names a key that is not here.
            UnavailableError, UsageError, FormatError: the next key cannot be read or put in place.
        """
        if key == self.key.public.text:
            return self
        if not self.holds(key):
            raise RemoteProtocolError(
                f"the owner {self.config.name} with the key {self.key.public.text}",
                got=f"the key {key}",
                do="register the public key with the operator",
                where="open §owners",
            )
        self.key_file.promote(self.key)
        return replace(self)

    @property
    def operator(self) -> OperatorKeys:
        """The operator's key, and its successors."""
        return OperatorKeys(self.path / OPERATOR_KEYS, PublicKey.from_base64(self.config.operator_key))

    @property
    def data(self) -> Path:
        """Where the pairs are."""
        return self.path / self.config.data

    @property
    def cache(self) -> Path | None:
        """Where de-quantised models are kept, if anywhere."""
        return self.path / self.config.cache if self.config.cache else None

    @property
    def witness(self) -> Path:
        """The memory of the owner as a witness."""
        return self.path / WITNESS

    @property
    def slice(self) -> Path:
        """The held-out pairs that the owner contributes, if it does."""
        return self.path / "slice.json"

    @property
    def privacy(self) -> PrivacyChoice | None:
        """The differential privacy that the owner asks for, if any.

        Raises:
            DataError: privacy.toml does not say what it must.
        """
        path = self.path / PRIVACY
        settings = read_settings(path, PrivacySettings) if path.exists() else self.config.privacy
        return None if settings is None else PrivacyChoice(**settings.model_dump())

    def ask_for_privacy(self, epsilon: float, delta: float) -> None:
        """Train with differential privacy from now on.

        Raises:
            UnavailableError: it cannot be written.
        """
        write_atomic(self.path / PRIVACY, f"epsilon = {epsilon!r}\ndelta = {delta!r}\n".encode())

    def accepts(self, manifest: str) -> bool:
        """Whether the owner has agreed to the manifest of this digest."""
        return self.config.accept in ("any", manifest) or (self.path / "accepted" / manifest).exists()

    def accept(self, manifest: str) -> None:
        """Remember that the owner agreed to the manifest of this digest.

        Raises:
            UnavailableError: it cannot be written.
        """
        folder = self.path / "accepted"
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise UnavailableError(
                f"a folder {folder}", got=error.strerror or str(error), do="make room or mend permissions"
            ) from error
        write_atomic(folder / manifest, b"")

    def round_folder(self, consortium: str, number: int) -> Path:
        """The folder of one round, made if need be.

        Raises:
            UnavailableError: it cannot be made.
        """
        folder = self.path / "rounds" / f"{consortium}-{number}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UnavailableError(
                f"a folder {folder}", got=error.strerror or str(error), do="make room or mend permissions"
            ) from error
        return folder
