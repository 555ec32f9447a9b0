import copy
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from patronage_client.attribution import in_run as module
from patronage_client.attribution.adapter_model import AdapterModel, tokenized
from patronage_client.attribution.course import Course
from patronage_client.attribution.in_run import Fixed, first_order, in_run, second_order, shapley_of_step
from patronage_client.attribution.optimisers import SGD, AdamW, Rule, State, clip_adjoint, clip_factor
from patronage_client.attribution.problem import Problem
from patronage_client.attribution.while_training import InRunCallback, rule_of
from patronage_client.training import pair_trainer, start_from, train_adapter
from patronage_protocol.adapters import initial
from patronage_protocol.errors import UsageError
from patronage_protocol.policy import BaseModel
from patronage_protocol.preferences import training_order
from patronage_simulations.studies.in_run_fidelity import monte_carlo

Make = Callable[..., Problem]

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def test_the_values_of_a_step_are_shapley_values_by_their_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    contributions, query = torch.randn(4, 9, generator=generator), torch.randn(9, generator=generator)
    state = State(3, 0.1 * torch.randn(9, generator=generator), torch.rand(9, generator=generator))
    fixed = Fixed(AdamW(), state, torch.zeros(9), 0.1)

    def worth(members: tuple[int, ...]) -> float:
        return float(torch.dot(query, fixed.displacement(contributions[list(members)].sum(0))))

    expected = np.zeros(4)
    for order in permutations(range(4)):
        for k, player in enumerate(order):
            expected[player] += (worth(order[: k + 1]) - worth(order[:k])) / math.factorial(4)
    np.testing.assert_allclose(shapley_of_step(fixed, contributions, query), expected, atol=1e-6)


@pytest.mark.parametrize("rule", [SGD(), AdamW(), AdamW(decay=0.1)])
@pytest.mark.parametrize("pairs", [4, 9], ids=["enumerated", "taken to be normal"])
def test_the_values_of_a_step_add_up_to_what_it_does(rule: Rule, pairs: int) -> None:
    generator = torch.Generator().manual_seed(1)
    contributions, query = torch.randn(pairs, 9, generator=generator), torch.randn(9, generator=generator)
    contributions[:, 0] = 0.0
    state = State(0, torch.zeros(9), torch.zeros(9)) if isinstance(rule, AdamW) else rule.start(query)
    fixed = Fixed(rule, state, torch.ones(9), 0.1)
    total = torch.dot(query, fixed.displacement(contributions.sum(0)) - fixed.displacement(torch.zeros(9)))
    assert float(shapley_of_step(fixed, contributions, query).sum()) == pytest.approx(float(total), abs=1e-5)


