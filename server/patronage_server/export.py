"""The consortium's adapter: one PEFT folder whose dW is the sum of the owners' dW.

    sum_i w_i s B_i A_i = s [w_1 B_1 ... w_n B_n] [A_1; ...; A_n]

The rank is n r and alpha is n alpha, so s stays alpha / r. With weights of one the owners' matrices are in
the file as they were sent. `adapter_config.json` is written here, from the terms of the round.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from patronage_protocol.adapters import Tensors, encode
from patronage_protocol.errors import UsageError
from patronage_protocol.files import whole_folder, write_atomic
from patronage_protocol.manifest import LoraTerms

__all__ = ["concatenate", "export_adapter"]

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
    files = {WEIGHTS: encode(tensors), CONFIG: _config(lora, len(adapters), base_model)}
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


def _config(lora: LoraTerms, count: int, base_model: str) -> bytes:
    config = {
        "base_model_name_or_path": base_model,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "lora_alpha": count * lora.alpha,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": count * lora.rank,
        "target_modules": list(lora.modules()),
        "task_type": "CAUSAL_LM",
        "use_rslora": False,
    }
    return json.dumps(config, indent=2, sort_keys=True).encode() + b"\n"


def _holds(folder: Path, files: dict[str, bytes]) -> bool:
    return all((folder / name).is_file() and (folder / name).read_bytes() == files[name] for name in files)
