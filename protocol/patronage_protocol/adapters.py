"""LoRA adapters as bytes and as matrices: one encoding for one adapter, read back strictly.

An adapter travels as a safetensors file (https://huggingface.co/docs/safetensors#format) with nothing left
open: float32, tensors in the order of their names and without gaps, a compact header padded with spaces to
eight bytes, no `__metadata__`. Names and shapes follow from the terms of the round, so the header does too;
`decode` compares it and parses it only to say what is wrong with it.

What is compared between owners is dW = (alpha / rank) B A, never the factors: (B R)(R^-1 A) is the same dW
for any invertible R, so a copy with rotated factors has another factor cosine and the same dW cosine. Traces
are taken over rank x rank matrices; dW itself is never formed.

Not here: whether an adapter is any good, and PEFT's own files (a peer's `adapter_config.json` is never read).
"""

import json
import math
from collections.abc import Iterator, Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from patronage_protocol.canonical import strict_json
from patronage_protocol.errors import FormatError
from patronage_protocol.manifest import LoraTerms

__all__ = ["Tensors", "cosine", "decode", "encode", "encoded_size", "initial", "inner", "norm"]

Tensors: TypeAlias = Mapping[str, NDArray[np.float32]]
"""The matrices of one adapter by name; A is (rank, in_features), B is (out_features, rank)."""

MAX_HEADER = 4 * 2**20
"""A longer header is not looked at; that of a 100-layer model with seven modules a layer is a third of it."""

_LENGTH = 8
_FLOAT32 = np.dtype("<f4")


def encode(tensors: Tensors) -> bytes:
    """The canonical bytes of an adapter.

    Raises:
        FormatError: a tensor is not float32, not a matrix, or not finite.
    """
    for name, tensor in tensors.items():
        if tensor.dtype != np.float32 or tensor.ndim != 2:
            raise _refusal("float32 matrices", f"{_short(name)} as {tensor.dtype} of shape {tensor.shape}")
        if not np.isfinite(tensor).all():
            raise _refusal("finite values", f"NaN or infinity in {_short(name)}")
    names = sorted(tensors)
    header = _header({name: tensors[name].shape for name in names})
    return header + b"".join(tensors[name].astype(_FLOAT32, copy=False).tobytes() for name in names)


def decode(data: bytes, lora: LoraTerms, *, max_bytes: int) -> dict[str, NDArray[np.float32]]:
    """The tensors of an adapter that came from elsewhere, sorted by name; the arrays are read-only.

    Args:
        data: the bytes as they came.
        lora: the terms that fix names and shapes.
        max_bytes: the largest size that is looked at.

    Raises:
        FormatError: `data` is anything but the canonical bytes of an adapter of these terms.
    """
    if len(data) > max_bytes:
        raise _refusal(f"an adapter of at most {max_bytes} bytes", f"{len(data)} bytes")
    shapes = lora.shapes()
    header = _header(shapes)
    if not data.startswith(header):
        raise _refusal(*next(_problems(data, shapes)))
    if len(data) != encoded_size(lora):
        raise _refusal(f"an adapter of {encoded_size(lora)} bytes", f"{len(data)} bytes")
    values = np.frombuffer(data, dtype=_FLOAT32, offset=len(header)).astype(np.float32, copy=False)
    values.flags.writeable = False
    tensors: dict[str, NDArray[np.float32]] = {}
    start = 0
    for name, shape in shapes.items():
        tensors[name] = values[start : start + math.prod(shape)].reshape(shape)
        start += math.prod(shape)
        if not np.isfinite(tensors[name]).all():
            raise _refusal("finite values", f"NaN or infinity in {name}")
    return tensors


def encoded_size(lora: LoraTerms) -> int:
    """The size in bytes that every adapter of these terms has."""
    shapes = lora.shapes()
    return len(_header(shapes)) + _FLOAT32.itemsize * sum(math.prod(shape) for shape in shapes.values())


