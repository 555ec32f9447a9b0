from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from patronage_client.attribution.course import Course
from patronage_client.attribution.problem import Problem
from patronage_client.training import train_adapter
from patronage_protocol.adapters import cosine

Make = Callable[..., Problem]


@pytest.mark.parametrize(
    "terms",
    [
        {},
        {"batch_size": 3, "gradient_accumulation": 2},
        {"schedule": "linear", "warmup_steps": 0, "max_grad_norm": 0.01},
    ],
    ids=["plain", "accumulated", "clipped"],
)
def test_a_course_ends_at_the_adapter_that_is_trained(
    problem_of: Make, tmp_path: Path, terms: dict[str, object]
) -> None:
    problem = problem_of(**terms)
    course = Course(problem)
    course.final()
    trained = train_adapter(problem.base, problem.pairs, dpo=problem.dpo, lora=problem.lora, workdir=tmp_path)
    assert len(course.steps) == trained.statistics.steps
    ours = course.model.tensors()
    assert cosine(ours, trained.tensors, problem.lora) > 0.99999
    for name, value in trained.tensors.items():
        np.testing.assert_allclose(ours[name], value, atol=2e-5)


def test_a_course_can_be_taken_up_in_the_middle(problem_of: Make) -> None:
    course = Course(problem_of())
    positions = [moment.position for moment in course.walk()]
    end = course.model.theta
    for _ in course.walk(positions[3]):
        pass
    assert torch.equal(course.model.theta, end)


def test_a_pair_of_no_weight_leaves_the_others_in_their_steps(problem_of: Make) -> None:
    course = Course(problem_of())
    weights = torch.ones(14)
    whole = course.final(weights=weights)
    assert torch.equal(whole, course.final())
    weights[3] = 0
    assert not torch.equal(course.final(weights=weights), whole)


def test_a_course_without_a_pair_is_the_training_of_the_others(problem_of: Make, tmp_path: Path) -> None:
    problem = problem_of()
    course = Course(problem).without([3])
    course.final()
    others = [pair for place, pair in enumerate(problem.pairs) if place != 3]
    trained = train_adapter(problem.base, others, dpo=problem.dpo, lora=problem.lora, workdir=tmp_path)
    assert len(course.steps) == trained.statistics.steps
    assert cosine(course.model.tensors(), trained.tensors, problem.lora) > 0.99999
