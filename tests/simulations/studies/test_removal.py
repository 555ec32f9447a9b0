import numpy as np
import pytest

from patronage_simulations.studies.removal import area_under_roc, spearman


def test_rank_correlation_knows_order_and_ties() -> None:
    assert spearman([1, 2, 3, 4], [10, 20, 30, 1000]) == pytest.approx(1)
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    assert spearman([1, 2, 2, 3], [1, 2.5, 2.5, 4]) == pytest.approx(1)
    assert spearman([1, 2, 3, 4, 5], [2, 1, 4, 3, 5]) == pytest.approx(0.8)


def test_the_area_under_roc_is_the_chance_to_rank_a_harmful_pair_lower() -> None:
    harmful = np.array([True, False, False, True])
    assert area_under_roc(np.array([-1.0, 2.0, 3.0, 0.0]), harmful) == 1.0
    assert area_under_roc(np.array([5.0, 2.0, 3.0, 2.5]), harmful) == 0.25
    assert area_under_roc(np.zeros(4), harmful) == 0.5
