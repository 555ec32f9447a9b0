"""Each rule is exact on the world that it is made for, and leaves single owners as they are."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patronage_protocol.adapters import Tensors
from patronage_protocol.errors import UsageError
from patronage_simulations.fidelity import rules
from patronage_simulations.fidelity.factors import added

SOLO = np.random.default_rng(0).normal(size=(4, 7))
MASSES = (16.0, 16.0, 12.0, 8.0)
SINGLES = [1, 2, 4, 8]


def pairwise_world(interaction: np.ndarray) -> np.ndarray:
    """Margins that are sums over owners and, in proportion to the products of masses, over pairs of them."""
    margins = np.zeros((16, 7))
    for mask in range(16):
        inside = [i for i in range(4) if mask >> i & 1]
        margins[mask] = SOLO[inside].sum(axis=0)
        for i in inside:
            margins[mask] += sum((MASSES[i] * MASSES[k] * interaction for k in inside if k < i), np.zeros(7))
    return margins


def test_policy_sum_mean_and_size_are_what_they_say() -> None:
    assert rules.policy(SOLO)[0b1011] == pytest.approx(SOLO[[0, 1, 3]].sum(axis=0))
    assert rules.policy(SOLO, [1.0] * 4)[0b1011] == pytest.approx(SOLO[[0, 1, 3]].mean(axis=0))
    weighted = (16 * SOLO[0] + 8 * SOLO[3]) / 24
    assert rules.policy(SOLO, MASSES)[0b1001] == pytest.approx(weighted)
    assert not rules.policy(SOLO, MASSES)[0].any()


def test_anchored_is_exact_where_what_is_missed_comes_from_pairs_of_owners() -> None:
    truth = pairwise_world(np.linspace(-0.01, 0.01, 7))
    assert rules.anchored(rules.policy(SOLO), truth[-1], MASSES) == pytest.approx(truth)


def test_blended_is_exact_where_half_of_an_owners_weight_is_its_margin() -> None:
    weights = np.array(MASSES)[:, None] / np.mean(MASSES) + np.abs(SOLO) / np.abs(SOLO).mean()
    truth = rules.policy(SOLO)
    for mask in range(16):
        inside = [i for i in range(4) if mask >> i & 1]
        truth[mask] += sum((weights[i] * weights[k] for i in inside for k in inside if k < i), np.zeros(7))
    assert rules.blended(rules.policy(SOLO), truth[-1], MASSES, SOLO) == pytest.approx(truth)


def test_blended_without_any_margins_is_anchored() -> None:
    nothing, grand = np.zeros((4, 7)), np.linspace(0, 3, 7)
    found = rules.blended(rules.policy(nothing), grand, MASSES, nothing)
    assert found == pytest.approx(rules.anchored(rules.policy(nothing), grand, MASSES))


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)])
def test_chained_is_exact_there_too_in_every_order(order: tuple[int, ...]) -> None:
    truth = pairwise_world(np.linspace(-0.01, 0.01, 7))
    chain = truth[[sum(1 << i for i in order[: k + 1]) for k in range(4)]]
    assert rules.chained(rules.policy(SOLO), chain, order, MASSES) == pytest.approx(truth)


def test_scaled_is_exact_where_one_factor_grows_with_size() -> None:
    sizes = np.array([mask.bit_count() for mask in range(16)])
    truth = rules.policy(SOLO) * (1 + 0.7 * np.maximum(sizes - 1, 0) / 3)[:, None]
    assert rules.scaled(rules.policy(SOLO), truth[-1]) == pytest.approx(truth)


def test_weighted_finds_the_factor_of_every_owner() -> None:
    factors = np.array([1.5, 0.8, 1.0, 2.0])
    found = rules.weighted(SOLO, factors @ SOLO, ridge=0.0)
    assert found[-1] == pytest.approx(factors @ SOLO)
    assert found[0b0101] == pytest.approx(SOLO[0] * (1 + 0.5 / 3) + SOLO[2])


@pytest.mark.parametrize(
    "rule",
    [
        lambda grand: rules.anchored(rules.policy(SOLO), grand, MASSES),
        lambda grand: rules.blended(rules.policy(SOLO), grand, MASSES, SOLO),
        lambda grand: rules.scaled(rules.policy(SOLO), grand),
        lambda grand: rules.weighted(SOLO, grand),
    ],
)
@given(st.integers(0, 2**32))
def test_single_owners_stay_as_they_were_trained(rule: Callable[[np.ndarray], np.ndarray], seed: int) -> None:
    found = rule(np.random.default_rng(seed).normal(size=7))
    assert found[SINGLES] == pytest.approx(SOLO)
    assert not found[0].any()


def test_anchored_and_chained_end_at_the_grand_coalition() -> None:
    grand = np.linspace(0, 3, 7)
    chain = np.stack([SOLO[1], SOLO[1] + SOLO[0], grand / 2, grand])
    assert rules.anchored(rules.policy(SOLO), grand, MASSES)[-1] == pytest.approx(grand)
    assert rules.blended(rules.policy(SOLO), grand, MASSES, SOLO)[-1] == pytest.approx(grand)
    chained = rules.chained(rules.policy(SOLO), chain, (1, 0, 2, 3), MASSES)
    assert chained[[0b0010, 0b0011, 0b0111, 0b1111]] == pytest.approx(chain)


def test_another_number_of_pairs_or_an_owner_without_mass_is_refused() -> None:
    with pytest.raises(UsageError, match="16 coalitions on 6 pairs"):
        rules.anchored(rules.policy(SOLO), np.zeros(6), MASSES)
    with pytest.raises(UsageError, match="positive mass"):
        rules.anchored(rules.policy(SOLO), np.zeros(7), (1.0, 0.0, 1.0, 1.0))


def test_added_factors_hold_the_products_across_owners() -> None:
    stream = np.random.default_rng(1)

    def adapter(b: bool) -> Tensors:
        return {
            "m.lora_A.weight": stream.normal(size=(2, 5)).astype(np.float32),
            "m.lora_B.weight": (stream.normal(size=(3, 2)) * b).astype(np.float32),
        }

    start, left, right = adapter(False), adapter(True), adapter(True)
    merged = added(start, [left, right])
    a0, a1, a2 = (each["m.lora_A.weight"] for each in (start, left, right))
    b1, b2 = left["m.lora_B.weight"], right["m.lora_B.weight"]
    product = merged["m.lora_B.weight"] @ merged["m.lora_A.weight"]
    assert product == pytest.approx(b1 @ a1 + b2 @ a2 + b1 @ (a2 - a0) + b2 @ (a1 - a0), abs=1e-5)
    alone = added(start, [left])
    assert all(alone[name] == pytest.approx(left[name], abs=1e-6) for name in left)
