"""Shares to minor units: integers, exact sums, the manifest's policy."""

from collections.abc import Callable, Mapping
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patronage_protocol.errors import UsageError
from patronage_protocol.fixed_point import SHARE_BITS
from patronage_protocol.manifest import PayoutTerms
from patronage_protocol.payout import Payment, largest_remainder, settle
from patronage_protocol.shares import Shares

SEED = "5e" * 32
ONE = 2**SHARE_BITS

Terms = Callable[..., PayoutTerms]


def shares_of(
    shares: Mapping[str, int],
    *,
    lower: Mapping[str, int] | None = None,
    grand: int | None = None,
    detectable: int = 1,
) -> Shares:
    players = tuple(sorted(shares))
    return Shares(
        margins="0d" * 32,
        players=players,
        method="enumeration",
        shares=tuple(shares[player] for player in players),
        lower=tuple((lower or shares)[player] for player in players),
        upper=tuple(shares[player] for player in players),
        detectable=(detectable,) * len(players),
        grand=sum(shares.values()) if grand is None else grand,
        gap=0,
    )


def by_owner(payments: tuple[Payment, ...]) -> dict[str, tuple[int, str]]:
    return {payment.owner: (payment.amount, payment.reason) for payment in payments}


def test_leftover_units_go_to_the_largest_remainders() -> None:
    # Quotas 33.33, 33.33, 33.33 of 100 leave one unit; quotas 16.67, 33.33, 50 leave one for the first.
    assert sorted(largest_remainder(100, {"a": 1, "b": 1, "c": 1}, seed=SEED).values()) == [33, 33, 34]
    assert largest_remainder(100, {"a": 1, "b": 2, "c": 3}, seed=SEED) == {"a": 17, "b": 33, "c": 50}


def test_ties_are_broken_by_the_round_seed_and_not_by_the_name() -> None:
    weights = dict.fromkeys("abc", 1)
    winners = {
        max(parts, key=lambda owner: parts[owner])
        for seed in range(40)
        if (parts := largest_remainder(100, weights, seed=f"{seed:064x}"))
    }
    assert winners == {"a", "b", "c"}


@given(
    budget=st.integers(0, 10**15),
    weights=st.dictionaries(
        st.text("abcdefgh", min_size=1, max_size=3), st.integers(-(10**12), 10**15), min_size=1
    ),
)
def test_parts_add_up_to_the_budget_and_keep_quota(budget: int, weights: dict[str, int]) -> None:
    total = sum(weights.values())
    if total <= 0:
        with pytest.raises(UsageError, match="positive sum"):
            largest_remainder(budget, weights, seed=SEED)
        return
    parts = largest_remainder(budget, weights, seed=SEED)
    assert sum(parts.values()) == budget
    for owner, part in parts.items():
        assert abs(part - Fraction(budget * weights[owner], total)) < 1


def test_a_share_that_is_not_above_zero_beyond_doubt_earns_nothing_when_gated(payout_terms: Terms) -> None:
    shares = shares_of({"ann": 60, "bob": 40, "cy": -10}, lower={"ann": 1, "bob": 0, "cy": -30})
    settlement = settle(payout_terms(), shares, seed=SEED, excluded={"dee": "rejected"})
    assert by_owner(settlement.payments) == {
        "ann": (100_000, "share"),
        "bob": (0, "not-above-zero"),
        "cy": (0, "not-above-zero"),
        "dee": (0, "rejected"),
    }
    assert (settlement.refund, settlement.refund_reason) == (0, "none")


def test_clipped_pays_every_positive_share_and_no_negative_one(payout_terms: Terms) -> None:
    shares = shares_of({"ann": 60, "bob": 40, "cy": -10}, lower={"ann": -1, "bob": -1, "cy": -30})
    settlement = settle(payout_terms(policy="clipped"), shares, seed=SEED, excluded={})
    assert by_owner(settlement.payments) == {
        "ann": (60_000, "share"),
        "bob": (40_000, "share"),
        "cy": (0, "negative"),
    }


