from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from patronage_client.attribution import influence as module
from patronage_client.attribution.course import Course
from patronage_client.attribution.influence import influence, influence_on
from patronage_client.attribution.optimisers import SGD, AdamW, Rule
from patronage_client.attribution.problem import Problem
from patronage_protocol.policy import BaseModel

Make = Callable[..., Problem]


@pytest.mark.parametrize(
    ("rule", "terms"),
    [
        (AdamW(), {}),
        (AdamW(decay=0.1), {"batch_size": 3, "gradient_accumulation": 2}),
        (AdamW(), {"max_grad_norm": 0.02, "epochs": 1}),
        (SGD(), {"learning_rate": 0.5, "epochs": 1}),
    ],
    ids=["AdamW", "accumulated, with decay", "clipped", "SGD"],
)
def test_the_influence_of_a_pair_is_the_derivative_of_the_whole_training(
    problem_of: Make, exact_base: BaseModel, rule: Rule, terms: dict[str, object]
) -> None:
    problem = problem_of(base=exact_base, **terms)
    course = Course(problem, rule)
    found = influence_on(course, problem).values

    def loss(index: int, weight: float) -> float:
        weights = torch.ones(len(problem.pairs), dtype=torch.float64)
        weights[index] = weight
        return course.model.loss_at(course.validation, course.final(weights=weights))

    step = 1e-5
    for index in (0, 13):
        slope = (loss(index, 1 + step) - loss(index, 1 - step)) / (2 * step)
        assert found[index] == pytest.approx(-slope, rel=1e-4, abs=1e-9)


class PoweredOffError(BaseException):
    """The machine goes down in the middle."""


@pytest.mark.parametrize("stop", [3, 12])
def test_an_interrupted_valuation_goes_on_and_finds_the_same_values(
    problem_of: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    monkeypatch.setattr(module, "SAVE_SECONDS", -1.0)
    calls: list[int] = []

    def power_off(done: int, total: int) -> None:
        calls.append(done)
        if done == stop:
            raise PoweredOffError

    problem = problem_of()
    with pytest.raises(PoweredOffError):
        influence(replace(problem, progress=power_off))
    rest: list[int] = []
    again = influence(replace(problem, progress=lambda done, total: rest.append(done)))
    whole = influence(problem_of(workdir=_fresh(tmp_path)))
    np.testing.assert_array_equal(again.values, whole.values)
    assert sum(done < stop for done in rest) <= 1
    assert rest[-1] == 16


def _fresh(folder: Path) -> Path:
    fresh = folder / "fresh"
    fresh.mkdir()
    return fresh
