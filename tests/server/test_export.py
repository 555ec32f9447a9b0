import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel

from patronage_protocol import files
from patronage_protocol.errors import UnavailableError, UsageError
from patronage_protocol.manifest import LoraTerms
from patronage_protocol.policy import BaseModel, load_base_model, lora_groups
from patronage_server.export import concatenate, export_adapter

# peft 0.21 reads a property of transformers 5.23 by its old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture(scope="module")
def base() -> BaseModel:
    torch.set_num_threads(1)
    return load_base_model("tiny", device="cpu")


@pytest.fixture(scope="module")
def lora(base: BaseModel) -> LoraTerms:
    groups = lora_groups(base.model, ["q_proj", "v_proj", "down_proj"])
    return LoraTerms(rank=3, alpha=7.0, init_seed=0, groups=groups)


@pytest.fixture(scope="module")
def adapters(lora: LoraTerms) -> list[dict[str, np.ndarray]]:
    generator = np.random.default_rng(0)
    return [
        {name: generator.normal(0, 0.1, shape).astype(np.float32) for name, shape in lora.shapes().items()}
        for _ in range(4)
    ]


def summed_model_logits(
    lora: LoraTerms, adapters: list[dict[str, np.ndarray]], weights: list[float], ids: torch.Tensor
) -> torch.Tensor:
    """Logits of a fresh model to whose weights each owner's dW is added in turn: the definition."""
    model = load_base_model("tiny", device="cpu").model
    for tensors, weight in zip(adapters, weights, strict=True):
        for module in lora.modules():
            a, b = (torch.tensor(tensors[f"base_model.model.{module}.lora_{x}.weight"]) for x in "AB")
            model.get_submodule(module).weight += weight * lora.scaling * b @ a
    with torch.no_grad():
        return model(input_ids=ids).logits


@pytest.mark.parametrize("weights", [None, [0.5, -1.0, 2.0, 0.1]])
def test_peft_loads_the_folder_and_its_logits_are_those_of_the_sum(
    lora: LoraTerms, adapters: list[dict[str, np.ndarray]], tmp_path: Path, weights: list[float] | None
) -> None:
    export_adapter(adapters, lora=lora, base_model="tiny", out=tmp_path / "out", weights=weights)
    model = load_base_model("tiny", device="cpu").model
    ids = torch.arange(5, 60)[None]
    with torch.no_grad():
        before = model(input_ids=ids).logits
        loaded = PeftModel.from_pretrained(model, tmp_path / "out").eval()
        exported = loaded(input_ids=ids).logits
    expected = summed_model_logits(lora, adapters, weights or [1.0] * 4, ids)
    torch.testing.assert_close(exported, expected, rtol=1e-4, atol=1e-4)
    assert (exported - before).abs().max() > 0.1


def test_the_factors_of_the_owners_are_in_the_file_as_they_were_sent(
    lora: LoraTerms, adapters: list[dict[str, np.ndarray]]
) -> None:
    whole = concatenate(adapters, lora=lora)
    for index, adapter in enumerate(adapters):
        own = slice(index * lora.rank, (index + 1) * lora.rank)
        for name, tensor in adapter.items():
            part = whole[name][own] if name.endswith("lora_A.weight") else whole[name][:, own]
            assert part.tobytes() == tensor.tobytes()


def test_the_scaling_is_that_of_the_round(
    lora: LoraTerms, adapters: list[dict[str, np.ndarray]], tmp_path: Path
) -> None:
    export_adapter(adapters, lora=lora, base_model="tiny", out=tmp_path / "out")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_bytes())
    assert config["r"] == 4 * lora.rank
    assert config["lora_alpha"] / config["r"] == lora.scaling


def test_exporting_again_changes_nothing_and_another_folder_is_not_overwritten(
    lora: LoraTerms, adapters: list[dict[str, np.ndarray]], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    weights = export_adapter(adapters, lora=lora, base_model="tiny", out=out)
    stamp = weights.stat().st_mtime_ns
    assert export_adapter(adapters, lora=lora, base_model="tiny", out=out) == weights
    assert weights.stat().st_mtime_ns == stamp
    with pytest.raises(UsageError, match="with files in it"):
        export_adapter(adapters[:2], lora=lora, base_model="tiny", out=out)
    assert weights.stat().st_mtime_ns == stamp


def test_a_full_disk_leaves_no_half_folder(
    lora: LoraTerms, adapters: list[dict[str, np.ndarray]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(UnavailableError, match="No space left"):
        export_adapter(adapters, lora=lora, base_model="tiny", out=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("count", "weights"), [(0, None), (4, [1.0])])
def test_no_adapters_or_too_few_weights_are_refused(
    lora: LoraTerms,
    adapters: list[dict[str, np.ndarray]],
    tmp_path: Path,
    count: int,
    weights: list[float] | None,
) -> None:
    with pytest.raises(UsageError, match="one weight for each"):
        export_adapter(adapters[:count], lora=lora, base_model="tiny", out=tmp_path / "out", weights=weights)
