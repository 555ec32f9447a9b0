"""Reading back what a round left: its terms, who was admitted, and their adapters over the base model.

The folder is that of `patronage simulate`, or an operator's. The published ledger is verified first, and each
adapter is the one whose digest is in it. No key is needed.
"""

from dataclasses import dataclass
from pathlib import Path

from patronage_protocol.adapters import Tensors, decode
from patronage_protocol.canonical import sha256
from patronage_protocol.errors import UnavailableError, UsageError
from patronage_protocol.files import read_bytes
from patronage_protocol.manifest import LoraTerms
from patronage_protocol.pair_files import read_pairs
from patronage_protocol.policy import check_same_base, shared_base_model, started
from patronage_protocol.preferences import ChatMessage
from patronage_protocol.rounds import Round
from patronage_protocol.settings import read_settings
from patronage_protocol.verify import verify_ledger
from patronage_server.composition import AdapterSet
from patronage_server.home import OperatorConfig, adapter_file
from patronage_server.starting import start_bytes

__all__ = ["RunFolder"]


@dataclass(frozen=True)
class RunFolder:
    """An operator's folder and the round in it that is meant.

    Attributes:
        path: the operator's folder.
        config: its operator.toml.
        state: the round, as the published ledger tells it.
    """

    path: Path
    config: OperatorConfig
    state: Round

    @classmethod
    def open(cls, folder: Path, *, round_number: int | None = None) -> "RunFolder":
        """The last round of `folder`, or the one of that number.

        Raises:
            UnavailableError: no such folder, or no published ledger in it.
            UsageError: no round of that number, or nobody was admitted to it.
            VerificationError, FormatError, RemoteProtocolError: the ledger does not hold.
        """
        path = folder / "operator" if (folder / "operator" / "operator.toml").is_file() else folder
        if not (path / "operator.toml").is_file():
            raise UnavailableError(
                f"the folder of a run, with operator/operator.toml in {folder}",
                got="none",
                do="name what was given to patronage simulate --out, or an operator's folder",
            )
        config = read_settings(path / "operator.toml", OperatorConfig)
        rounds = verify_ledger(path / config.published).rounds
        state = next((one for one in rounds if one.manifest.round == round_number), None)
        if round_number is None:
            state = rounds[-1]
        if state is None or not state.players:
            raise UsageError(
                "a round with players" if round_number is None else f"round {round_number} with players",
                got=f"{len(rounds)} rounds" if state is None else "one to which nobody was admitted",
                do="wait until the round has passed intake, or name another",
                where=str(folder),
            )
        return cls(path, config, state)

    @property
    def conversational(self) -> bool:
        """Whether the held-out pairs are conversations; False where they are plain text or not here."""
        held_out = self.path / "held-out.jsonl"
        return held_out.is_file() and not isinstance(read_pairs(held_out).pairs[0].prompt, str)

    def prompt(self, text: str) -> str | tuple[ChatMessage, ...]:
        """What the model is asked, in the form that the owners trained on."""
        return (ChatMessage(role="user", content=text),) if self.conversational else text

    def start(self) -> tuple[Tensors, LoraTerms] | None:
        """The adapter that the round started from, and its format; None where that is the base model.

        Raises:
            UnavailableError: it is not in the folder, or another one is.
        """
        manifest = self.state.manifest
        if manifest.start is None:
            return None
        data = start_bytes(self.path, self.config, manifest)
        lora = manifest.start.lora(manifest.lora)
        return decode(data, lora, max_bytes=len(data)), lora

    def adapters(self, *, device: str | None = None, cache: Path | None = None) -> AdapterSet:
        """The adapters of the round's players over what it starts from, with the sizes that the owners state.

        A later round starts from the base model with the consortium's adapter of an earlier one in place.

        Raises:
            UnavailableError, DataError: the base model or an adapter is not there, or is another one.
            LocalProtocolError: the base model is not that of the round.
        """
        manifest = self.state.manifest
        kept = self.path / self.config.cache if self.config.cache else None
        base = shared_base_model(
            self.config.base_model,
            precision=manifest.base_model.precision,
            device=device or self.config.device,
            cache=cache or kept,
        )
        if manifest.start is not None:
            check_same_base(manifest.base_model, base)
            base = started(base, manifest, start_bytes(self.path, self.config, manifest))
        tensors = {}
        for player in self.state.players:
            file = adapter_file(self.path, player, manifest.round)
            data = read_bytes(file, limit=manifest.intake.max_bytes)
            if sha256(data) != self.state.reveals[player].adapter:
                raise UnavailableError(
                    f"the adapter that {player} revealed", got="other bytes", do="restore it", where=str(file)
                )
            tensors[player] = decode(data, manifest.lora, max_bytes=manifest.intake.max_bytes)
        return AdapterSet(
            base,
            manifest.lora,
            tensors,
            sizes={player: self.state.reveals[player].pairs for player in self.state.players},
            trained_on=dict.fromkeys(tensors, base.terms() if manifest.start else manifest.base_model),
        )
