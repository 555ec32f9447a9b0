"""The consortium's adapter: one PEFT folder whose dW is the sum of the owners' dW.

    sum_i w_i s B_i A_i = s [w_1 B_1 ... w_n B_n] [A_1; ...; A_n]

The rank is n r and alpha is n alpha, so s stays alpha / r. With weights of one the owners' matrices are in
the file as they were sent. `adapter_config.json` is written here, from the terms of the round.

`truncated` cuts it to a smaller rank: the nearest to each dW in the Frobenius norm (Eckart and Young 1936),
with the part of the squared norm that it keeps. `merged_weights` writes the whole model instead.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from patronage_protocol.adapters import Tensors, encode
from patronage_protocol.errors import UsageError
from patronage_protocol.files import whole_folder, write_atomic
from patronage_protocol.manifest import LoraTerms

__all__ = ["Truncated", "concatenate", "export_adapter", "truncated", "widened", "write_adapter"]

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def export_adapter(
    adapters: Sequence[Tensors],
    *,
    lora: LoraTerms,
    base_model: str,
    out: Path,
    weights: Sequence[float] | None = None,
) -> Path:
    """Write the PEFT folder `out`, whole or not at all; writing the same one again changes nothing.

    Args:
        adapters: of the same terms, in any order that is to be kept.
        lora: those terms.
        base_model: how the config names the base model; PEFT does not need it to load the adapter.
        out: a new or empty folder.
        weights: one for each adapter; all one if left out.

    Returns:
        The file with the weights.

    Raises:
        UsageError: no adapters, another number of weights, or `out` holds something else.
        UnavailableError: the disk is full or not writable.
    """
    tensors = concatenate(adapters, lora=lora, weights=weights)
    return write_adapter(tensors, lora=widened(lora, len(adapters)), base_model=base_model, out=out)


def write_adapter(tensors: Tensors, *, lora: LoraTerms, base_model: str, out: Path) -> Path:
    """Write one adapter of the format `lora` as the PEFT folder `out`; arguments and errors as above."""
    files = {WEIGHTS: encode(tensors), CONFIG: _config(lora, base_model)}
    if not _holds(out, files):
        with whole_folder(out) as folder:
            for name, data in files.items():
                write_atomic(folder / name, data)
    return out / WEIGHTS


def concatenate(
    adapters: Sequence[Tensors], *, lora: LoraTerms, weights: Sequence[float] | None = None
) -> dict[str, np.ndarray]:
    """One adapter of rank n r and alpha n alpha whose dW is the weighted sum of those of `adapters`.

    Raises:
        UsageError: no adapters, or another number of weights.
    """
    factors = [1.0] * len(adapters) if weights is None else list(weights)
    if not adapters or len(factors) != len(adapters):
        raise UsageError(
            "at least one adapter, and one weight for each",
            got=f"{len(adapters)} adapters and {len(factors)} weights",
            do="check who was admitted to the round",
        )
    tensors: dict[str, np.ndarray] = {}
    for name in lora.shapes():
        if name.endswith("lora_A.weight"):
            tensors[name] = np.concatenate([adapter[name] for adapter in adapters], axis=0)
        else:
            weighted = [adapter[name] * np.float32(w) for adapter, w in zip(adapters, factors, strict=True)]
            tensors[name] = np.concatenate(weighted, axis=1)
    return tensors


def widened(lora: LoraTerms, count: int) -> LoraTerms:
    """The format of `count` adapters side by side: `count` times the rank, and the same alpha / rank."""
    return lora.model_copy(update={"rank": count * lora.rank, "alpha": count * lora.alpha})


@dataclass(frozen=True, eq=False)
class Truncated:
    """An adapter of a smaller rank.

    Attributes:
        tensors: its factors.
        lora: its format; alpha / rank is that of the adapter it was cut from.
        energy: the part of the squared Frobenius norm of dW that it keeps, over all modules.
        worst: the least such part of a single module.
    """

    tensors: dict[str, np.ndarray]
    lora: LoraTerms
    energy: float
    worst: float


def truncated(tensors: Tensors, lora: LoraTerms, rank: int) -> Truncated:
    """The nearest adapter of rank `rank`, module by module, in the Frobenius norm of dW.

    dW is never formed: with B = Q_b R_b and A^T = Q_a R_a, B A has the singular values of R_b R_a^T, as
    small as the rank. In double precision.

    Args:
        tensors: an adapter of the format `lora`.
        lora: that format.
        rank: below `lora.rank`.

    Raises:
        UsageError: a rank below one, or not below the present one.
    """
    if not 1 <= rank < lora.rank:
        raise UsageError(
            f"a rank from 1 to {lora.rank - 1}, below that of the adapter",
            got=f"{rank}",
            do=f"choose a smaller one, or leave it at {lora.rank}",
        )
    cut: dict[str, np.ndarray] = {}
    kept, total, worst = 0.0, 0.0, 1.0
    for module in lora.modules():
        a, b = (f"base_model.model.{module}.lora_{factor}.weight" for factor in "AB")
        left, right = (np.linalg.qr(matrix.astype(np.float64)) for matrix in (tensors[b], tensors[a].T))
        u, sigma, v = np.linalg.svd(left.R @ right.R.T)
        root = np.sqrt(sigma[:rank])
        cut[a] = (root[:, None] * (v[:rank] @ right.Q.T)).astype(np.float32)
        cut[b] = ((left.Q @ u[:, :rank]) * root).astype(np.float32)
        here, whole = float((sigma[:rank] ** 2).sum()), float((sigma**2).sum())
        kept, total = kept + here, total + whole
        worst = min(worst, here / whole if whole > 0 else 1.0)
    smaller = lora.model_copy(update={"rank": rank, "alpha": lora.scaling * rank})
    return Truncated(cut, smaller, kept / total if total > 0 else 1.0, worst)


def _config(lora: LoraTerms, base_model: str) -> bytes:
    config = {
        "base_model_name_or_path": base_model,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": lora.rank,
        "target_modules": list(lora.modules()),
        "task_type": "CAUSAL_LM",
        "use_rslora": False,
    }
    return json.dumps(config, indent=2, sort_keys=True).encode() + b"\n"


def _holds(folder: Path, files: dict[str, bytes]) -> bool:
    return all((folder / name).is_file() and (folder / name).read_bytes() == files[name] for name in files)
