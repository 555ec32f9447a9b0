"""Shares of owners that are not scored on every pair: what they are, and which axioms they keep."""

from itertools import permutations
from math import factorial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from patronage_protocol.errors import UsageError
from patronage_protocol.valuation import IntervalSpec, Margins, value
from patronage_protocol.valuation.intervals import bootstrap, power_of_round
from patronage_protocol.valuation.scored import mean_shares, scored_shares
from patronage_protocol.valuation.utilities import utility_of

OWNERS, PAIRS = 4, 12
SPEC = IntervalSpec(replicates=100, seed=3)
UTILITIES = ("sigmoid", "log_sigmoid", "win")

Matrix = NDArray[np.int32]


def fixed(values: Matrix) -> Margins:
    return Margins(values, 4)


def pair_shares(values: Matrix, utility: str) -> NDArray[np.float64]:
    result = value(fixed(values), utility=utility, interval=None)  # type: ignore[arg-type]
    assert result.pair_shares is not None
    return result.pair_shares


def slices(*columns: tuple[int, slice]) -> NDArray[np.bool_]:
    scored = np.ones((OWNERS, PAIRS), dtype=np.bool_)
    for owner, own in columns:
        scored[owner, own] = False
    return scored


margins = st.lists(st.integers(-40, 40), min_size=OWNERS * PAIRS, max_size=OWNERS * PAIRS).map(
    lambda numbers: np.array(numbers, dtype=np.int32).reshape(OWNERS, PAIRS)
)


@pytest.mark.parametrize("utility", UTILITIES)
@settings(max_examples=15)
@given(values=margins)
def test_a_share_is_the_shapley_value_in_the_game_on_the_pairs_that_its_owner_is_scored_on(
    utility: str, values: Matrix
) -> None:
    scored = slices((0, slice(6, 9)), (2, slice(9, 12)))
    shares = mean_shares(pair_shares(values, utility), scored)
    for owner in range(OWNERS):
        x = fixed(values).reals()[:, scored[owner]]
        worth = 0.0
        for order in permutations(range(OWNERS)):
            before = list(order[: order.index(owner)])
            joint = x[before].sum(axis=0)
            gain = utility_of(joint + x[owner], utility) - utility_of(joint, utility)  # type: ignore[arg-type]
            worth += gain.mean() / factorial(OWNERS)
        assert shares[owner] == pytest.approx(worth, abs=1e-12)


@settings(max_examples=15)
@given(values=margins, others=margins)
def test_nothing_in_its_own_slice_moves_an_owners_share_interval_or_power(
    values: Matrix, others: Matrix
) -> None:
    own = slice(7, 12)
    scored = slices((1, own))
    changed = values.copy()
    changed[:, own] = others[:, own]
    clusters = np.arange(PAIRS) // 2
    clusters[7:] = 4 + np.arange(5) // 2
    first, second = (
        scored_shares(pair_shares(one, "sigmoid"), clusters, scored, SPEC) for one in (values, changed)
    )
    for name in ("shares", "lower", "upper", "detectable"):
        assert getattr(first, name)[1] == pytest.approx(getattr(second, name)[1], abs=1e-15)


@settings(max_examples=15)
@given(values=margins)
def test_an_owner_without_effect_on_the_pairs_that_it_is_scored_on_has_a_share_of_zero(
    values: Matrix,
) -> None:
    values[1, :7] = 0
    shares = mean_shares(pair_shares(values, "sigmoid"), slices((1, slice(7, 12)), (0, slice(5, 7))))
    assert abs(shares[1]) < 1e-15


@settings(max_examples=15)
@given(values=margins)
def test_owners_that_change_places_with_their_slices_change_shares(values: Matrix) -> None:
    swapped = values[[1, 0, 2, 3]]
    first = mean_shares(pair_shares(values, "sigmoid"), slices((0, slice(8, 10)), (1, slice(10, 12))))
    second = mean_shares(pair_shares(swapped, "sigmoid"), slices((1, slice(8, 10)), (0, slice(10, 12))))
    assert second == pytest.approx(first[[1, 0, 2, 3]], abs=1e-14)


