"""Where a round starts: from the consortium's adapter of the last round that left one, or from pi_0."""

from collections.abc import Sequence
from pathlib import Path

from patronage_protocol.adapters import encoded_size
from patronage_protocol.canonical import sha256
from patronage_protocol.errors import UnavailableError, UsageError
from patronage_protocol.files import read_bytes
from patronage_protocol.manifest import LoraTerms, Manifest, StartTerms
from patronage_protocol.rounds import Round
from patronage_server.export import WEIGHTS
from patronage_server.home import OperatorConfig, exported_folder

__all__ = ["exported_lora", "next_start", "start_bytes"]


def next_start(history: Sequence[Round], lora: LoraTerms) -> StartTerms | None:
    """What a round after `history` starts from; None where no round left an adapter.

    Args:
        history: the rounds of the ledger so far.
        lora: the format of the adapters of the next round.

    Raises:
        UsageError: the next round would adapt other modules than the last adapter does.
    """
    last = next((state for state in reversed(history) if state.adapter is not None), None)
    if last is None or last.adapter is None:
        return None
    manifest = last.manifest
    if manifest.lora.groups != lora.groups:
        raise UsageError(
            f"the LoRA modules of round {manifest.round}, whose adapter is the start",
            got=f"{len(lora.modules())} others",
            do='keep target_modules, or set start = "base" in the terms',
        )
    exported = exported_lora(manifest, len(last.players))
    return StartTerms(round=manifest.round, adapter=last.adapter, rank=exported.rank, alpha=exported.alpha)


def exported_lora(manifest: Manifest, players: int) -> LoraTerms:
    """The format of the consortium's adapter: the players' side by side, after the start if there is one."""
    lora = manifest.lora
    rank = players * lora.rank + (manifest.start.rank if manifest.start else 0)
    return lora.model_copy(update={"rank": rank, "alpha": lora.alpha * rank / lora.rank})


def start_bytes(folder: Path, config: OperatorConfig, manifest: Manifest) -> bytes:
    """The adapter that the round starts from, from the operator's folder.

    Raises:
        UnavailableError: it is missing, or another one.
    """
    start = manifest.start
    assert start is not None, "the caller has looked"
    path = exported_folder(folder, config, start.round) / WEIGHTS
    data = read_bytes(path, limit=encoded_size(start.lora(manifest.lora)))
    if sha256(data) != start.adapter:
        raise UnavailableError(
            f"the consortium's adapter of round {start.round}",
            got="other bytes",
            do="restore it",
            where=str(path),
        )
    return data
