"""Every method against plain enumeration of permutations, the axioms, and what is refused."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from patronage_protocol.errors import UsageError, VerificationError
from patronage_protocol.valuation import (
    IntervalSpec,
    Margins,
    SamplingSpec,
    Semivalue,
    _compiled,
    engine,
    shares_from_values,
    value,
)
from patronage_protocol.valuation._threads import in_order

SMOOTH = ("sigmoid", "log_sigmoid")
matrices = st.integers(1, 6).flatmap(
    lambda n: hnp.arrays(
        np.float64, st.tuples(st.just(n), st.integers(1, 4)), elements=st.floats(-4, 4, width=32)
    )
)
fixed = st.integers(1, 6).flatmap(
    lambda n: hnp.arrays(np.int32, st.tuples(st.just(n), st.integers(1, 4)), elements=st.integers(-12, 12))
)


def normal(n, pairs, scale=0.5, seed=0):
    return np.random.default_rng(seed).normal(size=(n, pairs)) * scale


@pytest.mark.parametrize("utility", SMOOTH)
@pytest.mark.parametrize("method", ["enumeration", "polynomial"])
@pytest.mark.parametrize("n", [1, 2, 3, 5, 8])
def test_shapley_shares_are_those_of_all_permutations(
    margin_game, shapley_by_permutations, utility, method, n
):
    margins = normal(n, 3, scale=1.5, seed=n)
    expected = shapley_by_permutations(margin_game(margins, utility), n)
    result = value(margins, utility=utility, method=method, tolerance=1e-12, interval=None)
    np.testing.assert_allclose(result.pair_shares, expected, atol=1e-12, rtol=0)
    np.testing.assert_allclose(result.shares, expected.mean(axis=1), atol=1e-12, rtol=0)


@pytest.mark.parametrize("method", ["enumeration", "polynomial"])
@pytest.mark.parametrize("n", [1, 2, 4, 7])
def test_win_is_exact_on_the_lattice(margin_game, shapley_by_permutations, method, n):
    values = np.random.default_rng(n).integers(-9, 10, size=(n, 6)).astype(np.int32)
    expected = shapley_by_permutations(margin_game(values.astype(float), "win"), n)
    result = value(Margins(values, 3), utility="win", method=method, tolerance=1e-11, interval=None)
    np.testing.assert_allclose(result.pair_shares, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("utility", SMOOTH)
@pytest.mark.parametrize("weights", ["mean", "size"])
def test_compositions_that_divide_are_enumerated(margin_game, shapley_by_permutations, utility, weights):
    margins, sizes = normal(5, 4), np.array([1, 5, 2, 9, 3])
    mass = sizes.astype(float) if weights == "size" else np.ones(5)
    expected = shapley_by_permutations(margin_game(margins, utility, mass), 5)
    result = value(
        margins,
        utility=utility,
        weights=weights,
        sizes=sizes if weights == "size" else None,
        interval=None,
    )
    np.testing.assert_allclose(result.pair_shares, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("utility", SMOOTH)
@pytest.mark.parametrize(
    "semivalue", ["shapley", "banzhaf", Semivalue.beta(4, 1), Semivalue.beta(1, 16), Semivalue.beta(2, 2)]
)
@pytest.mark.parametrize("n", [13, 20])
def test_the_polynomial_method_agrees_with_enumeration(utility, semivalue, n):
    margins = normal(n, 3, scale=0.7, seed=n)
    asked = {"utility": utility, "semivalue": semivalue, "interval": None, "tolerance": 1e-11}
    polynomial = value(margins, method="polynomial", **asked)
    enumerated = value(margins, method="enumeration", **asked)
    np.testing.assert_allclose(polynomial.pair_shares, enumerated.pair_shares, atol=1e-11, rtol=0)


def test_leave_one_out_is_the_loss_without_an_owner(margin_game):
    margins = normal(6, 5)
    game = margin_game(margins, "sigmoid")
    everybody = np.ones(6, dtype=bool)
    expected = [game(everybody) - game(everybody & (np.arange(6) != i)) for i in range(6)]
    for method in ("auto", "enumeration"):
        result = value(margins, semivalue="leave_one_out", method=method, interval=None)
        np.testing.assert_allclose(result.pair_shares, expected, atol=1e-14)


def test_coalition_values_are_in_bitmask_order(margin_game):
    margins = normal(4, 7)
    game = margin_game(margins, "sigmoid")
    result = value(margins)
    expected = [game(np.array([mask >> i & 1 for i in range(4)], dtype=bool)).mean() for mask in range(16)]
    np.testing.assert_allclose(result.coalition_values, expected, atol=1e-15)
    assert result.coalition_values[0] == 0
    assert result.grand == pytest.approx(result.coalition_values[-1], abs=1e-15)


HARD = {
    "heavy tails": np.random.default_rng(1).standard_cauchy(size=(9, 12)),
    "one dominant owner": np.concatenate([np.full((1, 6), 40.0), normal(9, 6, 0.01)]),
    "R about 800": np.random.default_rng(2).choice([-1.0, 1.0], size=(8, 6)) * 100,
    "all zero": np.zeros((5, 4)),
    "duplicates": np.repeat(normal(1, 6, 1.0), 8, axis=0),
    "opposites": np.concatenate([normal(4, 6, 3.0), -normal(4, 6, 3.0)]),
    "one owner, one pair": np.array([[0.25]]),
    "tiny": normal(6, 5, 1e-9),
}


@pytest.mark.parametrize("utility", SMOOTH)
@pytest.mark.parametrize("name", HARD)
def test_hard_cases_stay_within_the_certificate(utility, name):
    asked = {"utility": utility, "interval": None}
    polynomial = value(HARD[name], method="polynomial", tolerance=1e-9, **asked)
    enumerated = value(HARD[name], method="enumeration", **asked)
    error = np.abs(polynomial.pair_shares - enumerated.pair_shares).max()
    assert error <= polynomial.certificate.error_bound <= 1e-9
    assert polynomial.certificate.efficiency_gap <= 1e-9


@given(matrices, st.sampled_from(SMOOTH), st.sampled_from(["enumeration", "polynomial"]))
@settings(max_examples=40)
def test_shares_add_up_to_the_value_of_the_grand_coalition(margins, utility, method):
    result = value(margins, utility=utility, method=method, interval=None)
    assert result.shares.sum() == pytest.approx(result.grand, abs=2e-9)


@given(matrices, st.sampled_from(SMOOTH), st.sampled_from(["enumeration", "polynomial"]))
@settings(max_examples=40)
def test_equal_owners_earn_equally_and_a_null_owner_nothing(margins, utility, method):
    twice = np.concatenate([margins, margins[:1], np.zeros_like(margins[:1])])
    shares = value(twice, utility=utility, method=method, interval=None).shares
    assert shares[0] == pytest.approx(shares[-2], abs=2e-9)
    assert shares[-1] == pytest.approx(0, abs=2e-9)


@given(fixed, st.sampled_from(["enumeration", "polynomial"]))
@settings(max_examples=40)
def test_the_axioms_hold_for_win(values, method):
    twice = np.concatenate([values, values[:1], np.zeros_like(values[:1])])
    result = value(Margins(twice, 4), utility="win", method=method, interval=None)
    assert result.shares.sum() == pytest.approx(result.grand, abs=1e-9)
    assert result.shares[0] == pytest.approx(result.shares[-2], abs=1e-9)
    assert result.shares[-1] == pytest.approx(0, abs=1e-9)


@given(matrices, st.sampled_from(SMOOTH), st.sampled_from(["shapley", "banzhaf", "leave_one_out"]))
@settings(max_examples=40)
def test_shares_are_linear_in_pairs(margins, utility, semivalue):
    doubled = np.concatenate([margins, margins[:, ::-1]], axis=1)
    asked = {"utility": utility, "semivalue": semivalue, "interval": None}
    np.testing.assert_allclose(value(doubled, **asked).shares, value(margins, **asked).shares, atol=1e-12)


@given(matrices, st.floats(-3, 3), st.floats(-3, 3), st.sampled_from(["enumeration", "polynomial"]))
@settings(max_examples=40)
def test_shares_are_linear_in_the_utility(margins, first, second, method):
    both = [value(margins, utility=utility, method="enumeration", interval=None) for utility in SMOOTH]
    mixed = first * both[0].coalition_values + second * both[1].coalition_values
    shares = [value(margins, utility=utility, method=method, interval=None).shares for utility in SMOOTH]
    expected = first * shares[0] + second * shares[1]
    np.testing.assert_allclose(shares_from_values(mixed, Semivalue()), expected, atol=1e-8)


@given(fixed, st.integers(0, 99))
@settings(max_examples=15)
def test_the_axioms_hold_for_sampling_up_to_its_error(values, seed):
    twice = np.concatenate([values, values[:1], np.zeros_like(values[:1])])
    result = value(
        Margins(twice, 4),
        utility="win",
        method="sampling",
        interval=None,
        sampling=SamplingSpec(256, seed=seed),
    )
    assert result.shares.sum() == pytest.approx(result.grand, abs=1e-8)
    assert result.shares[-1] == pytest.approx(0, abs=1e-8)
    assert result.shares[0] == pytest.approx(result.shares[-2], abs=8 * result.certificate.error_bound + 1e-8)


def test_the_order_of_owners_and_pairs_does_not_matter():
    margins = normal(14, 70)
    owners, pairs = np.random.default_rng(3).permutation(14), np.random.default_rng(4).permutation(70)
    straight = value(margins, interval=None).pair_shares
    shuffled = value(margins[owners][:, pairs], interval=None).pair_shares
    np.testing.assert_allclose(shuffled, straight[owners][:, pairs], atol=2e-9)


@pytest.mark.parametrize("n", [6, 14])
def test_the_bytes_do_not_depend_on_the_number_of_threads(n):
    margins = normal(n, 300)
    one, two, three = (value(margins, threads=k) for k in (1, 2, 3))
    for other in (two, three):
        assert one.pair_shares.tobytes() == other.pair_shares.tobytes()
        assert one.intervals.lower.tobytes() == other.intervals.lower.tobytes()


def test_the_bytes_do_not_depend_on_the_threads_of_blas():
    script = (
        "import numpy as np, sys; from patronage_protocol.valuation import value;"
        "a = np.random.default_rng(0).normal(size=(80, 900)) * .05; r = value(a);"
        "assert r.certificate.nodes['interpolation'];"
        "sys.stdout.write((r.pair_shares.tobytes() + r.intervals.upper.tobytes()).hex())"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", script],
            env=os.environ | {"OPENBLAS_NUM_THREADS": threads},
            capture_output=True,
            check=True,
        ).stdout
        for threads in ("1", "2")
    ]
    assert outputs[0] == outputs[1]
    assert len(outputs[0]) == 2 * 8 * (80 * 900 + 80)


def test_results_of_threads_come_back_in_order():
    assert list(in_order(lambda k: k * k, range(50), 3)) == [k * k for k in range(50)]


def test_the_certificate_says_what_was_picked_and_why():
    assert value(normal(5, 3)).certificate.method == "enumeration"
    certificate = value(normal(30, 3)).certificate
    assert certificate.method == "polynomial"
    assert "30 owners" in certificate.reason
    assert set(certificate.nodes) >= {"frequencies", "inclusions"}


def test_a_certificate_that_fails_is_an_error(monkeypatch):
    true = engine.polynomial_shares

    def wrong(*args, **kwargs):
        found = true(*args, **kwargs)
        found.pair_shares[0] += 1e-6
        return found

    monkeypatch.setattr(engine, "polynomial_shares", wrong)
    with pytest.raises(VerificationError, match=r"a gap of 1\.0e-06"):
        value(normal(14, 5), method="polynomial")


GOOD = normal(3, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"margins": np.array([[0.0, np.nan]])}, "nan for owner 0, pair 1"),
        ({"margins": np.array([[0.0], [np.inf]])}, "inf for owner 1, pair 0"),
        ({"margins": np.zeros((0, 5))}, r"\(0, 5\)"),
        ({"margins": np.zeros((5, 0))}, r"\(5, 0\)"),
        ({"margins": np.zeros(5)}, r"\(5,\)"),
        ({"margins": np.full((2, 2), 4e4)}, "40000"),
        ({"margins": np.array([["a"]])}, "dtype"),
        ({"clusters": np.zeros(3, dtype=int)}, r"shape \(3,\)"),
        ({"clusters": np.zeros(4)}, "float64"),
        ({"clusters": np.zeros(4, dtype=int)}, "two clusters"),
        ({"utility": "win"}, "fixed-point"),
        ({"utility": "accuracy"}, "accuracy"),
        ({"semivalue": "owen"}, "owen"),
        ({"weights": "median"}, "median"),
        ({"weights": "size"}, "sizes"),
        ({"sizes": np.ones(3, dtype=int)}, "weights='size'"),
        ({"weights": "size", "sizes": np.array([1, 0, 2])}, "integers between 1"),
        ({"method": "guess"}, "guess"),
        ({"tolerance": 0.0}, "between 0 and 1"),
        ({"tolerance": float("nan")}, "between 0 and 1"),
        ({"tolerance": 1e-15, "method": "polynomial"}, "double precision"),
        ({"threads": 0}, "one thread"),
        ({"margins": np.zeros((23, 2)), "method": "enumeration"}, "23"),
        ({"weights": "mean", "method": "polynomial"}, "mean"),
    ],
)
def test_bad_input_is_refused_in_one_line(arguments, message):
    with pytest.raises(UsageError, match=message) as caught:
        value(**({"margins": GOOD} | arguments))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "bits"),
    [
        (np.zeros((2, 2)), 16),
        ([[1, 2]], 16),
        (np.zeros((2, 2), dtype=np.int64), 16),
        (np.zeros((0, 2), dtype=np.int32), 16),
        (np.zeros((2, 2), dtype=np.int32), 31),
        (np.zeros((2, 2), dtype=np.int32), -1),
    ],
)
def test_margins_that_are_not_fixed_point_are_refused(values, bits):
    with pytest.raises(UsageError):
        Margins(values, bits)


def test_fixed_point_margins_are_read_exactly():
    values = np.array([[1, -3], [2**31 - 1, -(2**31)]], dtype=np.int32)
    np.testing.assert_array_equal(Margins(values, 16).reals() * 2**16, values)


@pytest.mark.parametrize("terms", [{"level": 1.0}, {"replicates": 10}, {"power": 0.4}, {"kind": "bayes"}])
def test_impossible_interval_terms_are_refused(terms):
    with pytest.raises(UsageError):
        IntervalSpec(**terms)


def test_saturation_is_the_gap_to_aumann_shapley():
    mild, strong = value(normal(6, 400, 0.02) + 0.01), value(np.abs(normal(6, 400, 2.0)) + 1)
    assert mild.saturation.shares.sum() == pytest.approx(mild.grand, abs=1e-14)
    np.testing.assert_allclose(strong.saturation.gaps, strong.saturation.shares - strong.shares, atol=1e-15)
    assert np.abs(mild.saturation.gaps).max() < 1e-4
    assert strong.saturation.saturated


def test_the_compiled_kernel_gives_the_values_of_numpy(monkeypatch):
    pytest.importorskip("numba")
    margins = np.concatenate([normal(12, 37, 1.0), normal(12, 5, 60.0)], axis=1)
    asked = {"method": "enumeration", "interval": None, "keep_pair_shares": False}
    plain = value(margins, **asked)
    monkeypatch.setattr(_compiled, "WORTH_COMPILING", 1)
    one, two = (value(margins, threads=k, **asked) for k in (1, 2))
    np.testing.assert_allclose(one.coalition_values, plain.coalition_values, atol=1e-14)
    assert one.coalition_values.tobytes() == two.coalition_values.tobytes()


def test_without_numba_numpy_does_the_work(monkeypatch):
    monkeypatch.setattr(_compiled.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(_compiled, "WORTH_COMPILING", 1)
    assert not _compiled.worth_it(20, 2000, "sigmoid")
    value(normal(5, 4), method="enumeration", interval=None, keep_pair_shares=False)
