from collections.abc import Callable

import numpy as np
import pytest
import torch

from patronage_client.attribution.adapter_model import AdapterModel, tokenized
from patronage_client.attribution.linfik import alinfik, less, linfik
from patronage_client.attribution.problem import Problem
from patronage_protocol.adapters import initial
from patronage_protocol.errors import UsageError
from patronage_protocol.policy import tokenize_pairs
from patronage_protocol.policy.linearised import Checkpoint, linearised_influence, objective_gradient

Make = Callable[..., Problem]


def one_at_a_time(problem: Problem) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradient of every pair's loss by a backward pass of its own, and that of the validation loss."""
    model = AdapterModel(problem.base, problem.lora, beta=problem.dpo.beta)
    length = problem.dpo.max_length
    pairs = tokenized(problem.base, problem.pairs, max_length=length)
    gradients = [model.mean_gradient(pairs.take([i]))[1] for i in range(len(pairs))]
    objective = model.mean_gradient(tokenized(problem.base, problem.validation, max_length=length))[1]
    return torch.stack(gradients).double(), objective.double()


def test_linfik_is_the_product_of_gradients_taken_one_at_a_time(problem_of: Make) -> None:
    problem = problem_of()
    gradients, objective = one_at_a_time(problem)
    assert np.allclose(linfik(problem).values, (gradients @ objective).numpy(), rtol=1e-4, atol=1e-6)


def test_less_is_the_cosine_of_gradients_taken_one_at_a_time(problem_of: Make) -> None:
    problem = problem_of()
    gradients, objective = one_at_a_time(problem)
    cosines = torch.nn.functional.cosine_similarity(gradients, objective[None])
    assert np.allclose(less(problem).values, cosines.numpy(), atol=1e-5)


def test_away_from_the_base_model_a_pair_pulls_less_the_larger_its_margin(problem_of: Make) -> None:
    problem = problem_of()
    draw = np.random.default_rng(0)
    adapter = {
        name: (value + 0.05 * draw.normal(size=value.shape)).astype(np.float32)
        for name, value in initial(problem.lora).items()
    }
    point = Checkpoint(problem.base, problem.lora, adapter, beta=0.5)
    pairs, validation = (
        tokenize_pairs(problem.base, some, max_length=128) for some in (problem.pairs, problem.validation)
    )
    direction = objective_gradient(point, validation)
    found = linearised_influence(point, direction, pairs)
    for i, pair in enumerate(pairs):
        own = objective_gradient(point, [pair])
        product = sum(float((own[name].double() * direction[name].double()).sum()) for name in own)
        assert found[i] == pytest.approx(product, rel=1e-3, abs=1e-4)


def test_the_model_is_left_without_an_adapter(problem_of: Make) -> None:
    problem = problem_of()
    before = [len(module._forward_hooks) for module in problem.base.model.modules()]
    linfik(problem)
    assert [len(module._forward_hooks) for module in problem.base.model.modules()] == before
    assert all(parameter.grad is None for parameter in problem.base.model.parameters())


def test_an_objective_without_a_gradient_is_an_error(problem_of: Make) -> None:
    problem = problem_of()
    still = Checkpoint.start(problem.base, problem.lora, beta=1e-300)
    tokens = tokenize_pairs(problem.base, problem.validation, max_length=128)
    with pytest.raises(UsageError, match="an objective with a gradient"):
        objective_gradient(still, tokens)


def test_alinfik_agrees_with_linfik_on_pairs_that_were_never_scored(
    problem_of: Make, some_pairs: Callable[..., tuple[object, ...]]
) -> None:
    problem = problem_of(pairs=some_pairs("alice", 120))
    told, known = alinfik(problem), linfik(problem)
    assert "scored 80 of 120" in told.notes[0]
    assert np.corrcoef(told.values, known.values)[0, 1] > 0.9


def test_alinfik_needs_enough_pairs_for_a_student(problem_of: Make) -> None:
    with pytest.raises(UsageError, match="at least 80 pairs, of which a student could learn, got 14"):
        alinfik(problem_of())
