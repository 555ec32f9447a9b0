"""Splitting changes nothing under Aumann-Shapley, and pays under Shapley once the round is saturated."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from patronage_protocol.errors import UsageError
from patronage_protocol.valuation import aumann_shapley, value
from patronage_protocol.valuation.utilities import utility_of

SMOOTH = ("sigmoid", "log_sigmoid")
matrices = hnp.arrays(
    np.float64, st.tuples(st.integers(1, 6), st.integers(1, 5)), elements=st.floats(-20, 20, width=32)
)


@given(matrices, st.sampled_from(SMOOTH))
@settings(max_examples=60)
def test_the_shares_add_up_and_a_null_owner_earns_nothing(margins, utility):
    with_null = np.concatenate([margins, np.zeros_like(margins[:1])])
    shares = aumann_shapley(with_null, utility=utility)
    grand = utility_of(margins.sum(axis=0), utility)
    np.testing.assert_allclose(shares.sum(axis=0), grand, atol=1e-12, rtol=1e-12)
    assert (shares[-1] == 0).all()


@given(matrices, st.sampled_from(SMOOTH), st.integers(2, 5))
@settings(max_examples=60)
def test_parts_of_an_owner_earn_together_what_it_earns(margins, utility, parts):
    cuts = np.random.default_rng(parts).dirichlet(np.ones(parts))
    split = np.concatenate([cuts[:, None] * margins[0], margins[1:]])
    whole = aumann_shapley(margins, utility=utility)
    apart = aumann_shapley(split, utility=utility)
    np.testing.assert_allclose(apart[:parts].sum(axis=0), whole[0], atol=1e-11)
    np.testing.assert_allclose(apart[parts:], whole[1:], atol=1e-11)


@pytest.mark.parametrize("utility", SMOOTH)
def test_the_shares_are_the_price_along_the_ray(utility):
    margins = np.random.default_rng(0).normal(size=(4, 6)) * 2
    s = (np.arange(20_000) + 0.5) / 20_000
    x = s[:, None] * margins.sum(axis=0)
    price = 1 / (np.exp(x / 2) + np.exp(-x / 2)) ** 2 if utility == "sigmoid" else 1 / (1 + np.exp(x))
    np.testing.assert_allclose(
        aumann_shapley(margins, utility=utility), margins * price.mean(axis=0), atol=1e-8
    )


def gain_from_splitting(total):
    """How much more one of four equal owners earns under Shapley by entering as two halves."""
    margins = np.full((4, 1), total / 4)
    halves = np.concatenate([margins[:3], np.full((2, 1), total / 8)])
    whole = value(margins, interval=None).shares[0]
    return value(halves, interval=None).shares[3:].sum() / whole - 1


def test_shapley_pays_a_splitter_once_the_round_is_saturated():
    assert abs(gain_from_splitting(0.01)) < 1e-5
    assert gain_from_splitting(7.5) > 0.05


def test_win_has_no_price():
    with pytest.raises(UsageError, match="derivative"):
        aumann_shapley(np.zeros((2, 2)), utility="win")
