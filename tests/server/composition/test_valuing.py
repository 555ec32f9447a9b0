import numpy as np
import pytest
import torch

from patronage_protocol.errors import UsageError
from patronage_protocol.policy import TokenizedPair
from patronage_protocol.valuation import Semivalue, all_coalitions, shares_from_values, value
from patronage_server.composition import AdapterSet, PolicyArithmetic, WeightArithmetic
from patronage_server.composition.valuing import CoalitionGame, shares_to_error

BETA = 0.3


def enumerated(adapters: AdapterSet, pairs: tuple[TokenizedPair, ...]) -> np.ndarray:
    margins = WeightArithmetic(adapters).scorer(pairs).margins(all_coalitions(len(adapters)), BETA)
    return shares_from_values((1 / (1 + np.exp(-margins)) - 0.5).mean(axis=1), Semivalue())


def test_few_owners_are_enumerated(adapters: AdapterSet, pairs: tuple[TokenizedPair, ...]) -> None:
    found = shares_to_error(WeightArithmetic(adapters), pairs, beta=BETA, standard_error=1e-2)
    assert (found.exact, found.coalitions, found.passes) == (True, 15, 16)
    np.testing.assert_allclose(found.shares, enumerated(adapters, pairs), atol=1e-5)
    assert not found.standard_errors.any()
    assert np.abs(found.shares - found.additive).max() > 1e-4


@pytest.fixture(scope="module")
def seven(adapters: AdapterSet, random_adapter) -> AdapterSet:  # type: ignore[no-untyped-def]
    torch.set_num_threads(1)
    tensors = {f"owner-{seed}": random_adapter(adapters.lora, seed, 0.06) for seed in range(7)}
    return AdapterSet(adapters.base, adapters.lora, tensors)


def test_sampling_stops_at_the_error_asked_for_and_scores_no_coalition_twice(
    seven: AdapterSet, pairs: tuple[TokenizedPair, ...]
) -> None:
    few = pairs[:4]
    truth = enumerated(seven, few)
    rule = WeightArithmetic(seven)
    found = shares_to_error(rule, few, beta=BETA, standard_error=4e-3, most_coalitions=126)
    assert not found.exact
    assert found.standard_errors.max() <= 4e-3
    assert found.coalitions < 127
    assert found.passes == found.coalitions + 1
    assert np.abs(found.shares - truth).max() < 5 * 4e-3
    assert found.shares.sum() == pytest.approx(truth.sum(), abs=1e-4)
    again = shares_to_error(rule, few, beta=BETA, standard_error=4e-3, most_coalitions=126)
    np.testing.assert_array_equal(found.shares, again.shares)


def test_where_the_game_is_additive_the_control_leaves_nothing_to_estimate(
    seven: AdapterSet, pairs: tuple[TokenizedPair, ...]
) -> None:
    rule = PolicyArithmetic(seven)
    found = shares_to_error(rule, pairs, beta=BETA, standard_error=1e-9, most_coalitions=126)
    margins = rule.scorer(pairs).margins(np.eye(7, dtype=np.bool_), BETA)
    np.testing.assert_allclose(found.shares, value(margins, interval=None).shares, atol=1e-10)
    assert found.passes == 8


def test_an_error_out_of_reach_says_what_was_reached(
    seven: AdapterSet, pairs: tuple[TokenizedPair, ...]
) -> None:
    with pytest.raises(
        UsageError, match=r"a standard error of 1\.0e-12 from at most 60 coalitions, got .* from"
    ):
        shares_to_error(
            WeightArithmetic(seven), pairs[:2], beta=BETA, standard_error=1e-12, most_coalitions=60
        )
    with pytest.raises(UsageError, match="a standard error above 0"):
        shares_to_error(WeightArithmetic(seven), pairs, beta=BETA, standard_error=0.0)


def test_a_utility_that_floats_can_flip_is_refused(
    adapters: AdapterSet, pairs: tuple[TokenizedPair, ...]
) -> None:
    with pytest.raises(UsageError, match="floats cannot flip"):
        CoalitionGame(WeightArithmetic(adapters).scorer(pairs), BETA, "win")
