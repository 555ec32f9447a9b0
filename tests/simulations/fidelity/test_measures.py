import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patronage_protocol.errors import UsageError
from patronage_simulations.fidelity.measures import (
    agreement,
    bootstrap_shares,
    payout_difference,
    relative_error,
    shares_of,
    spearman_step,
)

BUDGET = 100_000
SEED = "00" * 32


def test_shares_of_a_two_owner_game_are_those_of_the_formula() -> None:
    margins = np.array([[0.0], [1.0], [2.0], [4.0]])
    values = np.tanh(margins[:, 0] / 2) / 2
    first = (values[1] + values[3] - values[2]) / 2
    shares = shares_of(margins, "sigmoid", scale_bits=24)
    assert shares[:, 0] == pytest.approx([first, values[3] - first])


def test_win_is_decided_on_published_margins() -> None:
    margins = np.array([[0.0], [2.0**-30], [1.0], [1.0]])
    assert shares_of(margins, "win", scale_bits=16)[:, 0] == pytest.approx([0.0, 0.5])
    assert shares_of(margins, "win", scale_bits=30)[:, 0] == pytest.approx([0.25, 0.25])


@pytest.mark.parametrize("margins", [np.zeros((3, 2)), np.ones((4, 2)), np.zeros((1, 2))])
def test_margins_that_are_not_of_all_coalitions_are_refused(margins: np.ndarray) -> None:
    with pytest.raises(UsageError, match="all 2\\^n coalitions"):
        shares_of(margins, "sigmoid", scale_bits=20)


def test_twice_the_shares_is_all_scale_and_pays_the_same() -> None:
    truth = np.array([0.1, 0.2, 0.05])
    found = agreement(2 * truth, truth, budget=BUDGET)
    assert (found.error, found.scale) == (pytest.approx(1.0), pytest.approx(2.0))
    assert found.shape == pytest.approx(0.0, abs=1e-12)
    assert found.pearson == pytest.approx(1.0)
    assert (found.spearman, found.payout) == (pytest.approx(1.0), 0)


@given(
    st.lists(st.floats(-1, 1), min_size=3, max_size=6).filter(lambda xs: np.linalg.norm(xs) > 0.01),
    st.integers(0, 2**32),
)
def test_scale_and_shape_make_up_the_error(truth: list[float], seed: int) -> None:
    phi = np.array(truth)
    estimate = phi + np.random.default_rng(seed).normal(scale=0.1, size=len(phi))
    found = agreement(estimate, phi, budget=BUDGET)
    assert found.error**2 == pytest.approx((found.scale - 1) ** 2 + found.shape**2)


def test_rank_correlation_moves_in_the_steps_that_are_reported() -> None:
    truth = np.array([1.0, 2.0, 3.0, 4.0])
    swapped = agreement(np.array([2.0, 1.0, 3.0, 4.0]), truth, budget=BUDGET)
    assert swapped.spearman == pytest.approx(1 - spearman_step(4))
    assert spearman_step(4) == pytest.approx(0.2)
    tied = agreement(np.array([1.0, 1.0, 3.0, 4.0]), truth, budget=BUDGET)
    assert 1 - spearman_step(4) < tied.spearman < 1


def test_a_constant_side_has_no_correlation() -> None:
    assert math.isnan(agreement(np.ones(3), np.array([1.0, 2.0, 3.0]), budget=BUDGET).pearson)


def test_payouts_differ_by_minor_units_and_negative_shares_earn_nothing() -> None:
    truth, estimate = np.array([0.5, 0.5]), np.array([0.75, 0.25])
    assert payout_difference(estimate, truth, budget=1000, seed=SEED) == 250
    assert payout_difference(np.array([1.0, -5.0]), np.array([1.0, 0.0]), budget=1000, seed=SEED) == 0
    assert payout_difference(np.array([-1.0, -1.0]), truth, budget=1000, seed=SEED) == 500


def test_a_bootstrap_of_equal_pairs_does_not_vary_and_prompts_are_drawn_whole() -> None:
    same = bootstrap_shares(np.full((2, 6), 0.3), np.arange(6), replicates=50, seed=0)
    assert same.shape == (50, 2)
    assert np.ptp(same) < 1e-12
    apart = np.array([[1.0, -1.0, 1.0, -1.0]])
    whole = bootstrap_shares(apart, np.array([0, 0, 1, 1]), replicates=50, seed=0)
    assert np.ptp(whole) < 1e-12, "each prompt has both kinds of pairs"
    assert np.ptp(bootstrap_shares(apart, np.arange(4), replicates=50, seed=0)) > 0.5


def test_relative_error_is_in_units_of_the_truth() -> None:
    assert relative_error(np.array([3.0, 8.0]), np.array([3.0, 4.0])) == pytest.approx(0.8)
