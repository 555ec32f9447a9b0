"""The work of `patronage owner value`: pairs in, a table and a picture of their values out.

What a method has done lies in `OUT/work/` until the table is written; a command that is repeated after an
interruption goes on from there. The folder's name is made from all that the values depend on.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from patronage_client.attribution.methods import method_named
from patronage_client.attribution.problem import Problem, Valuation, check_problem
from patronage_client.attribution.table import kept, rows, write_table
from patronage_client.attribution.terms import manifest_in, training_terms
from patronage_protocol.canonical import canonical_bytes, sha256
from patronage_protocol.development import DEVELOPMENT, check_development
from patronage_protocol.errors import UnavailableError, UsageError
from patronage_protocol.files import write_atomic
from patronage_protocol.manifest import DpoTerms, LoraTerms
from patronage_protocol.pair_files import Check, LoadedPairs, read_pairs, write_pairs
from patronage_protocol.policy import BaseModel, length_check, progress_bar, shared_base_model
from patronage_protocol.preferences import PreferencePair

__all__ = ["Request", "ValuedPairs", "hold_out", "value_pairs"]


@dataclass(frozen=True)
class Request:
    """What the command was asked for; see its --help."""

    data: Path
    out: Path
    method: str
    base_model: str
    validation: Path | None = None
    hold_out: float | None = None
    terms: Path | None = None
    keep: float = 1.0
    seed: int = 0
    on_bad_row: Literal["stop", "skip"] = "stop"
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    device: str = "auto"
    model_cache: Path | None = None
    threads: int | None = None


@dataclass(frozen=True)
class ValuedPairs:
    """The outcome: the values, and the files that hold them."""

    valuation: Valuation
    pairs: int
    kept: int
    files: tuple[Path, ...]


def value_pairs(request: Request) -> ValuedPairs:
    """Value the pairs of a file and write what was found.

    Raises:
        UsageError, DataError: an option or a file that cannot be used.
        UnavailableError: a file, a model or room on the disk is missing.
    """
    method = method_named(request.method)
    _check(request)
    if request.threads:
        torch.set_num_threads(request.threads)
    base = shared_base_model(
        request.base_model, precision=request.precision, device=request.device, cache=request.model_cache
    )
    lora, dpo = training_terms(request.terms, base)
    check = length_check(base, dpo.max_length)
    loaded = read_pairs(request.data, on_bad_row=request.on_bad_row, check=check)
    loaded, validation = _measured_on(request, loaded, check)
    check_problem(loaded.pairs, validation)
    work = _folder(request.out / "work" / _job(request, (base, lora, dpo), loaded, validation))
    with progress_bar(f"{method.name}") as progress:
        valuation = method.load()(
            Problem(base, lora, dpo, loaded.pairs, validation, work, request.seed, progress)
        )
    files = _write(request, loaded, valuation)
    shutil.rmtree(request.out / "work", ignore_errors=True)
    return ValuedPairs(valuation, len(loaded.pairs), len(kept(valuation, request.keep)), files)


def hold_out(loaded: LoadedPairs, fraction: float) -> tuple[LoadedPairs, tuple[PreferencePair, ...]]:
    """Set pairs aside by a hash of their prompt, so that no prompt is on both sides."""
    limit = int(fraction * 2**32)
    aside = [int(pair.prompt_digest[:8], 16) < limit for pair in loaded.pairs]
    left = [i for i, away in enumerate(aside) if not away]
    return LoadedPairs(
        tuple(loaded.pairs[i] for i in left), tuple(loaded.places[i] for i in left), loaded.skipped
    ), tuple(pair for pair, away in zip(loaded.pairs, aside, strict=True) if away)


def _measured_on(
    request: Request, loaded: LoadedPairs, check: Check
) -> tuple[LoadedPairs, tuple[PreferencePair, ...]]:
    """The pairs to value, and those to measure on: named, held out, or the development pairs of the round."""
    if request.validation is not None:
        return loaded, read_pairs(request.validation, on_bad_row=request.on_bad_row, check=check).pairs
    manifest = manifest_in(request.terms)
    if request.hold_out is not None or manifest is None or manifest.development is None:
        return hold_out(loaded, request.hold_out or 0.0)
    assert request.terms is not None, "a manifest came from a file"
    public = request.terms.parent / DEVELOPMENT
    if not public.exists():
        raise UsageError(
            f"the round's development pairs at {public}",
            got="no such file",
            do="put the operator's file there, or choose others with --validation or --hold-out",
        )
    pairs = read_pairs(public, check=check).pairs
    check_development(manifest.development, pairs, where=str(public))
    return loaded, pairs


def _check(request: Request) -> None:
    if not 0 < request.keep <= 1:
        raise UsageError(
            "--keep above 0 and at most 1", got=str(request.keep), do="name a fraction, such as 0.9"
        )
    if request.validation is not None and request.hold_out is not None:
        raise UsageError("--validation or --hold-out", got="both", do="name one of them")
    if request.hold_out is not None and not 0 < request.hold_out < 1:
        raise UsageError(
            "--hold-out between 0 and 1", got=str(request.hold_out), do="name a fraction, such as 0.2"
        )


def _job(
    request: Request,
    problem: tuple[BaseModel, LoraTerms, DpoTerms],
    loaded: LoadedPairs,
    validation: tuple[PreferencePair, ...],
) -> str:
    base, lora, dpo = problem
    parts = [
        request.method,
        request.seed,
        base.weights,
        base.tokens,
        lora.digest,
        dpo.digest,
        [pair.digest for pair in loaded.pairs],
        [pair.digest for pair in validation],
    ]
    return sha256(canonical_bytes(parts))[:32]


def _folder(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UnavailableError(
            f"a folder {path}", got=error.strerror or str(error), do="choose another with --out"
        ) from error
    return path


def _write(request: Request, loaded: LoadedPairs, valuation: Valuation) -> tuple[Path, ...]:
    table = rows(valuation, loaded.pairs, loaded.places, request.keep)
    files: list[Path] = [*write_table(request.out, valuation, table)]
    if request.keep < 1:
        files.append(request.out / "kept.jsonl")
        write_pairs(files[-1], (loaded.pairs[i] for i in kept(valuation, request.keep)))
    files.append(request.out / "notes.json")
    notes = {"method": valuation.method, "units": valuation.units, "notes": list(valuation.notes)}
    write_atomic(files[-1], json.dumps(notes, ensure_ascii=False, indent=1).encode() + b"\n")
    return tuple(files)
