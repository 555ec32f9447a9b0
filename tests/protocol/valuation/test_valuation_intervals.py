"""The draws that anybody can repeat, intervals against their definition, power, and coverage."""

import numpy as np
import pytest

from patronage_protocol.errors import UsageError
from patronage_protocol.valuation import IntervalSpec, value
from patronage_protocol.valuation._products import tiled_product
from patronage_protocol.valuation.intervals import bootstrap, power_of_round, standard_errors
from patronage_protocol.valuation.streams import Stream

MASK = 2**64 - 1


def philox(key, counter):
    """Philox4x64-10 of Salmon et al. (2011), section 3.3: four words for one counter."""
    x, k = [counter >> 64 * i & MASK for i in range(4)], [key & MASK, key >> 64 & MASK]
    for _ in range(10):
        a, b = x[0] * 0xD2E7470EE14C6C93, x[2] * 0xCA5A826395121157
        x = [b >> 64 ^ x[1] ^ k[0], b & MASK, a >> 64 ^ x[3] ^ k[1], a & MASK]
        k = [(k[0] + 0x9E3779B97F4A7C15) & MASK, (k[1] + 0xBB67AE8584CAA73B) & MASK]
    return x


def test_the_plain_philox_gives_the_published_answer():
    assert [f"{word:016x}" for word in philox(0, 0)] == [
        "16554d9eca36314c",
        "db20fe9d672d0fdc",
        "d7e772cee186176b",
        "7e68b68aec7ba23b",
    ]


@pytest.mark.parametrize("seed", [0, 1, 2**64 + 5, -1])
def test_a_stream_is_philox_from_counter_one(seed):
    expected = [word for counter in (1, 2, 3) for word in philox(seed % 2**128, counter)]
    assert Stream(seed).words(12).tolist() == expected
    indices = Stream(seed).indices(12, 37).tolist()
    assert indices == [(word >> 32) * 37 >> 32 for word in expected]


def test_permutations_are_permutations():
    drawn = Stream(3).permutations(200, 9)
    assert (np.sort(drawn, axis=1) == np.arange(9)).all()
    assert abs((drawn[:, 0]).mean() - 4) < 0.6


def test_a_tiled_product_is_the_product():
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(130, 300)), rng.normal(size=(300, 70))
    np.testing.assert_allclose(tiled_product(left, right), left @ right, atol=1e-11)


def test_a_percentile_interval_is_the_quantiles_of_resampled_means():
    rng = np.random.default_rng(0)
    pair_shares, clusters = rng.normal(size=(2, 12)), np.array([0, 0, 0, 1, 1, 2, 3, 3, 4, 4, 4, 4])
    spec = IntervalSpec(level=0.9, replicates=150, seed=7)
    drawn = Stream(7).indices(150 * 5, 5).reshape(150, 5)
    means = []
    for row in drawn:
        pairs = np.concatenate([np.flatnonzero(clusters == c) for c in row])
        means.append(pair_shares[:, pairs].mean(axis=1))
    expected = np.quantile(means, [0.05, 0.95], axis=0)
    found = bootstrap(pair_shares, clusters, spec)
    np.testing.assert_allclose([found.lower, found.upper], expected, atol=1e-14)


def test_a_studentised_interval_follows_its_definition():
    rng = np.random.default_rng(1)
    pair_shares, clusters = rng.exponential(size=(2, 40)), np.repeat(np.arange(20), 2)
    spec = IntervalSpec(level=0.8, replicates=120, seed=3, kind="studentised")
    share, error = pair_shares.mean(axis=1), standard_errors(pair_shares, clusters)
    ratios = []
    for row in Stream(3).indices(120 * 20, 20).reshape(120, 20):
        pairs = np.concatenate([np.flatnonzero(clusters == c) for c in row])
        sample, labels = pair_shares[:, pairs], np.repeat(np.arange(20), 2)
        ratios.append((sample.mean(axis=1) - share) / standard_errors(sample, labels))
    low, high = np.quantile(ratios, [0.1, 0.9], axis=0)
    found = bootstrap(pair_shares, clusters, spec)
    np.testing.assert_allclose(found.lower, share - error * high, atol=1e-12)
    np.testing.assert_allclose(found.upper, share - error * low, atol=1e-12)


def test_with_a_cluster_for_every_pair_the_standard_error_is_the_usual_one():
    pair_shares = np.random.default_rng(2).normal(size=(3, 50))
    expected = pair_shares.std(axis=1, ddof=1) / np.sqrt(50)
    np.testing.assert_allclose(standard_errors(pair_shares, np.arange(50)), expected, rtol=1e-12)


def test_power_is_the_share_at_2_8_standard_errors():
    pair_shares = np.random.default_rng(2).normal(size=(3, 50))
    power = power_of_round(pair_shares, np.arange(50), IntervalSpec())
    np.testing.assert_allclose(power.detectable, 2.8015852 * power.standard_errors, rtol=1e-7)
    assert power.smallest == power.detectable.min()


def test_a_share_of_the_detectable_size_is_detected_as_often_as_declared():
    rng, spec = np.random.default_rng(5), IntervalSpec(replicates=400)
    clusters, detected, rounds = np.arange(60), 0, 400
    detectable = 2.8015852 / np.sqrt(60)
    for k in range(rounds):
        shares = rng.normal(size=(1, 60)) + detectable
        detected += bootstrap(shares, clusters, IntervalSpec(replicates=400, seed=k)).lower[0] > 0
    assert spec.power == 0.8
    assert abs(detected / rounds - 0.8) < 0.06


@pytest.mark.parametrize("kind", ["percentile", "studentised"])
def test_shares_without_noise_have_intervals_of_no_width(kind):
    found = bootstrap(np.full((2, 30), 0.25), np.arange(30), IntervalSpec(kind=kind))
    np.testing.assert_allclose(found.lower, 0.25, atol=1e-12)
    np.testing.assert_allclose(found.upper, 0.25, atol=1e-12)


def test_studentised_intervals_refuse_too_few_clusters():
    with pytest.raises(UsageError, match="studentised"):
        bootstrap(np.array([[1.0, 2.0]]), np.array([0, 1]), IntervalSpec(kind="studentised"))


def rounds_with_clusters(rng, owners, prompts, largest):
    """A population: prompts of different difficulty, pairs that share their prompt's."""
    per_prompt = rng.integers(1, largest + 1, prompts)
    clusters = np.repeat(np.arange(prompts), per_prompt)
    common = rng.normal(size=(owners, prompts)) * 0.3
    strength = np.linspace(0.0, 0.3, owners)[:, None]
    return strength + common[:, clusters] + rng.normal(size=(owners, len(clusters))) * 0.3, clusters


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["percentile", "studentised"])
def test_intervals_cover_as_often_as_they_declare(kind):
    rng, owners = np.random.default_rng(11), 4
    margins, clusters = rounds_with_clusters(rng, owners, 200_000, 5)
    truth = value(margins, method="enumeration", interval=None).shares
    covered, rounds = np.zeros(owners), 1500
    for k in range(rounds):
        margins, clusters = rounds_with_clusters(rng, owners, 150, 5)
        found = value(
            margins, clusters=clusters, interval=IntervalSpec(replicates=999, seed=k, kind=kind), threads=1
        ).intervals
        covered += (found.lower <= truth) & (truth <= found.upper)
    assert np.abs(covered / rounds - 0.95).max() < 0.02
    assert abs(covered.mean() / rounds - 0.95) < 0.01