def initial(lora: LoraTerms) -> dict[str, NDArray[np.float32]]:
    """The adapter that every owner of a round starts from: B = 0, A uniform in +-1/sqrt(in_features).

    This is the distribution of PEFT's default (Kaiming uniform with a = sqrt 5). It is drawn from PCG64's raw
    stream, which NumPy keeps stable (NEP 19), so the bytes depend on the terms alone: neither on torch nor on
    the processor.
    """
    stream = np.random.PCG64(np.random.SeedSequence(lora.init_seed % 2**64))
    tensors: dict[str, NDArray[np.float32]] = {}
    for name, shape in lora.shapes().items():
        if name.endswith("lora_B.weight"):
            tensors[name] = np.zeros(shape, dtype=np.float32)
            continue
        unit = (stream.random_raw(math.prod(shape)) >> np.uint64(40)).astype(np.float64) * 2.0**-23 - 1.0
        tensors[name] = (unit / math.sqrt(shape[1])).astype(np.float32).reshape(shape)
    return tensors


def inner(left: Tensors, right: Tensors, lora: LoraTerms) -> float:
    """The Frobenius inner product of two dW, summed over all modules.

    tr(dW1^T dW2) = (alpha / rank)^2 tr((B1^T B2)(A2 A1^T)), in double precision.
    """
    total = 0.0
    for module in lora.modules():
        a, b = (f"base_model.model.{module}.lora_{factor}.weight" for factor in "AB")
        outer = left[b].astype(np.float64).T @ right[b].astype(np.float64)
        total += float(np.sum(outer * (left[a].astype(np.float64) @ right[a].astype(np.float64).T)))
    return lora.scaling**2 * total


def norm(tensors: Tensors, lora: LoraTerms) -> float:
    """The Frobenius norm of dW over all modules."""
    return math.sqrt(max(inner(tensors, tensors, lora), 0.0))


def cosine(left: Tensors, right: Tensors, lora: LoraTerms) -> float:
    """The cosine between two dW; 0 where one of them is zero."""
    norms = norm(left, lora) * norm(right, lora)
    return inner(left, right, lora) / norms if norms > 0.0 else 0.0


def _header(shapes: Mapping[str, tuple[int, ...]]) -> bytes:
    entries: dict[str, dict[str, object]] = {}
    start = 0
    for name, shape in shapes.items():
        end = start + _FLOAT32.itemsize * math.prod(shape)
        entries[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _LENGTH)
    return len(text).to_bytes(_LENGTH, "little") + text


def _problems(data: bytes, shapes: Mapping[str, tuple[int, int]]) -> Iterator[tuple[str, str]]:
    """Expected and got of what keeps `data` from having the header of `shapes`; only the first is meant."""
    length = int.from_bytes(data[:_LENGTH], "little")
    if len(data) < _LENGTH or length > len(data) - _LENGTH:
        yield "a whole safetensors header", f"{len(data)} bytes that announce a header of {length}"
    if length > MAX_HEADER:
        yield f"a safetensors header of at most {MAX_HEADER} bytes", f"one of {length}"
    header = strict_json(data[_LENGTH : _LENGTH + length], what="the header of an adapter")
    if not isinstance(header, dict):
        yield "a JSON object as header", type(header).__name__
    for name in sorted(header.keys() - shapes.keys()):
        yield "the tensors of the round's terms", f"the extra key {_short(name)}"
    for name, shape in shapes.items():
        if name not in header:
            yield "the tensors of the round's terms", f"none named {name}"
        entry = header[name] if isinstance(header[name], dict) else {}
        if entry.get("dtype") != "F32":
            yield f"dtype F32 for {name}", _short(entry.get("dtype"))
        if entry.get("shape") != list(shape):
            yield f"shape {list(shape)} for {name}", _short(entry.get("shape"))
    yield "the canonical safetensors header", "another spelling of it"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def _refusal(expected: str, got: str) -> FormatError:
    return FormatError(expected, got=got, do="refuse the adapter; nothing of it was used")
