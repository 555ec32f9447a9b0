"""Sampling, estimators of black boxes, interactions, and the games that they are tried on."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from patronage_protocol.errors import MissingExtraError, UsageError
from patronage_protocol.valuation import (
    Margins,
    SamplingSpec,
    Semivalue,
    additive_control,
    all_coalitions,
    du_shapley,
    estimate_shares,
    estimate_with_shapiq,
    interactions_from_values,
    pairwise_interactions,
    shapiq_bridge,
    shares_from_values,
    to_interaction_values,
    value,
)
from patronage_protocol.valuation.ratio import average_shares


def normal(n, pairs, scale=0.5, seed=0):
    return np.random.default_rng(seed).normal(size=(n, pairs)) * scale


def any_game(n, seed=0):
    """A game without structure: independent random values."""
    values = np.random.default_rng(seed).normal(size=1 << n)
    values[0] = 0.0
    return (lambda rows: values[np.asarray(rows) @ (1 << np.arange(n))]), values


SEMIVALUES = (Semivalue(), Semivalue("banzhaf"), Semivalue.beta(1, 4))


@given(
    hnp.arrays(np.float64, st.integers(1, 6), elements=st.floats(1.0, 5000.0)), st.sampled_from(SEMIVALUES)
)
@settings(max_examples=25)
def test_the_shares_of_an_average_are_exact(mass, semivalue):
    n = len(mass)
    members = all_coalitions(n).astype(float)
    total = members @ mass
    for owner in range(n):
        game = members[:, owner] * mass[owner] / np.where(total > 0, total, 1.0)
        expected = shares_from_values(game, semivalue)
        np.testing.assert_allclose(average_shares(mass, semivalue)[:, owner], expected, atol=1e-12)


@pytest.mark.parametrize("case", ["mean", "size", "win"])
@pytest.mark.parametrize("semivalue", SEMIVALUES, ids=str)
def test_sampled_shares_are_within_their_standard_errors(case, semivalue):
    scores = []
    for seed in range(4):
        margins = normal(10, 40, 0.8, seed) + 0.2
        if case == "win":
            asked = {"margins": Margins(np.rint(margins * 64).astype(np.int32), 6), "utility": "win"}
        else:
            sizes = np.random.default_rng(seed).integers(1, 60, 10) if case == "size" else None
            asked = {"margins": margins, "weights": case, "sizes": sizes}
        asked |= {"semivalue": semivalue, "interval": None}
        exact = value(**asked, method="enumeration")
        found = value(**asked, method="sampling", sampling=SamplingSpec(permutations=512, seed=seed))

        scores.append((found.shares - exact.shares) / found.certificate.error_bound)
        if semivalue.efficient:
            assert found.certificate.efficiency_gap < 1e-8
    scores = np.concatenate(scores)
    assert np.abs(scores).max() < 4.5
    assert np.abs(scores).max() > 0.1, "an estimate without any error would not be an estimate"


def test_the_control_variate_takes_most_of_the_noise():
    margins = normal(30, 60, 0.2, 1) + 0.05
    found = value(margins, weights="mean", interval=None, sampling=SamplingSpec(permutations=64))
    assert found.certificate.method == "sampling"
    position = np.random.default_rng(0)
    raw = []
    for _ in range(64):
        order = position.permutation(30)
        x = np.cumsum(margins[order], axis=0) / np.arange(1, 31)[:, None]
        steps = np.diff(np.tanh(x / 2).mean(axis=1) / 2, prepend=0.0)
        raw.append(steps[np.argsort(order)])
    plain = np.std(raw, axis=0, ddof=1).max() / np.sqrt(64)
    assert found.certificate.error_bound < plain / 20


def test_sampling_stops_at_the_requested_error_and_says_when_it_cannot():
    asked = {"margins": normal(24, 30), "weights": "mean", "interval": None}
    loose = value(**asked, sampling=SamplingSpec(4096, standard_error=1e-4))
    assert loose.certificate.error_bound <= 1e-4
    assert loose.certificate.nodes["permutations"] < 2 * 4096
    with pytest.raises(UsageError, match="standard errors of at most"):
        value(**asked, sampling=SamplingSpec(64, standard_error=1e-12))


def test_sampled_bytes_do_not_depend_on_the_number_of_threads():
    asked = {"margins": normal(24, 30), "weights": "mean", "interval": None}
    one, two = (value(**asked, threads=k, sampling=SamplingSpec(64)) for k in (1, 2))
    assert one.pair_shares.tobytes() == two.pair_shares.tobytes()


def test_win_with_many_owners_uses_a_coarse_lattice_or_samples():
    values = np.random.default_rng(0).integers(-3, 4, size=(30, 4)).astype(np.int32)
    coarse = value(Margins(values * 4096, 16), utility="win", interval=None)
    assert coarse.certificate.method == "polynomial"
    sampled = value(
        Margins(values * 4096, 16),
        utility="win",
        interval=None,
        method="sampling",
        sampling=SamplingSpec(2048),
    )
    off = np.abs(sampled.shares - coarse.shares).max()
    assert off < 4.5 * sampled.certificate.error_bound
    fine = np.random.default_rng(0).integers(-(2**20), 2**20, size=(30, 200)).astype(np.int32)
    assert value(Margins(fine, 16), utility="win", interval=None).certificate.method == "sampling"


@pytest.mark.parametrize("estimator", ["permutations", "group_testing"])
def test_estimators_converge_to_the_shapley_value_of_any_game(estimator):
    game, values = any_game(6)
    exact = shares_from_values(values, Semivalue())
    errors = []
    for budget in (300, 30_000):
        found = estimate_shares(game, 6, estimator=estimator, budget=budget, seed=1)
        assert found.evaluations <= budget
        assert found.shares.sum() == pytest.approx(values[-1])
        errors.append(np.linalg.norm(found.shares - exact))
    assert errors[1] < errors[0] / 3
    assert errors[1] < 0.05


def test_standard_errors_of_permutations_are_honest():
    game, values = any_game(6)
    exact = shares_from_values(values, Semivalue())
    scores = []
    for seed in range(40):
        found = estimate_shares(game, 6, budget=1200, seed=seed)
        scores.append((found.shares - exact) / found.standard_errors)
    assert 0.85 < np.std(scores) < 1.15


@pytest.mark.parametrize("estimator", ["permutations", "group_testing"])
def test_a_control_game_takes_the_error_out(estimator):
    margins = normal(8, 50, 2.0) + 0.5
    control = additive_control(margins)
    noise, residual = any_game(8, seed=3)
    values = control.game(all_coalitions(8)) + 1e-4 * residual
    exact = shares_from_values(values, Semivalue())

    def merged(rows):
        return control.game(rows) + 1e-4 * noise(rows)

    asked = {"estimator": estimator, "budget": 500, "seed": 0}
    without = estimate_shares(merged, 8, **asked)
    with_control = estimate_shares(merged, 8, control=control, **asked)
    assert np.linalg.norm(with_control.shares - exact) < np.linalg.norm(without.shares - exact) / 10
    assert np.linalg.norm(with_control.shares - exact) < 1e-3


@pytest.mark.parametrize("estimator", ["permutations", "group_testing"])
def test_the_axioms_hold_for_estimators_up_to_their_error(estimator):
    def game(rows):
        rows = np.asarray(rows).astype(float)
        return rows[:, 0] + rows[:, 1] + rows[:, 0] * rows[:, 1]

    found = estimate_shares(game, 3, estimator=estimator, budget=40_000).shares
    np.testing.assert_allclose(found, [1.5, 1.5, 0.0], atol=0.05)
    assert found.sum() == pytest.approx(3.0)


def test_one_owner_earns_everything():
    def game(rows):
        return 0.25 * np.asarray(rows)[:, 0]

    for estimator in ("permutations", "group_testing"):
        found = estimate_shares(game, 1, estimator=estimator, budget=10)
        np.testing.assert_allclose(found.shares, [0.25])


def test_du_shapley_of_equal_owners_splits_equally_and_follows_its_formula():
    equal = du_shapley(np.full(5, 20), np.sqrt)
    np.testing.assert_allclose(equal, np.sqrt(100) / 5)
    sizes, psi = np.array([1, 3]), du_shapley(np.array([1, 3]), lambda m: m**2)
    np.testing.assert_allclose(psi, [(1 + 16 - 9) / 2, (9 + 16 - 1) / 2])
    assert len(psi) == len(sizes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"budget": 3}, "budget of at least"),
        ({"budget": 1, "estimator": "group_testing"}, "at least 2"),
        ({"estimator": "guess"}, "guess"),
        ({"owners": 0}, "at least one owner"),
        ({"game": lambda rows: np.full(len(rows), np.nan)}, "NaN"),
        ({"game": lambda rows: np.zeros((len(rows), 2))}, "shape"),
    ],
)
def test_estimators_refuse_bad_input(arguments, message):
    good = {"game": any_game(4)[0], "owners": 4, "budget": 100}
    with pytest.raises(UsageError, match=message):
        estimate_shares(**(good | arguments))


@pytest.mark.parametrize("terms", [{"permutations": 8}, {"standard_error": 0.0}])
def test_impossible_sampling_terms_are_refused(terms):
    with pytest.raises(UsageError):
        SamplingSpec(**terms)


def plain_interactions(values, n):
    from math import factorial

    result = np.zeros((n, n))
    for i in range(n):
        for k in range(n):
            if i == k:
                continue
            for mask in range(1 << n):
                if mask >> i & 1 or mask >> k & 1:
                    continue
                size = bin(mask).count("1")
                weight = factorial(size) * factorial(n - size - 2) / factorial(n - 1)
                both, first, second = mask | 1 << i | 1 << k, mask | 1 << i, mask | 1 << k
                gain = values[both] - values[first] - values[second] + values[mask]
                result[i, k] += weight * gain
    return result


@pytest.mark.parametrize("n", [2, 3, 6])
def test_interactions_of_any_game_follow_their_definition(n):
    _, values = any_game(n, seed=n)
    np.testing.assert_allclose(interactions_from_values(values), plain_interactions(values, n), atol=1e-12)


@pytest.mark.parametrize("utility", ["sigmoid", "log_sigmoid"])
@pytest.mark.parametrize(("n", "scale"), [(2, 1.0), (7, 0.5), (13, 2.0)])
def test_polynomial_interactions_are_the_enumerated_ones(utility, n, scale):
    margins = normal(n, 70, scale)
    values = value(margins, utility=utility, method="enumeration", interval=None).coalition_values
    found = pairwise_interactions(margins, utility=utility, tolerance=1e-10)
    np.testing.assert_allclose(found, interactions_from_values(values), atol=1e-10)


def test_copies_substitute_each_other():
    margins = np.abs(normal(5, 40, 1.0)) + 0.5
    margins[1] = margins[0]
    found = pairwise_interactions(margins)
    assert found[0, 1] < 0
    np.testing.assert_allclose(found, found.T, atol=1e-12)


def test_interactions_refuse_win_and_other_vectors():
    with pytest.raises(UsageError, match="smooth"):
        pairwise_interactions(normal(3, 3), utility="win")
    with pytest.raises(UsageError, match="coalition values"):
        interactions_from_values(np.zeros(6))


def test_one_owner_has_no_interactions():
    assert pairwise_interactions(normal(1, 3)).tolist() == [[0.0]]
    assert interactions_from_values(np.array([0.0, 1.0])).tolist() == [[0.0]]


def test_a_missing_shapiq_is_named(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError("No module named 'shapiq'", name="shapiq")

    monkeypatch.setattr(shapiq_bridge.importlib, "import_module", missing)
    with pytest.raises(MissingExtraError, match="patronage\\[estimators\\]"):
        to_interaction_values(value(normal(3, 4)))


def test_only_values_that_shapiq_knows_are_converted():
    with pytest.raises(UsageError, match="leave_one_out"):
        to_interaction_values(value(normal(3, 4), semivalue="leave_one_out"))


@pytest.mark.parametrize("approximator", ["KernelSHAP", "PermutationSamplingSV"])
def test_estimators_of_shapiq_see_the_residual(approximator):
    pytest.importorskip("shapiq")
    margins = normal(10, 50, 0.4)
    control = additive_control(margins)
    found = estimate_with_shapiq(
        control.game, 10, approximator=approximator, budget=120, seed=1, control=control
    )
    np.testing.assert_allclose(found.shares, control.shares, atol=1e-12)
    plain = estimate_with_shapiq(control.game, 10, approximator=approximator, budget=400, seed=1)
    np.testing.assert_allclose(plain.shares, control.shares, atol=2e-2)
    assert 0 < plain.evaluations <= 410
    with pytest.raises(UsageError, match="approximator"):
        estimate_with_shapiq(control.game, 10, approximator="Nothing", budget=10)


def test_shares_and_interactions_become_interaction_values():
    pytest.importorskip("shapiq")
    margins = normal(5, 30)
    result, pairs = value(margins), pairwise_interactions(margins)
    first = to_interaction_values(result)
    assert first.index == "SV"
    assert first[(2,)] == pytest.approx(result.shares[2])
    second = to_interaction_values(result, pairs)
    assert second[(1, 3)] == pytest.approx(pairs[1, 3])
