from collections.abc import Callable
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from numpy.typing import NDArray

from patronage_client.attribution.problem import Problem
from patronage_client.attribution.source_model import Projection, accuracy, fit
from patronage_client.attribution.ts_dshapley import ChainSpec, chain_values, removal, transfer, ts_dshapley
from patronage_protocol.errors import UsageError

QUICK = ChainSpec(passes=20, components=6)


def labelled(count: int, seed: int, wrong: float = 0.0) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Differences along a common direction with noise; some have the wrong sign."""
    draw = np.random.default_rng(seed)
    points = draw.normal(size=(count, 6)) + np.array([1.5, 0, 0, 0, 0, 0])
    turned = np.arange(count) < round(wrong * count)
    return np.where(turned[:, None], -points, points), turned


def test_a_fit_is_where_the_penalised_loss_is_flat() -> None:
    points = np.stack([labelled(9, seed)[0] for seed in range(3)])
    used = np.ones((3, 9))
    used[1, 5:] = 0
    weights = fit(points, used, ridge=0.3)
    for chain in range(3):
        own = points[chain][used[chain] > 0]
        slope = 0.3 * weights[chain] - (own / (1 + np.exp(own @ weights[chain]))[:, None]).sum(axis=0)
        assert np.abs(slope).max() < 1e-6


def test_a_fit_does_not_depend_on_what_is_fitted_beside_it() -> None:
    points = np.stack([labelled(9, seed)[0] for seed in range(3)])
    together = fit(points, np.ones((3, 9)), ridge=1.0)
    assert np.allclose(together[1], fit(points[1:2], np.ones((1, 9)), ridge=1.0)[0], atol=1e-7)


def test_a_projection_knows_no_sign_and_scales_to_unit_variance() -> None:
    points, _ = labelled(40, 0)
    project = Projection.of(points, 4)
    turned = Projection.of(-points, 4)
    assert np.allclose(project(points), turned(points))
    assert np.allclose((project(points) ** 2).mean(axis=0), 1.0)
    assert project(points).shape == (40, 4)


def test_chains_come_near_the_shapley_value_of_the_game_on_their_subset() -> None:
    """With one subset of all pairs a chain is an ordinary permutation: compare with all 5! orders."""
    points, validation = labelled(5, 1, wrong=0.2)[0], labelled(9, 2)[0]

    def utility(members: tuple[int, ...]) -> float:
        if not members:
            return 0.5
        return float(
            accuracy(fit(points[list(members)][None], np.ones((1, len(members))), 1.0), validation)[0]
        )

    exact = np.zeros(5)
    for order in permutations(range(5)):
        for place, i in enumerate(order):
            exact[i] += (utility(order[: place + 1]) - utility(order[:place])) / 120

    class Whole(ChainSpec):
        def subset(self, pairs: int) -> int:
            return 5

    found = chain_values(points, validation, Whole(passes=3000, tolerance=0.0, utility="accuracy"), seed=3)
    assert np.abs(found.values - exact).max() < 4 * found.errors.max()
    assert found.errors.max() < 0.01


def test_any_number_of_workers_gives_the_same_values() -> None:
    points, validation = labelled(40, 4, wrong=0.2)[0], labelled(20, 5)[0]
    one = chain_values(points, validation, QUICK, seed=6)
    three = chain_values(points, validation, replace(QUICK, workers=3), seed=6)
    assert np.array_equal(one.values, three.values)
    assert np.array_equal(one.errors, three.errors)
    assert not np.array_equal(one.values, chain_values(points, validation, QUICK, seed=7).values)


def test_wrong_labels_have_the_lowest_values_and_removing_them_helps_the_source_model() -> None:
    points, turned = labelled(60, 8, wrong=0.3)
    validation, _ = labelled(40, 9)
    found = chain_values(points, validation, ChainSpec(passes=60, components=6), seed=1)
    lowest = np.argsort(found.values)[:18]
    assert turned[lowest].mean() > 0.8
    accuracies = removal(found.values, points, validation, ridge=1.0)
    cut = transfer(accuracies, len(validation))
    assert accuracies[cut] >= accuracies[0]
    assert accuracies[cut] >= accuracies.max() - 0.08


def test_truncation_saves_steps_and_changes_little() -> None:
    points, validation = labelled(40, 4, wrong=0.2)[0], labelled(20, 5)[0]
    exact = chain_values(points, validation, replace(QUICK, tolerance=-1.0), seed=6)
    cut = chain_values(points, validation, replace(QUICK, tolerance=0.05), seed=6)
    assert exact.truncated == 0
    assert cut.truncated > 0.1
    assert np.corrcoef(exact.values, cut.values)[0, 1] > 0.9


def test_fewer_pairs_than_a_chain_needs_is_an_error(problem_of: Callable[..., Problem]) -> None:
    with pytest.raises(UsageError, match="at least 16 pairs, as many as one chain needs, got 14"):
        ts_dshapley(problem_of())


def test_a_problem_is_valued_and_the_transfer_is_told(
    problem_of: Callable[..., Problem], some_pairs: Callable[..., tuple[object, ...]]
) -> None:
    found = ts_dshapley(problem_of(pairs=some_pairs("alice", 20)))
    assert found.values.shape == (20,)
    assert "train with --keep" in found.notes[0]
