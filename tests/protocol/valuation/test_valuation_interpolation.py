"""The bounds of the polynomial method, reviewed numerically, and its agreement with independent sampling."""

import math

import numpy as np
import pytest

from patronage_protocol.valuation import Semivalue, polynomial, value
from patronage_protocol.valuation.enumeration import shares_from_values
from patronage_protocol.valuation.guard import choose_guard
from patronage_protocol.valuation.harmonics import aliasing_period, expand, lattice
from patronage_protocol.valuation.polynomial import polynomial_shares
from patronage_protocol.valuation.quadrature import gauss_error, inclusion_rule
from patronage_protocol.valuation.utilities import utility_of

SMOOTH = ("sigmoid", "log_sigmoid")


def series(expansion, x):
    angles = expansion.frequencies[:, None] * x
    wave = np.cos(angles) - 1 if expansion.even else np.sin(angles)
    return expansion.linear * x + expansion.weights @ wave


@pytest.mark.parametrize("utility", SMOOTH)
@pytest.mark.parametrize("error", [1e-6, 1e-12])
def test_the_sine_sum_is_the_utility_up_to_aliasing_and_truncation(utility, error):
    period, x = 60.0, np.linspace(-60, 60, 4001)
    off = np.abs(series(expand(period, utility, error), x) - utility_of(x, utility))
    assert (off <= np.exp(np.abs(x) - period) + error).all()
    assert off[np.abs(x) > 55].max() > 1e-3, "the aliasing that the period keeps away is there"


@pytest.mark.parametrize("largest", [1, 2, 7, 30])
def test_the_lattice_sum_is_the_sign(largest):
    x = np.arange(-largest, largest + 1)
    np.testing.assert_allclose(series(lattice(largest), x), np.sign(x) / 2, atol=1e-12)


@pytest.mark.parametrize("utility", SMOOTH)
def test_the_period_keeps_the_aliasing_of_shares_below_the_error(utility):
    rng = np.random.default_rng(0)
    for scale, shift in ((0.1, 0.0), (1.0, 0.5), (8.0, 0.0), (30.0, -10.0)):
        margins = rng.normal(size=(10, 4)) * scale + shift
        period = float(aliasing_period(margins, utility, 1e-6).max())
        expansion = expand(period, utility, 1e-13)
        members = ((np.arange(1024)[:, None] >> np.arange(10)) & 1).astype(float)
        x = members @ margins
        wrong = np.stack([series(expansion, column) for column in x.T], axis=1) - utility_of(x, utility)
        assert np.abs(shares_from_values(wrong, Semivalue())).max() <= 1e-6