@pytest.mark.parametrize("steps", [0, 1, 20])
def test_a_batch_too_large_for_coalitions_has_nearly_the_values_of_all_of_them(
    monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    generator = torch.Generator().manual_seed(steps)
    common = torch.randn(4000, generator=generator)
    contributions = common + 2 * torch.randn(9, 4000, generator=generator)
    query = common + torch.randn(4000, generator=generator)
    rule = AdamW()
    state = rule.start(query)
    for _ in range(steps):
        state = rule.advance(state, 9 * common + 6 * torch.randn(4000, generator=generator))
    fixed = Fixed(rule, state, torch.zeros(4000), 1e-3)
    quick = shapley_of_step(fixed, contributions, query).numpy()
    monkeypatch.setattr(module, "ENUMERATED", 9)
    exact = shapley_of_step(fixed, contributions, query).numpy()
    assert np.corrcoef(quick, exact)[0, 1] > 0.98
    assert np.linalg.norm(quick - exact) < 0.05 * np.linalg.norm(exact)


def test_under_sgd_the_values_are_those_of_the_paper(problem_of: Make) -> None:
    problem = problem_of(learning_rate=0.05, epochs=1, warmup_steps=0, schedule="constant")
    course = Course(problem, SGD())
    first, second = np.zeros(14), np.zeros(14)
    for moment in course.walk(record=True):
        (parts,) = moment.parts
        matrix = moment.factor * parts.matrix()
        _, gradient = course.model.mean_gradient(course.validation)
        curved = course.model.mean_curvature(course.validation, matrix.sum(0))
        for row, index in zip(matrix, parts.ids, strict=True):
            first[index] += 0.05 * float(row @ gradient)
            second[index] += 0.05 * float(row @ gradient) - 0.05**2 / 2 * float(row @ curved)
    found = in_run(problem, SGD(), name="first", curved=False).values
    np.testing.assert_allclose(found, first, rtol=1e-3, atol=1e-8)
    found = in_run(problem, SGD(), name="second", curved=True).values
    np.testing.assert_allclose(found, second, rtol=1e-3, atol=1e-8)
    assert not np.allclose(first, second, rtol=1e-3)


@pytest.mark.parametrize("rule", [SGD(), AdamW()], ids=["SGD", "AdamW"])
def test_the_values_of_a_step_rank_pairs_as_their_definition_does(problem_of: Make, rule: Rule) -> None:
    rate = {"learning_rate": 0.02 if isinstance(rule, SGD) else 5e-4}
    course = Course(problem_of(batch_size=5, epochs=1, warmup_steps=1, schedule="constant", **rate), rule)
    for moment in course.walk(record=True):
        if moment.step.number != 2:
            continue
        contributions = moment.factor * moment.parts[0].matrix()
        fixed = Fixed(rule, moment.position.state, moment.position.theta, moment.step.rate)
        _, gradient = course.model.mean_gradient(course.validation)
        found = shapley_of_step(fixed, contributions, gradient).numpy()
        truth = monte_carlo(course, fixed, contributions, 200)
    assert np.corrcoef(found, truth)[0, 1] > 0.99
    assert np.array_equal(np.argsort(found), np.argsort(truth))


def test_the_values_and_momentum_add_up_to_the_drop_of_the_validation_loss(problem_of: Make) -> None:
    problem = problem_of(learning_rate=1e-3)
    course = Course(problem)
    drop = course.model.mean_loss(course.validation) - course.model.loss_at(course.validation, course.final())
    errors = []
    for method in (first_order, second_order):
        note = method(problem).notes[0]
        total = float(note.split("= ")[1].split(";")[0])
        assert f"measured drop of the validation loss {drop:+.6f}" in note
        errors.append(abs(total - drop) / drop)
    assert errors[0] < 0.05
    assert errors[1] < min(errors[0], 0.01)


class PoweredOffError(BaseException):
    """The machine goes down in the middle."""


def test_an_interrupted_valuation_goes_on_and_finds_the_same_values(
    problem_of: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "SAVE_SECONDS", -1.0)

    def power_off(done: int, total: int) -> None:
        if done == 5:
            raise PoweredOffError

    problem = problem_of()
    with pytest.raises(PoweredOffError):
        first_order(replace(problem, progress=power_off))
    rest: list[int] = []
    again = first_order(replace(problem, progress=lambda done, total: rest.append(done)))
    (tmp_path / "fresh").mkdir()
    whole = first_order(problem_of(workdir=tmp_path / "fresh"))
    np.testing.assert_array_equal(again.values, whole.values)
    assert again.notes == whole.notes
    assert rest == [5, 6, 7, 8]


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_training_of_trl_is_valued_while_it_runs_and_ends_as_it_would(
    problem_of: Make, tmp_path: Path, accumulation: int
) -> None:
    problem = problem_of(batch_size=3, gradient_accumulation=accumulation, max_grad_norm=0.05)
    trainer, callback = watched(problem)
    with callback.attached(trainer):
        trainer.train()
    expected = first_order(problem)
    np.testing.assert_allclose(callback.values, expected.values, rtol=2e-2, atol=1e-6)
    momentum = float(expected.notes[0].split("momentum ")[1].split()[0])
    assert callback.momentum == pytest.approx(momentum, rel=2e-2)
    assert "compute_loss" not in vars(trainer)
    plain = train_adapter(problem.base, problem.pairs, dpo=problem.dpo, lora=problem.lora, workdir=tmp_path)
    for name, value in callback._policy.tensors().items():
        np.testing.assert_array_equal(value, plain.tensors[name])


@pytest.mark.parametrize(
    ("terms", "curved"),
    [({"gradient_accumulation": 2}, False), ({"batch_size": 8, "epochs": 1}, True)],
    ids=["first order, accumulated", "second order, no coalitions"],
)
def test_validation_pairs_may_ride_along_in_the_batch(
    problem_of: Make, tmp_path: Path, terms: dict[str, Any], curved: bool
) -> None:
    problem = problem_of(**terms)
    found = []
    for together in (False, True):
        trainer, callback = watched(problem, curved=curved, together=together)
        with callback.attached(trainer):
            trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        found.append((callback.values, callback.momentum, callback._policy.theta, losses))
    (apart, momentum, theta, losses), (joint, same_momentum, same_theta, same_losses) = found
    torch.testing.assert_close(joint, apart, rtol=1e-2, atol=1e-6)
    assert same_momentum == pytest.approx(momentum, rel=1e-3)
    torch.testing.assert_close(same_theta, theta, rtol=1e-3, atol=1e-5)
    assert same_losses == pytest.approx(losses, rel=1e-4)


def test_pairs_do_not_ride_along_where_the_batch_has_no_room_for_them(problem_of: Make) -> None:
    trainer, callback = watched(problem_of(), together=True)
    trainer._share_prompts = False
    with pytest.raises(UsageError, match="leave `together` out"), callback.attached(trainer):
        pass


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True:UserWarning")
@pytest.mark.parametrize("reentrant", [False, True], ids=["non-reentrant", "reentrant"])
def test_gradient_checkpointing_gives_the_same_values_or_is_refused(
    problem_of: Make, reentrant: bool
) -> None:
    problem = problem_of(epochs=1)
    trainer, callback = watched(problem, save_memory=True)
    trainer.args.activation_checkpointing_kwargs = {"use_reentrant": reentrant}
    if reentrant:
        with pytest.raises(UsageError, match="of the non-reentrant kind"), callback.attached(trainer):
            trainer.train()
        return
    with callback.attached(trainer):
        trainer.train()
    expected = first_order(problem).values
    np.testing.assert_allclose(callback.values, expected, rtol=2e-2, atol=1e-6)


def watched(problem: Problem, *, save_memory: bool = False, **options: Any) -> tuple[Any, InRunCallback]:
    order = training_order(problem.pairs, seed=problem.dpo.seed)
    data = tokenized(problem.base, problem.pairs, max_length=problem.dpo.max_length)
    validation = tokenized(problem.base, problem.validation, max_length=problem.dpo.max_length)
    ordered = data.take(order)
    trainer = pair_trainer(
        problem.base,
        ordered.tokens,
        ordered.reference,
        problem.workdir,
        dpo=problem.dpo,
        lora=problem.lora,
        save_memory=save_memory,
    )
    start_from(trainer.adapted_model, initial(problem.lora))
    policy = AdapterModel(problem.base, problem.lora, beta=problem.dpo.beta, model=trainer.adapted_model)
    return trainer, InRunCallback(policy, order, validation, **options)


def test_an_optimiser_that_no_formula_describes_is_refused() -> None:
    weight = [torch.zeros(1, requires_grad=True)]
    assert rule_of(torch.optim.SGD(weight, lr=0.1)) == SGD()
    assert rule_of(torch.optim.AdamW(weight, weight_decay=0.2)) == AdamW(decay=0.2)
    for other in (
        torch.optim.SGD(weight, lr=0.1, momentum=0.9),
        torch.optim.Adagrad(weight),
        torch.optim.AdamW(weight, amsgrad=True),
    ):
        with pytest.raises(UsageError, match=type(other).__name__):
            rule_of(other)


def test_a_trainer_that_shuffles_is_refused(problem_of: Make) -> None:
    trainer, callback = watched(problem_of())
    trainer.args.train_sampling_strategy = "random"
    with pytest.raises(UsageError, match="in the order of its dataset"), callback.attached(trainer):
        pass


def test_dropout_is_the_same_at_every_look_and_is_told(problem_of: Make) -> None:
    course = Course(problem_of())
    course.model.model.get_base_model().config.attention_dropout = 0.3
    for module_ in course.model.model.modules():
        if hasattr(module_, "attention_dropout"):
            module_.attention_dropout = 0.3
    assert course.model.has_dropout
    assert torch.equal(course.final(), course.final())


def test_values_under_dropout_say_so(problem_of: Make, base: BaseModel) -> None:
    model = copy.deepcopy(base.model)
    model.config.attention_dropout = 0.3
    for module_ in model.modules():
        if hasattr(module_, "attention_dropout"):
            module_.attention_dropout = 0.3
    problem = problem_of(base=replace(base, model=model), epochs=1)
    found = first_order(problem)
    assert "the values hold for the masks of this seed" in found.notes[-1]
    np.testing.assert_array_equal(first_order(problem).values, found.values)


def test_adamw_is_the_one_of_torch_and_so_is_clipping() -> None:
    generator = torch.Generator().manual_seed(2)
    weight = torch.nn.Parameter(torch.randn(6, generator=generator))
    optimizer = torch.optim.AdamW([weight], lr=0.05, weight_decay=0.1)
    rule, theta = AdamW(decay=0.1), weight.detach().clone()
    state = rule.start(theta)
    for _ in range(5):
        gradient = torch.randn(6, generator=generator)
        weight.grad = gradient.clone()
        torch.nn.utils.clip_grad_norm_([weight], 1.0)
        optimizer.step()
        clipped = clip_factor(gradient, 1.0) * gradient
        moved = rule.displacement(state, theta, clipped, 0.05)
        theta, state = theta - moved, rule.advance(state, clipped)
    torch.testing.assert_close(theta, weight.detach())


def test_the_adjoint_of_clipping_is_its_derivative() -> None:
    gradient = torch.tensor([3.0, -4.0, 1.0], dtype=torch.float64)
    after = torch.tensor([0.2, 0.5, -0.7], dtype=torch.float64)
    expected = torch.autograd.functional.vjp(
        lambda g: g * torch.clamp(1.0 / (g.norm() + 1e-6), max=1.0), gradient, after
    )[1]
    torch.testing.assert_close(clip_adjoint(gradient, 1.0, after), expected)
