import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from patronage_protocol import adapters
from patronage_protocol.errors import FormatError
from patronage_protocol.manifest import LoraGroup, LoraTerms

LORA = LoraTerms(
    rank=3,
    alpha=6.0,
    init_seed=7,
    groups=(
        LoraGroup(
            module="model.layers.{}.self_attn.q_proj", layers=(0, 1, 10), in_features=5, out_features=4
        ),
        LoraGroup(module="model.layers.{}.mlp.down_proj", layers=(0, 1), in_features=8, out_features=5),
    ),
)
LIMIT = 10**6


def random_adapter(seed: int, lora: LoraTerms = LORA) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {name: generator.normal(size=shape).astype(np.float32) for name, shape in lora.shapes().items()}


def full_update(tensors: dict[str, np.ndarray], lora: LoraTerms = LORA) -> np.ndarray:
    """dW of all modules as one long vector: the definition, without the rank x rank shortcut."""
    parts = []
    for module in lora.modules():
        a, b = (tensors[f"base_model.model.{module}.lora_{x}.weight"].astype(np.float64) for x in "AB")
        parts.append((lora.scaling * b @ a).ravel())
    return np.concatenate(parts)


def rotated(tensors: dict[str, np.ndarray], lora: LoraTerms = LORA) -> dict[str, np.ndarray]:
    """The same dW from other factors: B R and R^T A with orthogonal R."""
    result = dict(tensors)
    generator = np.random.default_rng(5)
    for module in lora.modules():
        rotation = np.linalg.qr(generator.normal(size=(lora.rank, lora.rank)))[0]
        a, b = (f"base_model.model.{module}.lora_{x}.weight" for x in "AB")
        result[a] = (rotation.T @ tensors[a]).astype(np.float32)
        result[b] = (tensors[b] @ rotation).astype(np.float32)
    return result


def with_header(header: dict[str, object] | str, body: bytes) -> bytes:
    text = (header if isinstance(header, str) else json.dumps(header, separators=(",", ":"))).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + body


def parts(data: bytes) -> tuple[dict[str, dict[str, object]], bytes]:
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), rank=st.integers(1, 5))
def test_an_adapter_comes_back_as_it_was_sent(seed: int, rank: int) -> None:
    lora = LORA.model_copy(update={"rank": rank})
    sent = random_adapter(seed, lora)
    data = adapters.encode(sent)
    received = adapters.decode(data, lora, max_bytes=LIMIT)
    assert list(received) == sorted(sent)
    assert all(np.array_equal(received[name], sent[name]) for name in sent)
    assert adapters.encode(received) == data
    assert len(data) == adapters.encoded_size(lora)


def test_the_bytes_are_those_that_the_safetensors_library_writes_and_reads() -> None:
    tensors = random_adapter(1)
    data = adapters.encode(dict(reversed(tensors.items())))
    assert data == save_safetensors(tensors)
    assert all(np.array_equal(value, tensors[name]) for name, value in load_safetensors(data).items())


def test_received_tensors_cannot_be_written_to() -> None:
    tensors = adapters.decode(adapters.encode(random_adapter(1)), LORA, max_bytes=LIMIT)
    with pytest.raises(ValueError, match="read-only"):
        next(iter(tensors.values()))[0, 0] = 1.0


def refused(data: bytes, *, max_bytes: int = LIMIT) -> str:
    with pytest.raises(FormatError) as caught:
        adapters.decode(data, LORA, max_bytes=max_bytes)
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) < 400
    return line


def test_every_single_bit_of_the_header_matters() -> None:
    data = adapters.encode(random_adapter(1))
    end = 8 + int.from_bytes(data[:8], "little")
    for position in range(end):
        refused(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])


def test_too_many_bytes_are_refused_before_they_are_read() -> None:
    assert "at most 100 bytes" in refused(b"\xff" * 101, max_bytes=100)


@pytest.mark.parametrize("size", [0, 7, 8, 200])
def test_a_cut_off_adapter_is_refused(size: int) -> None:
    assert "header" in refused(adapters.encode(random_adapter(1))[:size])


def test_missing_and_additional_data_are_refused() -> None:
    data = adapters.encode(random_adapter(1))
    assert f"of {len(data)} bytes" in refused(data[:-4])
    assert f"of {len(data)} bytes" in refused(data + b"\0")


def test_a_header_longer_than_the_file_is_refused() -> None:
    assert "announce" in refused((2**63).to_bytes(8, "little") + b"{}" + bytes(100))


def test_a_huge_header_is_refused_unparsed() -> None:
    size = adapters.MAX_HEADER + 8
    assert f"one of {size}" in refused(size.to_bytes(8, "little") + b"[" * size, max_bytes=2 * size)