@pytest.mark.parametrize("n", [10, 40, 200, 1000])
def test_the_gauss_error_is_bounded_for_the_worst_products(n):
    rng = np.random.default_rng(n)
    angles = [np.full(n - 1, x) for x in (0.1, 0.5, math.pi / 4, 1.4)]
    angles += [rng.uniform(-3, 3, n - 1), rng.standard_cauchy(n - 1), np.r_[1.5, np.zeros(n - 2)]]
    exact, weights = np.polynomial.legendre.leggauss((n + 1) // 2 + 1)

    def mean(nodes, weights, phi):
        factors = np.cos(phi) + 1j * nodes[:, None] * np.sin(phi)
        return float(weights @ np.prod(factors, axis=1).real)

    for error in (1e-3, 1e-8, 1e-13):
        rule = inclusion_rule(Semivalue(), n, error)
        for phi in angles:
            off = abs(mean(rule.nodes, rule.weights, phi) - mean(exact, weights / 2, phi))
            assert off <= rule.error + 1e-14
        assert rule.error <= error
        assert 2 * len(rule.nodes) < n or n < 50


def test_the_gauss_bound_falls_with_the_square_of_the_nodes():
    assert gauss_error(100, 1000) < 50 * math.exp(-2 * 100**2 / 999) * math.sqrt(1000)
    assert gauss_error(50, 100) == 0.0


@pytest.mark.parametrize(
    ("a", "b", "moments"), [(4, 1, (0.2, 1 / 15)), (1, 4, (0.8, 2 / 3)), (0.5, 0.5, (0.5, 3 / 8))]
)
def test_a_beta_rule_has_the_moments_of_its_density(a, b, moments):
    rule = inclusion_rule(Semivalue.beta(a, b), 9, 0.0)
    inclusion = (1 + rule.nodes) / 2
    found = [float(rule.weights @ inclusion**power) for power in (1, 2)]
    if rule.folded:
        found = [0.5, float(rule.weights @ (inclusion**2 + (1 - inclusion) ** 2)) / 2]
    np.testing.assert_allclose(found, moments, atol=1e-14)


CROWDS = {
    "mild": lambda rng, n: rng.normal(size=(n, 12)) * 0.1,
    "strong": lambda rng, n: rng.normal(size=(n, 12)) * 0.7,
    "one side": lambda rng, n: np.abs(rng.normal(size=(n, 12))) * 0.1,
    "heavy tails": lambda rng, n: rng.standard_cauchy(size=(n, 12)) * 0.02,
    "one dominant owner": lambda rng, n: np.r_[np.full((1, 12), 25.0), rng.normal(size=(n - 1, 12)) * 0.01],
    "R about 800": lambda rng, n: np.full((n, 2), 800.0 / n),
    "mostly zero": lambda rng, n: rng.normal(size=(n, 12)) * (rng.random((n, 12)) < 0.05),
    "a pair of zeros": lambda rng, n: rng.normal(size=(n, 12)) * np.r_[np.zeros(6), np.full(6, 0.2)],
}


@pytest.mark.parametrize("semivalue", [Semivalue(), Semivalue("banzhaf"), Semivalue.beta(4, 1)], ids=str)
@pytest.mark.parametrize("utility", SMOOTH)
@pytest.mark.parametrize("crowd", CROWDS)
def test_interpolated_shares_are_the_direct_ones(monkeypatch, crowd, utility, semivalue):
    margins = CROWDS[crowd](np.random.default_rng(7), 120)
    asked = {"tolerance": 1e-9, "threads": 1}
    interpolated = polynomial_shares(margins, utility, semivalue, **asked)
    monkeypatch.setattr(polynomial, "choose_guard", lambda *_: None)
    direct = polynomial_shares(margins, utility, semivalue, **asked)
    off = np.abs(interpolated.pair_shares - direct.pair_shares).max()
    assert off <= 1e-9
    assert off <= interpolated.error_bound <= 1e-9
    assert direct.interpolation == 0


@pytest.mark.parametrize("crowd", ["mild", "strong", "one dominant owner", "heavy tails"])
def test_the_guard_lets_crowds_be_interpolated(crowd):
    margins = CROWDS[crowd](np.random.default_rng(7), 400)
    found = polynomial_shares(margins, "sigmoid", Semivalue(), tolerance=1e-9, threads=1)
    assert found.interpolation > 0
    assert found.direct < 100


@pytest.mark.parametrize("scale", [0.05, 0.6])
def test_the_guard_bounds_what_interpolation_changes(scale):
    """With few nodes the error is large enough to be seen, and the bound must still hold."""
    margins = np.random.default_rng(3).normal(size=(80, 8)) * scale
    expansion = expand(float(aliasing_period(margins, "sigmoid", 1e-12).max()), "sigmoid", 1e-12)
    rule = inclusion_rule(Semivalue(), 80, 1e-13)
    direct = polynomial.product_shares(margins, expansion, rule)
    seen = 0.0
    for error in (1e-2, 1e-4, 1e-6, 1e-8):
        guard = choose_guard(margins, expansion, rule, error)
        found = polynomial.Interpolation(expansion, rule, guard).shares(margins)
        off = np.abs(found - direct).sum(axis=0).max()
        assert off <= guard.error <= error
        seen = max(seen, off)
    assert seen > 1e-9


@pytest.mark.parametrize("utility", SMOOTH)
def test_a_thousand_owners_agree_with_monte_carlo(utility):
    rng = np.random.default_rng(1)
    n, pairs, draws = 1000, 6, 400
    margins = rng.normal(size=(n, pairs)) * rng.choice([0.01, 0.05, 0.3], size=(n, 1))
    exact = value(margins, utility=utility, interval=None).shares
    scores = []
    for owner in rng.choice(n, size=60, replace=False):
        members = rng.random((draws, n)) < rng.random(draws)[:, None]
        members[:, owner] = False
        base = members @ margins
        gain = (utility_of(base + margins[owner], utility) - utility_of(base, utility)).mean(axis=1)
        scores.append((gain.mean() - exact[owner]) / (gain.std(ddof=1) / math.sqrt(draws)))
    scores = np.array(scores)
    assert abs(scores.mean()) < 4 / math.sqrt(len(scores))
    assert 0.7 < scores.std() < 1.3
    assert np.abs(scores).max() < 4.5
