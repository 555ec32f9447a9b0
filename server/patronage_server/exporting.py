"""Export of a consortium's model: the adapters of some or all owners as one adapter, or as merged weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from patronage_protocol.adapters import Tensors
from patronage_protocol.errors import UsageError
from patronage_protocol.manifest import LoraTerms
from patronage_server.composition import AdapterSet, weighting
from patronage_server.export import concatenate, truncated, widened, write_adapter
from patronage_server.merged_weights import export_merged

__all__ = ["Export", "export_consortium"]


@dataclass(frozen=True)
class Export:
    """What was written.

    Attributes:
        path: the folder.
        owners: whose adapters are in it.
        rank: of the adapter, also where it was merged.
        energy: the part of the squared Frobenius norm of dW that the rank keeps; 1 where nothing was cut.
        worst: the least such part of a single module.
        rounding: merged weights alone: ||dW written - dW||^2 / ||dW||^2.
    """

    path: Path
    owners: tuple[str, ...]
    rank: int
    energy: float
    worst: float
    rounding: float | None

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        return {**vars(self), "path": str(self.path), "owners": list(self.owners)}

    def as_text(self) -> str:
        """For people."""
        what = "adapter" if self.rounding is None else "merged model"
        lines = [f"{what} of {', '.join(self.owners)}, rank {self.rank}: {self.path}"]
        if self.energy < 1.0:
            lines.append(f"energy of dW kept: {self.energy:.4%}, at least {self.worst:.4%} in every module")
        if self.rounding:
            lines.append(f"part of the energy of dW that rounding changed: {self.rounding:.2e}")
        return "\n".join(lines)


def export_consortium(
    adapters: AdapterSet,
    out: Path,
    *,
    merged: bool = False,
    rank: int | None = None,
    weights: str = "sum",
    owners: Sequence[str] | None = None,
    start: tuple[Tensors, LoraTerms] | None = None,
) -> Export:
    """Write one adapter (a PEFT folder), or the whole model with it merged in.

    Args:
        adapters: of all owners, over their base model.
        out: a new or empty folder.
        merged: the whole model.
        rank: cut to this rank by SVD; None keeps the exact sum.
        weights: `sum`, `mean` or `size`.
        owners: whose adapters; None is everybody's.
        start: the adapter that the round started from, which comes first in the sum; None for pi_0.

    Raises:
        UsageError: an owner that is not there, no owner, a rank that is no smaller one, or `out` holds
            something else.
        UnavailableError: the disk is full or not writable.
    """
    members = adapters.everybody() if owners is None else adapters.members(*owners)
    if not members.any():
        raise UsageError("at least one owner", got="none", do="name one, or leave the choice out")
    chosen = tuple(np.array(adapters.owners, dtype=object)[members])
    coefficients = weighting(weights, adapters)(members[None])[0][members]
    parts, factors = [adapters.adapters[owner] for owner in chosen], coefficients.tolist()
    lora, energy, worst = widened(adapters.lora, len(chosen)), 1.0, 1.0
    if start is not None:
        parts.insert(0, start[0])
        factors.insert(0, start[1].scaling / lora.scaling)
        full = lora.rank + start[1].rank
        lora = lora.model_copy(update={"rank": full, "alpha": adapters.lora.scaling * full})
    tensors = concatenate(parts, lora=adapters.lora, weights=factors)
    if rank is not None:
        cut = truncated(tensors, lora, rank)
        tensors, lora, energy, worst = cut.tensors, cut.lora, cut.energy, cut.worst
    rounding = None
    if merged:
        rounding = export_merged(adapters.base, tensors, lora, out)
    else:
        write_adapter(tensors, lora=lora, base_model=adapters.base.name, out=out)
    return Export(out, chosen, lora.rank, energy, worst, rounding)