def test_one_unit_of_share_is_above_zero_and_none_is_not(payout_terms: Terms) -> None:
    shares = shares_of({"ann": 100, "bob": 1, "cy": 0, "dee": -1})
    settlement = settle(payout_terms(policy="clipped"), shares, seed=SEED, excluded={})
    assert by_owner(settlement.payments) == {
        "ann": (99_010, "share"),
        "bob": (990, "share"),
        "cy": (0, "negative"),
        "dee": (0, "negative"),
    }


def test_a_bound_of_one_unit_is_above_zero_and_a_negative_share_never_weighs(payout_terms: Terms) -> None:
    """Bounds that no bootstrap gives, but that a hostile operator can publish."""
    shares = shares_of({"ann": 60, "bob": -1, "cy": 40}, lower={"ann": 1, "bob": 1, "cy": 0})
    settlement = settle(payout_terms(), shares, seed=SEED, excluded={})
    assert by_owner(settlement.payments) == {
        "ann": (100_000, "share"),
        "bob": (0, "negative"),
        "cy": (0, "not-above-zero"),
    }


def test_signed_lets_a_negative_share_pay_in_up_to_its_bond(payout_terms: Terms) -> None:
    shares = shares_of({"ann": 60, "bob": 60, "cy": -20})
    unlimited = settle(payout_terms(policy="signed", bond=50_000), shares, seed=SEED, excluded={})
    assert by_owner(unlimited.payments)["cy"] == (-20_000, "share")
    bonded = settle(payout_terms(policy="signed", bond=5_000), shares, seed=SEED, excluded={})
    amounts = {payment.owner: payment.amount for payment in bonded.payments}
    assert amounts == {"ann": 52_500, "bob": 52_500, "cy": -5_000}


