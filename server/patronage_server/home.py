"""The operator's folder: its key, the terms it offers, held-out pairs, the ledger's store, received adapters.

    operator.toml            where the base model is, device, precision
    key.pem                  its Ed25519 key (PKCS#8), mode 0600
    key-next.pem             the next one, while it takes its place
    manifest.json            the terms of the round, canonical bytes
    held-out.jsonl           the pairs on which coalitions are scored
    development.jsonl        public pairs that owners may measure on; perhaps none
    held-out.secret          32 bytes from which the salts of the held-out commitment follow, mode 0600
    slices/<owner>.json      held-out pairs that owners contributed, as they signed them, mode 0600
    ledger.sqlite            the store
    adapters/<owner>.safetensors
    candidates.jsonl         the answers on which rewards were scored, under the utility `reward`
    consortium-adapter/      the exported sum of all admitted adapters, a PEFT folder
    published/               the static ledger that everybody reads
    second-place/head        the head signed last, unless operator.toml names another disk

Of later rounds there are adapters-2/, candidates-2.jsonl and consortium-adapter-2/, and so on.
Nothing is written outside the folder.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeAlias

from pydantic import Field

from patronage_protocol.development import DEVELOPMENT
from patronage_protocol.errors import LocalProtocolError, UnavailableError
from patronage_protocol.files import read_bytes
from patronage_protocol.held_out import SECRET_BYTES, HeldOutSet, HeldOutSets
from patronage_protocol.joining import read_envelope
from patronage_protocol.key_files import KeyFile
from patronage_protocol.keys import PrivateKey
from patronage_protocol.ledger.store import Ledger
from patronage_protocol.manifest import Manifest
from patronage_protocol.pair_files import read_pairs
from patronage_protocol.passphrases import UNNAMED, Unlock
from patronage_protocol.settings import Settings, read_settings
from patronage_protocol.slices import Contribution
from patronage_server.follow import signing_key

__all__ = ["STORE", "Engine", "OperatorConfig", "OperatorHome", "adapter_file", "exported_folder"]

STORE = "ledger.sqlite"
MAX_MANIFEST = 16 * 2**20

Engine: TypeAlias = Literal["local", "ray"]
"""Where adapters are scored: in the operator's process, or by the workers of a Ray cluster."""


class OperatorConfig(Settings):
    """What stands in operator.toml.

    Attributes:
        base_model: hub id, folder, GGUF file or `tiny`.
        device: `auto` takes CUDA when there is one.
        threads: CPU threads for scoring; 0 leaves the choice to torch.
        cache: folder for de-quantised models, relative to the folder; empty for none.
        published: the folder of the published ledger, relative to the folder.
        exported: the folder of the exported adapter, relative to the folder.
        second_place: the file with the head that was signed last, relative to the folder; best on another
            disk, where a restored backup of the folder does not reach.
        ray_address: HOST:PORT of the Ray cluster that scores with `--engine ray`; empty starts one on this
            machine for as long as scoring lasts.
    """

    base_model: str
    device: str = "auto"
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    threads: int = Field(default=0, ge=0)
    cache: str = ""
    published: str = "published"
    exported: str = "consortium-adapter"
    second_place: str = "second-place/head"
    ray_address: str = ""


