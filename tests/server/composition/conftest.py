from collections.abc import Callable

import numpy as np
import pytest
import torch

from patronage_protocol.manifest import LoraTerms
from patronage_protocol.policy import BaseModel, TokenizedPair, load_base_model, lora_groups, tokenize_pairs
from patronage_protocol.preferences import PreferencePair
from patronage_server.composition import AdapterSet

OWNERS = ("ann", "bob", "cyd", "dan")


@pytest.fixture(scope="session")
def base() -> BaseModel:
    torch.set_num_threads(1)
    return load_base_model("tiny", device="cpu", precision="float32")


@pytest.fixture(scope="session")
def pairs(base: BaseModel) -> tuple[TokenizedPair, ...]:
    texts = [
        PreferencePair(
            prompt=f"Question {i}: ", chosen="right " * (i % 5 + 1), rejected="wrong " * (6 - i % 5)
        )
        for i in range(10)
    ]
    return tokenize_pairs(base, texts, max_length=200)


@pytest.fixture(scope="session")
def lora(base: BaseModel) -> LoraTerms:
    return LoraTerms(rank=3, alpha=7.0, init_seed=0, groups=lora_groups(base.model, ["q_proj", "up_proj"]))


def random_adapter(lora: LoraTerms, seed: int, scale: float = 0.1) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    return {name: draw.normal(0, scale, shape).astype(np.float32) for name, shape in lora.shapes().items()}


@pytest.fixture(scope="session")
def adapters(base: BaseModel, lora: LoraTerms) -> AdapterSet:
    tensors = {owner: random_adapter(lora, seed) for seed, owner in enumerate(OWNERS)}
    return AdapterSet(base, lora, tensors, sizes={"ann": 10, "bob": 30, "cyd": 20, "dan": 5})


@pytest.fixture(name="random_adapter", scope="session")
def random_adapter_fixture() -> Callable[..., dict[str, np.ndarray]]:
    return random_adapter