def test_per_unit_pays_a_price_and_refunds_the_rest(payout_terms: Terms) -> None:
    terms = payout_terms(policy="per_unit", unit_price=100_000)
    shares = shares_of({"ann": ONE // 4, "bob": -ONE // 8}, lower={"ann": -1, "bob": -ONE})
    settlement = settle(terms, shares, seed=SEED, excluded={})
    assert by_owner(settlement.payments) == {"ann": (25_000, "share"), "bob": (0, "negative")}
    assert (settlement.refund, settlement.refund_reason) == (75_000, "unspent")
    capped = settle(payout_terms(policy="per_unit", unit_price=10**9), shares, seed=SEED, excluded={})
    assert (capped.payments[0].amount, capped.refund) == (100_000, 0)


def test_prices_that_come_to_the_budget_exactly_are_paid_as_prices(payout_terms: Terms) -> None:
    """Split in proportion, cy's 0.9 of a unit would round up and take one from dee, who is priced at 3."""
    tenths = {"ann": 19, "bob": 19, "cy": 9, "dee": 31}
    shares = shares_of({owner: part * ONE // 100 for owner, part in tenths.items()}, detectable=0)
    terms = payout_terms(policy="per_unit", unit_price=10, budget=5)
    settlement = settle(terms, shares, seed=SEED, excluded={})
    assert [payment.amount for payment in settlement.payments] == [1, 1, 0, 3]
    assert settlement.refund == 0


@pytest.mark.parametrize(
    ("shares", "reason"),
    [
        (None, "aborted"),
        (shares_of({"ann": 5, "bob": -5}), "no-gain"),
        (shares_of({"ann": 60, "bob": 40}, detectable=51), "underpowered"),
        (shares_of({"ann": 60, "bob": 40}, lower={"ann": -1, "bob": 0}), "nobody-qualified"),
    ],
)
def test_the_whole_budget_is_refunded_by_an_entry_that_says_why(
    payout_terms: Terms, shares: Shares | None, reason: str
) -> None:
    excluded = {} if shares else {"ann": "refunded", "bob": "declined"}
    settlement = settle(payout_terms(), shares, seed=SEED, excluded=excluded)  # type: ignore[arg-type]
    assert (settlement.refund, settlement.refund_reason) == (100_000, reason)
    assert [payment.amount for payment in settlement.payments] == [0, 0]


def test_nobody_owes_a_unit_more_than_its_bond(payout_terms: Terms) -> None:
    shares = shares_of({"ann": 60, "bob": 60, "cy": -20})
    for bond, owed in ((20_001, 20_000), (20_000, 20_000), (19_999, 19_999), (1, 1)):
        settlement = settle(payout_terms(policy="signed", bond=bond), shares, seed=SEED, excluded={})
        assert by_owner(settlement.payments)["cy"] == (-owed, "share")


def test_who_owes_its_bond_exactly_changes_nothing_for_the_others(payout_terms: Terms) -> None:
    """20/9, 4/9 and -6/9: down to 2, 0 and -1, and the unit left over to bob, whose remainder is largest."""
    shares = shares_of({"ann": 10, "bob": 2, "cy": -3}, detectable=0)
    settlement = settle(payout_terms(policy="signed", bond=1, budget=2), shares, seed=SEED, excluded={})
    assert [payment.amount for payment in settlement.payments] == [2, 1, -1]


def test_signed_shares_with_a_sum_of_one_unit_are_paid(payout_terms: Terms) -> None:
    shares = shares_of({"ann": 2, "bob": -1}, detectable=0)
    settlement = settle(payout_terms(policy="signed", bond=10), shares, seed=SEED, excluded={})
    assert by_owner(settlement.payments) == {"ann": (100_010, "share"), "bob": (-10, "share")}


@pytest.mark.parametrize("shares", [{"ann": -1, "bob": -1}, {"ann": 5, "bob": -5}, {"ann": 0, "bob": 0}])
def test_signed_shares_without_a_positive_sum_are_refunded(
    payout_terms: Terms, shares: dict[str, int]
) -> None:
    """v(N) above zero and shares that do not add up to it: no valuation gives that, an operator may."""
    terms = payout_terms(policy="signed", bond=10)
    settlement = settle(terms, shares_of(shares, grand=7, detectable=0), seed=SEED, excluded={})
    assert (settlement.refund, settlement.refund_reason) == (100_000, "nobody-qualified")


def test_a_round_at_the_limit_of_its_power_pays(payout_terms: Terms) -> None:
    settlement = settle(
        payout_terms(), shares_of({"ann": 60, "bob": 40}, detectable=50), seed=SEED, excluded={}
    )
    assert settlement.refund == 0


names = st.sampled_from(["ann", "bob", "cy", "dee", "eve"])


@given(
    policy=st.sampled_from(["gated", "clipped", "signed", "per_unit"]),
    budget=st.integers(0, 10**12),
    shares=st.dictionaries(names, st.tuples(st.integers(-ONE, ONE), st.integers(0, ONE)), min_size=1),
)
def test_payments_and_refund_are_exactly_the_budget_under_every_policy(
    policy: str, budget: int, shares: dict[str, tuple[int, int]]
) -> None:
    terms = PayoutTerms.model_validate(
        {
            "policy": policy,
            "currency": "JPY",
            "exponent": 0,
            "budget": budget,
            "max_detectable_percent": 100,
            "bond": 1000 if policy == "signed" else 0,
            "unit_price": 5000 if policy == "per_unit" else 0,
        }
    )
    published = shares_of(
        {owner: share for owner, (share, _) in shares.items()},
        lower={owner: share - width for owner, (share, width) in shares.items()},
    )
    settlement = settle(terms, published, seed=SEED, excluded={"zoe": "forfeited"})
    assert sum(payment.amount for payment in settlement.payments) + settlement.refund == budget
    assert {payment.owner for payment in settlement.payments} == {*shares, "zoe"}
    floor = -1000 if policy == "signed" else 0
    assert all(payment.amount >= floor for payment in settlement.payments)


def test_the_terms_say_when_a_policy_lacks_its_number(payout_terms: Terms) -> None:
    with pytest.raises(ValueError, match="bond belongs to the policy signed"):
        payout_terms(policy="signed")
    with pytest.raises(ValueError, match="unit_price belongs to the policy per_unit"):
        payout_terms(unit_price=5)
