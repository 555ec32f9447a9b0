"""Scoring in other processes gives the bytes of one process, and outlives the death of a worker."""

import importlib.util
import os
import pickle
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from patronage_protocol.adapters import encode
from patronage_protocol.canonical import sha256
from patronage_protocol.errors import (
    LocalProtocolError,
    MissingExtraError,
    RemoteProtocolError,
    UsageError,
)
from patronage_protocol.manifest import LoraTerms, Manifest, StartTerms
from patronage_protocol.policy import BaseModel, load_base_model, lora_groups, started, tokenize_pairs
from patronage_protocol.preferences import PreferencePair
from patronage_server import ray_scoring
from patronage_server.evaluation import score_adapters
from patronage_server.ray_scoring import Scoring, ScoringWorker, score_on_ray

BETA, LENGTH = 0.3, 64
PAIRS = tuple(
    PreferencePair(prompt=f"Question {i}: ", chosen="right " * (i % 5 + 1), rejected="wrong " * (6 - i % 5))
    for i in range(12)
)


@pytest.fixture(scope="module")
def base() -> BaseModel:
    torch.set_num_threads(1)
    return load_base_model("tiny", device="cpu", precision="float32")


@pytest.fixture(scope="module")
def lora(base: BaseModel) -> LoraTerms:
    return LoraTerms(rank=3, alpha=6.0, init_seed=0, groups=lora_groups(base.model, ["q_proj", "up_proj"]))


@pytest.fixture
def adapters(lora: LoraTerms) -> dict[str, dict[str, np.ndarray]]:
    def adapter(seed: int) -> dict[str, np.ndarray]:
        stream = np.random.default_rng(seed)
        shapes = lora.shapes().items()
        return {name: stream.normal(0, 0.2, shape).astype(np.float32) for name, shape in shapes}

    return {owner: adapter(seed) for seed, owner in enumerate(("ann", "bob", "cid", "dan"))}


@pytest.fixture
def scoring(base: BaseModel, lora: LoraTerms, manifest_of: Callable[..., Manifest]) -> Scoring:
    manifest = manifest_of("ann", "bob", base_model=base.terms(), lora=lora)
    assert manifest.dpo.max_length == LENGTH
    return Scoring("tiny", "cpu", "", 1, manifest, b"", PAIRS)


@pytest.fixture
def here(base: BaseModel, lora: LoraTerms, adapters: dict[str, dict[str, np.ndarray]]) -> np.ndarray:
    tokens = tokenize_pairs(base, PAIRS, max_length=LENGTH)
    return score_adapters(base, adapters, tokens, lora=lora, beta=BETA)


def test_a_worker_gives_the_numbers_of_one_process_in_whatever_order_it_is_asked(
    scoring: Scoring, adapters: dict[str, dict[str, np.ndarray]], here: np.ndarray
) -> None:
    worker = pickle.loads(pickle.dumps(ScoringWorker(scoring)))
    found = {owner: worker.logprobs(adapters[owner]) for owner in reversed(adapters)}
    reference = worker.logprobs(None)
    margins = [ray_scoring.margins_of(found[owner], reference, beta=BETA) for owner in adapters]
    assert np.stack(margins).tobytes() == here.tobytes()


def test_a_later_round_is_scored_from_its_start(
    base: BaseModel, scoring: Scoring, lora: LoraTerms, adapters: dict[str, dict[str, np.ndarray]]
) -> None:
    data = encode(adapters["dan"])
    start = StartTerms(round=1, adapter=sha256(data), rank=lora.rank, alpha=lora.alpha)
    manifest = scoring.manifest.model_copy(update={"round": 2, "start": start})
    worker = ScoringWorker(replace(scoring, manifest=manifest, start=data))
    margins = ray_scoring.margins_of(worker.logprobs(adapters["ann"]), worker.logprobs(None), beta=BETA)
    tokens = tokenize_pairs(base, PAIRS, max_length=LENGTH)
    ann = {"ann": adapters["ann"]}
    expected = score_adapters(started(base, manifest, data), ann, tokens, lora=lora, beta=BETA)
    assert margins.tobytes() == expected[0].tobytes()
    other = ScoringWorker(replace(scoring, manifest=manifest, start=data[:-4] + b"wxyz")).logprobs(None)
    assert isinstance(other, RemoteProtocolError)


def test_a_worker_with_another_base_model_says_so(scoring: Scoring) -> None:
    terms = scoring.manifest.base_model.model_copy(update={"weights": "0" * 64})
    worker = ScoringWorker(
        replace(scoring, manifest=scoring.manifest.model_copy(update={"base_model": terms}))
    )
    problem = pickle.loads(pickle.dumps(worker.logprobs(None)))
    assert isinstance(problem, LocalProtocolError)
    assert "the base model of the round, tiny, with weights 0000000000000000" in str(problem)


def test_an_adapter_that_overflows_is_named(
    scoring: Scoring, adapters: dict[str, dict[str, np.ndarray]]
) -> None:
    huge = {name: np.full_like(tensor, 1e38) for name, tensor in adapters["bob"].items()}
    problem = ScoringWorker(scoring).logprobs(huge)
    with pytest.raises(UsageError, match="the adapter of bob: expected finite log-probabilities"):
        ray_scoring._checked(problem, "bob")


def test_without_ray_there_is_one_line_that_names_the_extra(
    scoring: Scoring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(MissingExtraError, match=r"run: pip install 'patronage\[ray\]'"):
        score_on_ray(scoring, {}, beta=BETA)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_cluster_gives_the_bytes_of_one_machine_even_when_a_worker_is_killed(
    scoring: Scoring, adapters: dict[str, dict[str, np.ndarray]], here: np.ndarray
) -> None:
    killed: list[int] = []

    def kill_one(_done: int, _total: int) -> None:
        if not killed:
            killed.append(_workers_of_this_process()[0])
            os.kill(killed[0], signal.SIGKILL)

    assert score_on_ray(scoring, adapters, beta=BETA, progress=kill_one).tobytes() == here.tobytes()
    assert killed


def _workers_of_this_process() -> list[int]:
    parents, titles = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            titles[int(folder.name)] = (folder / "cmdline").read_bytes()
        except OSError:
            continue

    def is_ours(process: int) -> bool:
        while process > 1:
            if process == os.getpid():
                return True
            process = parents.get(process, 0)
        return False

    return [process for process in titles if titles[process].startswith(b"ray::Sc") and is_ours(process)]
