"""Games on generations: importance weights against worlds in which every answer can be listed."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from patronage_protocol.errors import UsageError
from patronage_protocol.valuation.pools import CandidatePools, check_effective, value_pools

FROM_BASE, FROM_ALL = (1, 2, 4, 1, 3, 5), (2, 2, 1, 6, 1, 4)
"""How often each of six answers stands in the pool; frequencies are exactly the two proposals."""


class World:
    """Six answers, three owners, two rewards; pools in which every answer has exactly its expected number."""

    def __init__(self, seed: int, prompts: int = 2) -> None:
        random = np.random.default_rng(seed)
        self.base = np.array(FROM_BASE) / sum(FROM_BASE)
        self.everybody = np.array(FROM_ALL) / sum(FROM_ALL)
        self.ratios = random.normal(size=(3, prompts, 6))
        self.rewards = random.normal(size=(2, prompts, 6))
        self.order = np.concatenate([np.repeat(np.arange(6), FROM_BASE), np.repeat(np.arange(6), FROM_ALL)])

    @property
    def pools(self) -> CandidatePools:
        proposal = np.log(self.everybody / self.base)[self.order]
        return CandidatePools(
            log_ratios=self.ratios[:, :, self.order],
            proposal=np.tile(proposal, (self.ratios.shape[1], 1)),
            from_base=sum(FROM_BASE),
            rewards=self.rewards[:, :, self.order],
        )

    def expected(self, members: tuple[int, ...]) -> NDArray[np.float64]:
        """E_{pi_S}[r] by listing all answers: (rewards, prompts)."""
        policy = self.base * np.exp(self.ratios[list(members)].sum(axis=0))
        policy /= policy.sum(axis=1, keepdims=True)
        return (self.rewards * policy).sum(axis=2)


@pytest.mark.parametrize("seed", range(3))
def test_every_coalition_has_exactly_the_reward_of_its_policy_where_the_pool_is_the_mixture(
    seed: int,
) -> None:
    world = World(seed)
    found = value_pools(world.pools)
    for mask in range(8):
        members = tuple(i for i in range(3) if mask >> i & 1)
        exact = (world.expected(members) - world.expected(())).mean(axis=1)
        np.testing.assert_allclose(found.values[mask], exact, atol=1e-12)
    np.testing.assert_allclose(found.base, world.expected(()).mean(axis=1), atol=1e-12)


def test_shares_are_the_shapley_shares_of_the_exact_game_prompt_by_prompt() -> None:
    world = World(7)
    found = value_pools(world.pools)
    for owner in range(3):
        rest = [other for other in range(3) if other != owner]
        share = np.zeros((2, 2))
        for chosen in product((0, 1), repeat=2):
            others = tuple(other for other, taken in zip(rest, chosen, strict=True) if taken)
            weight = (1 / 3, 1 / 6, 1 / 3)[len(others)]
            share += weight * (world.expected((*others, owner)) - world.expected(others))
        np.testing.assert_allclose(found.shares[:, owner], share, atol=1e-12)


def test_drawn_candidates_come_near_the_exact_rewards_and_nearer_with_more_of_them() -> None:
    world = World(1, prompts=1)
    exact = np.array(
        [
            (world.expected(tuple(i for i in range(3) if mask >> i & 1)) - world.expected(()))[:, 0]
            for mask in range(8)
        ]
    )
    errors = []
    for size in (64, 16384):
        random = np.random.default_rng(5)
        half = size // 2
        world.order = np.concatenate(
            [random.choice(6, size=half, p=world.base), random.choice(6, size=half, p=world.everybody)]
        )
        pools = world.pools
        drawn = CandidatePools(pools.log_ratios, pools.proposal, half, pools.rewards)
        errors.append(float(np.abs(value_pools(drawn).values - exact).max()))
    assert errors[1] < 0.03 < 3 * errors[1] + errors[0]
    assert errors[1] < errors[0]


@given(seed=st.integers(0, 2**20))
def test_shares_are_efficient_linear_in_the_reward_and_zero_for_who_changes_nothing(seed: int) -> None:
    world = World(seed)
    world.ratios[1] = 0.0
    world.rewards[1] = 2.0 * world.rewards[0] + 3.0
    found = value_pools(world.pools)
    np.testing.assert_allclose(found.shares.sum(axis=1).mean(axis=1), found.values[-1], atol=1e-12)
    np.testing.assert_allclose(found.shares[:, 1], 0.0, atol=1e-12)
    np.testing.assert_allclose(found.shares[1], 2.0 * found.shares[0], atol=1e-12)


def test_a_share_does_not_depend_on_a_factor_that_belongs_to_the_whole_prompt() -> None:
    """The normaliser of a product of policies is unknown, and must not matter."""
    world = World(3)
    shifted = World(3)
    shifted.ratios += np.array([5.0, -300.0, 700.0])[:, None, None]
    np.testing.assert_allclose(value_pools(world.pools).shares, value_pools(shifted.pools).shares, atol=1e-10)


def test_effective_candidates_are_all_of_them_for_equal_weights_and_one_where_one_decides() -> None:
    flat = np.zeros((1, 2, 8))
    pools = CandidatePools(flat, np.zeros((2, 8)), 4, np.ones((1, 2, 8)))
    np.testing.assert_allclose(value_pools(pools).effective, 8.0)
    steep = flat.copy()
    steep[0, :, 3] = 60.0
    pools = CandidatePools(steep, np.zeros((2, 8)), 4, np.ones((1, 2, 8)))
    found = value_pools(pools)
    np.testing.assert_allclose(found.effective, [8.0, 1.0])
    assert found.weakest == (0,)


def test_degenerate_weights_are_refused_with_the_name_of_the_coalition() -> None:
    ratios = np.zeros((3, 1, 8))
    ratios[1, 0, 2], ratios[2, 0, 2] = 2.0, 3.0
    found = value_pools(CandidatePools(ratios, np.zeros((1, 8)), 8, np.ones((1, 1, 8))))
    check_effective(found, ("ann", "bob", "cy"), 1.05)
    with pytest.raises(UsageError, match=r"at least 3 effective candidates .* got 1\.\d\d for bob \+ cy"):
        check_effective(found, ("ann", "bob", "cy"), 3.0)


def test_with_all_candidates_from_the_base_model_the_second_proposal_does_not_count() -> None:
    world = World(2)
    everything = world.pools
    size = everything.proposal.shape[1]
    pools = CandidatePools(everything.log_ratios, everything.proposal, size, everything.rewards)
    np.testing.assert_array_equal(pools.log_offsets, 0.0)


@pytest.mark.parametrize(
    ("shape", "problem"),
    [
        ((2, 3, 0), "none empty"),
        ((0, 3, 4), "none empty"),
        ((17, 3, 4), "at most 16 owners"),
    ],
)
def test_empty_pools_and_too_many_owners_are_refused(shape: tuple[int, int, int], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        CandidatePools(np.zeros(shape), np.zeros(shape[1:]), 1, np.zeros((1, *shape[1:])))


@pytest.mark.parametrize("what", ["log_ratios", "proposal", "rewards"])
def test_numbers_that_are_not_finite_are_refused_by_name(what: str) -> None:
    fields = {"log_ratios": np.zeros((2, 3, 4)), "proposal": np.zeros((3, 4)), "rewards": np.zeros((1, 3, 4))}
    fields[what].flat[5] = np.nan
    with pytest.raises(UsageError, match=f"finite {what}"):
        CandidatePools(from_base=2, **fields)
