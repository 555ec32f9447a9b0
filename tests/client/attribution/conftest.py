"""A tiny problem: a handful of pairs, a random Llama, few steps."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from patronage_client.attribution.problem import Problem
from patronage_protocol.manifest import DpoTerms, LoraTerms
from patronage_protocol.policy import BaseModel, load_base_model, lora_groups
from patronage_protocol.preferences import PreferencePair

DPO = DpoTerms(
    beta=0.1,
    learning_rate=3e-3,
    epochs=2,
    batch_size=4,
    gradient_accumulation=1,
    warmup_steps=2,
    schedule="cosine",
    max_grad_norm=1.0,
    max_length=128,
    seed=3,
)


@pytest.fixture(scope="module", autouse=True)
def quick(one_thread: None) -> None:
    """Every test here is small."""


@pytest.fixture(scope="session")
def base() -> BaseModel:
    return load_base_model("tiny", device="cpu")


@pytest.fixture
def exact_base(base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> BaseModel:
    """The same weights in double precision throughout, for derivatives by finite differences."""

    def normalise(norm: Any, hidden: torch.Tensor) -> torch.Tensor:
        mean = hidden.square().mean(-1, keepdim=True)
        return norm.weight * hidden * torch.rsqrt(mean + norm.variance_epsilon)

    monkeypatch.setattr(LlamaRMSNorm, "forward", normalise)  # transformers' rounds to float32
    return replace(base, model=copy.deepcopy(base.model).double())


@pytest.fixture(scope="session")
def lora(base: BaseModel) -> LoraTerms:
    return LoraTerms(
        rank=4, alpha=8.0, init_seed=5, groups=lora_groups(base.model, ["q_proj", "v_proj", "up_proj"])
    )


def some_pairs(owner: str, count: int = 14) -> tuple[PreferencePair, ...]:
    return tuple(
        PreferencePair(
            prompt=f"{owner} asks {'again ' * (i % 3)}{i}: ",
            chosen="please " * (i % 4 + 1),
            rejected="no" * (i % 5 + 1),
        )
        for i in range(count)
    )


@pytest.fixture(name="some_pairs")
def some_pairs_fixture() -> Callable[..., tuple[PreferencePair, ...]]:
    return some_pairs


@pytest.fixture
def problem_of(base: BaseModel, lora: LoraTerms, tmp_path: Path) -> Callable[..., Problem]:
    """A problem with any field replaced; terms of DPO by their names."""

    def make(**changes: Any) -> Problem:
        terms = {name: changes.pop(name) for name in list(changes) if name in DpoTerms.model_fields}
        fields: dict[str, Any] = {
            "base": base,
            "lora": lora,
            "dpo": DPO.model_copy(update=terms),
            "pairs": some_pairs("alice"),
            "validation": some_pairs("dora", 5),
            "workdir": tmp_path,
        }
        return Problem(**{**fields, **changes})

    return make
