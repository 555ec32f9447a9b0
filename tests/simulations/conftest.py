"""A small consortium on the tiny model whose adapters are there already: a whole round takes a moment."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from patronage_protocol.adapters import Tensors, encode
from patronage_protocol.manifest import LoraTerms, Manifest
from patronage_protocol.policy import shared_base_model
from patronage_protocol.preferences import PreferencePair
from patronage_protocol.settings import read_settings
from patronage_server.terms import RoundTerms
from patronage_simulations.cli import DEFAULT_TERMS
from patronage_simulations.consortium import Consortium, Plan, found
from patronage_simulations.engines import SimulatedClock


def pair(number: int, who: str) -> PreferencePair:
    return PreferencePair(
        prompt=f"Say {number}, {who}",
        chosen=f"yes {number}",
        rejected=f"no {number}",
        source=f"s{number % 2}",
    )


@pytest.fixture(scope="session")
def terms() -> RoundTerms:
    return read_settings(DEFAULT_TERMS, RoundTerms)


@pytest.fixture
def plan_of(terms: RoundTerms) -> Callable[..., Plan]:
    def make(*owners: str, **changes: Any) -> Plan:
        fields: dict[str, Any] = {
            "name": "orchard",
            "seed": 7,
            "base_model": "tiny",
            "terms": terms,
            "owners": {owner: tuple(pair(k, owner) for k in range(3)) for owner in owners},
            "held_out": tuple(pair(k, "held out") for k in range(6)),
            "precision": "float32",
            "threads": 1,
        }
        return Plan(**{**fields, **changes})

    return make


def adapter(manifest: Manifest, seed: int, scale: float = 0.05) -> dict[str, np.ndarray]:
    """A random adapter of the manifest's format."""
    stream = np.random.default_rng(seed)
    shapes = manifest.lora.shapes().items()
    return {name: (scale * stream.standard_normal(shape)).astype(np.float32) for name, shape in shapes}


def rotated(tensors: Tensors, lora: LoraTerms, seed: int) -> dict[str, np.ndarray]:
    """The same dW from other factors: (B R)(R^-1 A)."""
    basis = np.linalg.qr(np.random.default_rng(seed).standard_normal((lora.rank, lora.rank)))[0]
    turned = {
        name: basis.T @ tensor if name.endswith("lora_A.weight") else tensor @ basis
        for name, tensor in tensors.items()
    }
    return {name: tensor.astype(np.float32) for name, tensor in turned.items()}


@pytest.fixture(name="adapter")
def adapter_fixture() -> Callable[..., dict[str, np.ndarray]]:
    return adapter


@pytest.fixture(name="rotated")
def rotated_fixture() -> Callable[..., dict[str, np.ndarray]]:
    return rotated


@pytest.fixture
def trained(tmp_path: Path, plan_of: Callable[..., Plan]) -> Callable[..., Consortium]:
    """A founded consortium whose owners find these adapter bytes in their folders instead of training."""

    def make(adapters: dict[str, bytes | int], **changes: Any) -> Consortium:
        plan = plan_of(*adapters, **changes)
        base = shared_base_model("tiny", precision="float32")
        consortium = found(tmp_path / "run", plan, base, now=SimulatedClock().now())
        for owner, made in adapters.items():
            data = encode(adapter(consortium.manifest, made)) if isinstance(made, int) else made
            folder = consortium.folder / "owners" / owner / "rounds" / "orchard-1"
            folder.mkdir(parents=True)
            (folder / "training.json").write_bytes(b'{"pairs":3,"privacy":null}')
            (folder / "adapter.safetensors").write_bytes(data)
        return consortium

    return make