@settings(max_examples=15)
@given(values=margins)
def test_equal_owners_that_contributed_nothing_have_equal_shares(values: Matrix) -> None:
    values[3] = values[2]
    shares = mean_shares(pair_shares(values, "sigmoid"), slices((0, slice(8, 12))))
    assert shares[2] == pytest.approx(shares[3], abs=1e-14)


@settings(max_examples=15)
@given(values=margins)
def test_shares_differ_from_those_on_all_pairs_by_how_much_better_owners_do_elsewhere(
    values: Matrix,
) -> None:
    by_pair = pair_shares(values, "sigmoid")
    own = {0: slice(8, 10), 2: slice(10, 12)}
    shares, whole = mean_shares(by_pair, slices(*own.items())), by_pair.mean(axis=1)
    expected = whole.copy()
    for owner, columns in own.items():
        expected[owner] += 2 / (PAIRS - 2) * (whole[owner] - by_pair[owner, columns].mean())
    assert shares == pytest.approx(expected, abs=1e-14)


@settings(max_examples=25)
@given(values=margins, others=margins)
def test_a_slice_moves_another_owners_share_by_less_than_twice_its_weight(
    values: Matrix, others: Matrix
) -> None:
    """Under the bounded utilities: so the cap on a slice bounds what its owner can do to the others."""
    changed = values.copy()
    changed[:, 9:] = others[:, 9:]
    scored = slices((0, slice(9, 12)))
    for utility in ("sigmoid", "win"):
        moved = mean_shares(pair_shares(changed, utility), scored) - mean_shares(
            pair_shares(values, utility), scored
        )
        assert np.abs(moved[1:]).max() < 2 * 3 / PAIRS


def test_whoever_does_best_on_its_own_pairs_gains_nothing_by_contributing_them() -> None:
    """An owner that is good at one thing brings held-out pairs of it, or they were in common."""
    random = np.random.default_rng(5)
    skills = np.array([[0.2] * 8 + [2.0] * 4, [0.5] * 12, [0.4] * 12, [0.3] * 12])
    values = np.round(16 * (skills + 0.2 * random.normal(size=skills.shape))).astype(np.int32)
    by_pair = pair_shares(values, "sigmoid")
    pooled, contributed = (mean_shares(by_pair, scored) for scored in (slices(), slices((0, slice(8, 12)))))
    without = mean_shares(by_pair[:, :8], np.ones((OWNERS, 8), dtype=np.bool_))
    assert pooled[0] > 2 * contributed[0]
    assert contributed[0] == pytest.approx(without[0], abs=1e-15)


def test_with_everybody_scored_on_every_pair_nothing_is_new() -> None:
    random = np.random.default_rng(1)
    by_pair, clusters = random.normal(size=(OWNERS, PAIRS)), np.arange(PAIRS) // 3
    found = scored_shares(by_pair, clusters, slices(), SPEC)
    intervals, power = bootstrap(by_pair, clusters, SPEC), power_of_round(by_pair, clusters, SPEC)
    assert found.shares.tolist() == by_pair.mean(axis=1).tolist()
    assert (found.lower.tolist(), found.upper.tolist()) == (
        intervals.lower.tolist(),
        intervals.upper.tolist(),
    )
    assert found.detectable.tolist() == power.detectable.tolist()


def test_an_interval_is_drawn_over_the_prompts_that_count_and_no_others() -> None:
    random = np.random.default_rng(2)
    by_pair, clusters = random.normal(size=(OWNERS, PAIRS)), np.arange(PAIRS) // 3
    found = scored_shares(by_pair, clusters, slices((1, slice(9, 12))), SPEC)
    alone = bootstrap(by_pair[1:2, :9], clusters[:9], SPEC)
    everybody = bootstrap(by_pair, clusters, SPEC)
    assert (found.lower[1], found.upper[1]) == (alone.lower[0], alone.upper[0])
    assert found.lower[[0, 2, 3]].tolist() == everybody.lower[[0, 2, 3]].tolist()


def test_an_owner_that_is_scored_on_one_prompt_has_no_interval() -> None:
    with pytest.raises(UsageError, match="two clusters"):
        scored_shares(np.ones((OWNERS, PAIRS)), np.arange(PAIRS) // 6, slices((1, slice(6, 12))), SPEC)