def test_a_deeply_nested_header_is_refused() -> None:
    assert "strict JSON" in refused(with_header("[" * 100_000, b""))


def test_a_duplicate_key_is_refused() -> None:
    header, body = parts(adapters.encode(random_adapter(1)))
    name = next(iter(header))
    text = json.dumps(header, separators=(",", ":"))
    doubled = f'{{"{name}":{json.dumps(header[name], separators=(",", ":"))},{text[1:]}'
    assert "twice" in refused(with_header(doubled, body))


def test_an_extra_key_is_refused() -> None:
    tensors = random_adapter(1) | {"x" * 500: np.zeros((1, 1), dtype=np.float32)}
    assert "extra key" in refused(adapters.encode(tensors))


def test_metadata_is_refused() -> None:
    assert "'__metadata__'" in refused(save_safetensors(random_adapter(1), metadata={"format": "pt"}))


def test_a_missing_tensor_is_refused() -> None:
    tensors = random_adapter(1)
    name, _ = tensors.popitem()
    assert f"none named {name}" in refused(adapters.encode(tensors))


def test_a_wrong_shape_is_refused() -> None:
    tensors = random_adapter(1)
    name = next(iter(tensors))
    tensors[name] = tensors[name].T.copy()
    assert "expected shape [3, 8]" in refused(adapters.encode(tensors))


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int32])
def test_a_wrong_dtype_is_refused(dtype: type) -> None:
    tensors = {name: tensor.astype(dtype) for name, tensor in random_adapter(1).items()}
    assert "dtype F32" in refused(save_safetensors(tensors))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_on_both_sides(value: float) -> None:
    tensors = random_adapter(1)
    name = list(tensors)[3]
    tensors[name][0, 0] = value
    assert name in refused(save_safetensors(tensors))
    with pytest.raises(FormatError, match="finite"):
        adapters.encode(tensors)


def test_only_float32_matrices_are_encoded() -> None:
    for tensor in (np.zeros((2, 2)), np.zeros(2, dtype=np.float32)):
        with pytest.raises(FormatError, match="float32 matrices"):
            adapters.encode({"a": tensor})


@pytest.mark.parametrize("entry", [None, [], {"dtype": "F32"}])
def test_a_header_with_entries_of_another_kind_is_refused(entry: object) -> None:
    header, body = parts(adapters.encode(random_adapter(1)))
    header[next(iter(header))] = entry  # type: ignore[assignment]
    refused(with_header(header, body))


def test_norms_and_inner_products_are_those_of_the_full_update() -> None:
    left, right = random_adapter(1), random_adapter(2)
    assert adapters.norm(left, LORA) == pytest.approx(np.linalg.norm(full_update(left)), rel=1e-12)
    expected = float(full_update(left) @ full_update(right))
    assert adapters.inner(left, right, LORA) == pytest.approx(expected, rel=1e-10)
    assert adapters.inner(left, right, LORA) == pytest.approx(adapters.inner(right, left, LORA), rel=1e-12)


def test_rotated_factors_hide_a_copy_from_the_factor_cosine_but_not_from_that_of_the_update() -> None:
    original = random_adapter(1)
    copy = rotated(original)
    flat = [np.concatenate([t.ravel() for t in adapter.values()]) for adapter in (original, copy)]
    factor_cosine = float(flat[0] @ flat[1] / np.linalg.norm(flat[0]) / np.linalg.norm(flat[1]))
    assert abs(factor_cosine) < 0.7
    assert adapters.cosine(original, copy, LORA) == pytest.approx(1.0, abs=1e-6)
    assert adapters.norm(copy, LORA) == pytest.approx(adapters.norm(original, LORA), rel=1e-6)


def test_the_cosine_with_an_adapter_that_changes_nothing_is_zero() -> None:
    assert adapters.cosine(adapters.initial(LORA), random_adapter(1), LORA) == 0.0


def test_all_owners_start_from_the_same_bytes() -> None:
    start = adapters.initial(LORA)
    assert adapters.encode(start) == adapters.encode(adapters.initial(LORA))
    other = adapters.initial(LORA.model_copy(update={"init_seed": 8}))
    assert adapters.encode(start) != adapters.encode(other)
    assert adapters.norm(start, LORA) == 0.0
    wide = LoraTerms(
        rank=64,
        alpha=1.0,
        init_seed=-3,
        groups=(LoraGroup(module="m", layers=(), in_features=400, out_features=2),),
    )
    values = adapters.initial(wide)["base_model.model.m.lora_A.weight"]
    assert np.abs(values).max() <= 1 / 20
    assert values.std() == pytest.approx(1 / 20 / np.sqrt(3), rel=0.02)
