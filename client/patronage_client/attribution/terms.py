"""How the training would go whose pairs are valued: a round's manifest, a TOML file, or usual choices."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from patronage_protocol.canonical import strict_json
from patronage_protocol.envelopes import Envelope
from patronage_protocol.errors import DataError, FormatError
from patronage_protocol.files import read_bytes
from patronage_protocol.joining import INVITATION_TYPE, Invitation
from patronage_protocol.manifest import DpoTerms, LoraTerms, Manifest
from patronage_protocol.policy import BaseModel, check_same_base, lora_groups
from patronage_protocol.settings import Settings, read_settings

__all__ = ["TrainingChoice", "manifest_in", "training_terms"]

MAX_TERMS = 32 * 2**20


class LoraChoice(Settings):
    """Which modules get an adapter, and of what rank; dW = (alpha / rank) B A."""

    rank: int = Field(default=8, gt=0)
    alpha: float = Field(default=16.0, gt=0)
    target_modules: tuple[str, ...] = Field(default=("q_proj", "v_proj"), min_length=1)
    init_seed: int = 0


class DpoChoice(Settings):
    """The fields of `DpoTerms`, each with a usual value."""

    beta: float = Field(default=0.1, gt=0)
    learning_rate: float = Field(default=5e-4, gt=0)
    epochs: int = Field(default=1, gt=0)
    batch_size: int = Field(default=4, gt=0)
    gradient_accumulation: int = Field(default=1, gt=0)
    warmup_steps: int = Field(default=4, ge=0)
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    max_grad_norm: float = Field(default=1.0, gt=0)
    max_length: int = Field(default=512, gt=0)
    seed: int = 0


class TrainingChoice(Settings):
    """What a TOML file may say: the tables [lora] and [dpo], as in an operator's terms."""

    lora: LoraChoice = LoraChoice()
    dpo: DpoChoice = DpoChoice()


def training_terms(path: Path | None, base: BaseModel) -> tuple[LoraTerms, DpoTerms]:
    """The terms in `path`, or usual ones.

    Args:
        path: `manifest.json` of a round, an invitation, or a `.toml` file with [lora] and [dpo].
        base: the base model; must be the manifest's, if there is one.

    Raises:
        UnavailableError: it cannot be read.
        DataError: it holds something else.
        LocalProtocolError: the manifest is of another base model.
        UsageError: LoRA targets that the model does not have.
    """
    manifest = manifest_in(path)
    if manifest is not None:
        check_same_base(manifest.base_model, base)
        return manifest.lora, manifest.dpo
    choice = TrainingChoice() if path is None else read_settings(path, TrainingChoice)
    lora = LoraTerms(
        rank=choice.lora.rank,
        alpha=choice.lora.alpha,
        init_seed=choice.lora.init_seed,
        groups=lora_groups(base.model, choice.lora.target_modules),
    )
    return lora, DpoTerms.model_validate(choice.dpo.model_dump())


def manifest_in(path: Path | None) -> Manifest | None:
    """The manifest of a round, from its own file or from an invitation; None of a TOML file, or of none.

    Raises:
        UnavailableError: it cannot be read.
        DataError: it holds something else.
    """
    if path is None or path.suffix == ".toml":
        return None
    data = read_bytes(path, limit=MAX_TERMS)
    try:
        value = strict_json(data, what="the terms")
        if isinstance(value, dict) and value.get("payloadType") == INVITATION_TYPE:
            return Invitation.decode(Envelope.decode(data).unverified_payload).manifest
        return Manifest.decode(data)
    except FormatError as error:
        raise DataError(
            "a manifest, an invitation, or a .toml file with [lora] and [dpo]",
            got=error.got,
            do="name another with --terms",
            where=str(path),
        ) from error