@dataclass(frozen=True)
class OperatorHome:
    """An operator's folder, read; its key once it is needed, so that who only looks needs no passphrase."""

    path: Path
    config: OperatorConfig
    key_file: KeyFile

    @classmethod
    def load(cls, path: Path, unlock: Unlock = UNNAMED) -> "OperatorHome":
        """Read operator.toml.

        Raises:
            UnavailableError: it is missing.
            DataError: it does not say what it must; names the field.
        """
        config = read_settings(path / "operator.toml", OperatorConfig)
        return cls(path, config, KeyFile(path / "key.pem", unlock))

    @cached_property
    def key(self) -> PrivateKey:
        """The key in place; a rotation that was cut short is finished.

        Raises:
            UnavailableError, UsageError, FormatError: it cannot be read; the passphrase is not the right one.
        """
        key, new = self.key_file.load(), self.key_file.next()
        if new is None or not self.store.exists() or signing_key(self.store) != new.public.text:
            return key
        self.key_file.promote(key)  # the rotation was recorded, and cut short before this
        return new

    def manifest(self) -> Manifest:
        """The terms of the round."""
        return Manifest.decode(read_bytes(self.path / "manifest.json", limit=MAX_MANIFEST))

    @property
    def held_out(self) -> Path:
        """The held-out pairs."""
        return self.path / "held-out.jsonl"

    @property
    def development(self) -> Path:
        """The public development pairs, if the operator has any."""
        return self.path / DEVELOPMENT

    def candidates(self, number: int) -> Path:
        """The candidates of a round, under the utility `reward`."""
        return self.path / f"candidates{_later(number)}.jsonl"

    @property
    def held_out_secret(self) -> bytes:
        """What salts the operator's held-out pairs, and its candidates.

        Raises:
            UnavailableError: it is missing.
        """
        return read_bytes(self.path / "held-out.secret", limit=SECRET_BYTES)

    def slice_file(self, owner: str) -> Path:
        """Where the slice that an owner contributed is kept."""
        return self.path / "slices" / f"{owner}.json"

    def held_out_sets(self, owners: Iterable[str]) -> HeldOutSets:
        """The operator's held-out pairs with what salts them, and the slices of these owners that are here.

        Whose signature a slice bears was checked when it came.

        Raises:
            UnavailableError, DataError, FormatError, VerificationError: a file is missing or unusable.
        """
        files = {owner: path for owner in owners if (path := self.slice_file(owner)).exists()}
        slices = {owner: Contribution.claimed(read_envelope(path)).held_out for owner, path in files.items()}
        return HeldOutSets(HeldOutSet(read_pairs(self.held_out).pairs, self.held_out_secret), slices)

    def committed_pairs(self, manifest: Manifest) -> HeldOutSets:
        """The held-out pairs of a round.

        Raises:
            LocalProtocolError: what is here are not the pairs to which the manifest commits.
            UnavailableError, DataError, FormatError, VerificationError: a file is missing or unusable.
        """
        found = self.held_out_sets(part.owner for part in manifest.slices.of)
        roots, committed = (
            ", ".join(one.root for one in sets)
            for sets in ((found.commitment, *found.slices), manifest.held_out_sets)
        )
        if roots != committed:
            raise LocalProtocolError(
                f"held-out pairs with the root {committed}",
                got=roots,
                do="restore held-out.jsonl, held-out.secret and slices/",
            )
        return found

    @property
    def store(self) -> Path:
        """The store of the ledger."""
        return self.path / STORE

    def open_ledger(self, origin: str) -> Ledger:
        """The ledger's store, made if it is not there. Close it, or use it as a context manager.

        Raises:
            UnavailableError, UsageError, FormatError, VerificationError: it cannot be opened; says why.
        """
        path = self.store
        guard = self.path / self.config.second_place
        if path.exists():
            return Ledger.open(path, self.key, guard=guard)
        _require_folder(guard.parent)
        return Ledger.create(path, origin, self.key, guard=guard)

    @property
    def published(self) -> Path:
        """The published ledger."""
        return self.path / self.config.published

    def exported(self, number: int) -> Path:
        """The exported adapter of a round."""
        return exported_folder(self.path, self.config, number)

    @property
    def cache(self) -> Path | None:
        """Where de-quantised models are kept, if anywhere."""
        return self.path / self.config.cache if self.config.cache else None

    def adapter(self, owner: str, number: int) -> Path:
        """Where the adapter of an owner in a round is kept."""
        return adapter_file(self.path, owner, number)


def adapter_file(folder: Path, owner: str, number: int) -> Path:
    """Where an operator's folder keeps the adapter of an owner in a round."""
    return folder / f"adapters{_later(number)}" / f"{owner}.safetensors"


def exported_folder(folder: Path, config: OperatorConfig, number: int) -> Path:
    """Where an operator's folder keeps the exported adapter of a round."""
    return folder / f"{config.exported}{_later(number)}"


def _later(number: int) -> str:
    """What is kept of round 2 and later has its number in its name."""
    return f"-{number}" if number > 1 else ""


def _require_folder(folder: Path) -> None:
    """A second place is made by a person, or when the operator is founded: a disk may not be mounted."""
    if not folder.is_dir():
        raise UnavailableError(
            f"a folder {folder} for the head signed last",
            got="none",
            do="mount the disk, or make the folder, or mend second_place in operator.toml",
        )
