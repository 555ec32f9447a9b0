"""Candidate pools as published, the shares that follow from them, and terms that cannot be."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from patronage_protocol.errors import FormatError, UsageError, VerificationError
from patronage_protocol.evidence import PoolEvidence, PoolHeader
from patronage_protocol.fixed_point import to_float
from patronage_protocol.manifest import Manifest, ObjectiveTerms, PoolTerms, RewardGameTerms
from patronage_protocol.payout import settle
from patronage_protocol.shares import Shares, check_shares, compute_shares
from patronage_protocol.valuation.pools import CandidatePools

Manifests = Callable[..., Manifest]
REWARDS = np.zeros((2, 3, 4))


def header(**changes: Any) -> PoolHeader:
    fields = {
        "players": ("ann", "bob"),
        "adapters": ("0a" * 32, "0b" * 32),
        "candidates": "0c" * 32,
        "sources": (0, 1, 1),
        "labels": ("brevity", "spelling"),
        "size": 4,
        "from_base": 2,
        "objectives": ("kind", "short"),
        "scale_bits": 16,
        **changes,
    }
    return PoolHeader.model_validate(fields)


def evidence(ratio: float = 0.5, **changes: Any) -> PoolEvidence:
    random = np.random.default_rng(4)
    pools = CandidatePools(
        log_ratios=ratio * random.normal(size=(2, 3, 4)),
        proposal=random.normal(size=(3, 4)),
        from_base=2,
        rewards=random.normal(size=(2, 3, 4)),
    )
    return PoolEvidence.from_pools(header(**changes), pools)


def game(**changes: Any) -> RewardGameTerms:
    pool = {"candidates": 4, "from_base": 2, "max_new_tokens": 8, "seed": 0, "min_effective": 1.01}
    objectives = [
        {"name": "kind", "reward": "python:rewards:kind", "weight": 3, "scorer": "0d" * 32},
        {"name": "short", "reward": "model:judge", "weight": 1, "scorer": "0e" * 32},
    ]
    fields = {
        "composition": "sum",
        "utility": "reward",
        "scale_bits": 16,
        "pool": PoolTerms.model_validate({**pool, **changes.pop("pool", {})}),
        "objectives": tuple(ObjectiveTerms.model_validate(one) for one in objectives),
        **changes,
    }
    return RewardGameTerms.model_validate(fields)


def test_pools_read_back_as_the_integers_that_were_published() -> None:
    published = evidence()
    again = PoolEvidence.decode(published.encode())
    assert again.header == published.header
    np.testing.assert_array_equal(again.values, published.values)
    assert again.digest == published.digest
    assert again.pools.rewards.shape == (2, 3, 4)
    np.testing.assert_array_equal(np.ldexp(again.pools.proposal, 16), published.values[2])


@pytest.mark.parametrize("broken", [b"", b"{}", b"\n", b" "])
def test_bytes_that_are_no_pools_are_refused(broken: bytes) -> None:
    with pytest.raises(FormatError):
        PoolEvidence.decode(broken)
    with pytest.raises(FormatError):
        PoolEvidence.decode(evidence().encode() + (broken or b"x"))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"players": ("bob", "ann")}, "sorted order"),
        ({"adapters": ("0a" * 32,)}, "adapter digest a player"),
        ({"adapters": ("0a" * 32,) * 3}, "adapter digest a player"),
        ({"sources": (0, 1, 2)}, "indices of labels"),
        ({"sources": (0, -1, 1)}, "indices of labels"),
        ({"size": 3}, "every player, prompt and candidate"),
        ({"objectives": ("kind", "kind")}, "distinct objectives"),
        ({"size": 5}, "every player, prompt and candidate"),
        ({"from_base": 5}, "than there are"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(FormatError, match=problem):
        evidence(**change)
    if "size" not in change:  # from bytes too, where the header alone says how many numbers there are
        forged = PoolEvidence(header(**change), evidence().values)
        with pytest.raises(FormatError, match=problem):
            PoolEvidence.decode(forged.encode())


def test_no_player_is_there_twice() -> None:
    """Where the second of three is the first again, the list is below the sorted one."""
    crowd = header(players=("ann", "ann", "bob"), adapters=("0a" * 32,) * 3)
    with pytest.raises(FormatError, match="distinct players in sorted order"):
        PoolEvidence.from_pools(crowd, CandidatePools(np.zeros((3, 3, 4)), np.zeros((3, 4)), 2, REWARDS))


def test_every_candidate_may_be_of_the_base_model_and_every_integer_but_one_is_a_number() -> None:
    assert evidence(from_base=4).header.from_base == 4
    for value, taken in ((1 - 2**31, True), (-(2**31), False)):
        published = PoolEvidence(header(), np.full((5, 3, 4), value, dtype=np.int32))
        if taken:
            assert (PoolEvidence.decode(published.encode()).values == value).all()
        else:
            with pytest.raises(FormatError, match="numbers within"):
                PoolEvidence.decode(published.encode())


def test_a_reward_that_int32_cannot_hold_is_refused_with_its_place() -> None:
    pools = CandidatePools(np.zeros((2, 3, 4)), np.zeros((3, 4)), 2, np.full((2, 3, 4), 40_000.0))
    with pytest.raises(UsageError, match=r"40000.0 at \(3, 0, 0\)"):
        PoolEvidence.from_pools(header(), pools)


def test_shares_are_the_weighted_mean_of_those_by_objective(manifest_of: Manifests) -> None:
    shares = compute_shares(evidence(), manifest_of("ann", "bob", game=game()))
    assert shares.pool is not None
    kind, short = shares.pool.objectives
    for whole, first, second in zip(shares.shares, kind.shares, short.shares, strict=True):
        assert abs(4 * whole - 3 * first - second) <= 4
    assert abs(4 * shares.grand - 3 * kind.grand - short.grand) <= 4
    assert abs(sum(shares.shares) - shares.grand) <= 2
    assert Shares.decode(shares.encode()) == shares


def test_payouts_follow_from_the_weighted_shares(
    manifest_of: Manifests, payout_terms: Callable[..., Any]
) -> None:
    terms = payout_terms(policy="clipped", max_detectable_percent=10**9)
    weighted = {}
    for name, weights in {"kind": (1, 0), "short": (0, 1)}.items():
        objectives = tuple(
            one.model_copy(update={"weight": weight})
            for one, weight in zip(game().objectives, weights, strict=True)
        )
        shares = compute_shares(evidence(), manifest_of("ann", "bob", game=game(objectives=objectives)))
        assert shares.pool is not None
        chosen = shares.pool.objectives[list(weights).index(1)]
        assert shares.shares == chosen.shares
        weighted[name] = settle(terms, shares, seed="5e" * 32, excluded={}).payments
    assert weighted["kind"] != weighted["short"], "the objective that is paid for decides"


def test_degenerate_pools_pay_nobody_and_name_the_coalition(
    manifest_of: Manifests, payout_terms: Callable[..., Any]
) -> None:
    shares = compute_shares(
        evidence(ratio=30.0), manifest_of("ann", "bob", game=game(pool={"min_effective": 2.0}))
    )
    assert shares.pool is not None
    assert shares.pool.degenerate
    assert shares.pool.weakest
    assert to_float(shares.pool.effective) < 2.0
    settlement = settle(payout_terms(policy="clipped"), shares, seed="5e" * 32, excluded={})
    assert (settlement.refund, settlement.refund_reason) == (100_000, "degenerate")


def test_pools_of_exactly_the_effective_size_that_is_asked_for_are_not_degenerate(
    manifest_of: Manifests,
) -> None:
    """Owners who change nothing leave all four candidates equally likely."""
    still = CandidatePools(np.zeros((2, 3, 4)), np.zeros((3, 4)), 2, REWARDS)
    published = PoolEvidence.from_pools(header(), still)
    shares = compute_shares(published, manifest_of("ann", "bob", game=game(pool={"min_effective": 4.0})))
    assert shares.pool is not None
    assert (to_float(shares.pool.effective), shares.pool.degenerate) == (4.0, False)


@pytest.mark.parametrize(
    "change",
    [
        {"effective": 1},
        {"degenerate": True},
        {"weakest": ()},
    ],
)
def test_a_false_word_about_the_pools_is_found(manifest_of: Manifests, change: dict[str, Any]) -> None:
    ours = compute_shares(evidence(), manifest_of("ann", "bob", game=game()))
    assert ours.pool is not None
    assert check_shares(ours, ours) == 0
    with pytest.raises(VerificationError):
        check_shares(ours.model_copy(update={"pool": ours.pool.model_copy(update=change)}), ours)


@pytest.mark.parametrize("field", ["shares", "lower", "upper", "grand", "base"])
def test_a_false_number_of_an_objective_is_found(manifest_of: Manifests, field: str) -> None:
    ours = compute_shares(evidence(), manifest_of("ann", "bob", game=game()))
    assert ours.pool is not None
    kind, short = ours.pool.objectives
    number = getattr(short, field)
    false = number + 65 if isinstance(number, int) else (number[0] + 65, *number[1:])
    objectives = (kind, short.model_copy(update={field: false}))
    theirs = ours.model_copy(update={"pool": ours.pool.model_copy(update={"objectives": objectives})})
    with pytest.raises(VerificationError, match="short"):
        check_shares(theirs, ours)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"pool": {"from_base": 5}}, "at most the number of candidates"),
        ({"pool": {"min_effective": 4.5}}, "at most the number of candidates"),
        ({"pool": {"min_effective": 1.0}}, "greater than 1"),
        ({"pool": {"candidates": 0}}, "greater than or equal to 2"),
        ({"objectives": ()}, "at least 1 item"),
    ],
)
def test_terms_that_cannot_be_are_refused(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        game(**change)


def test_objectives_need_weights_and_names_of_their_own() -> None:
    with pytest.raises(ValidationError, match="weight\n  Field required"):
        ObjectiveTerms.model_validate({"name": "kind", "reward": "python:rewards:kind"})
    kind, short = game().objectives
    with pytest.raises(ValidationError, match="needs a weight above zero"):
        game(objectives=tuple(one.model_copy(update={"weight": 0}) for one in (kind, short)))
    with pytest.raises(ValidationError, match="the same name"):
        game(objectives=(kind, kind))
    with pytest.raises(ValidationError, match="string_pattern_mismatch"):
        ObjectiveTerms.model_validate({"name": "kind", "reward": "kindness", "weight": 1})


def test_a_manifest_pins_what_scores_every_objective(manifest_of: Manifests) -> None:
    objectives = (game().objectives[0].model_copy(update={"scorer": None}),)
    with pytest.raises(ValidationError, match="kind lacks the digest"):
        manifest_of("ann", "bob", game=game(objectives=objectives))
    with pytest.raises(ValidationError, match="at most 16 owners"):
        manifest_of(*(f"owner-{number}" for number in range(17)), game=game())
    manifest = manifest_of("ann", "bob", game=game())
    assert Manifest.decode(manifest.encode()) == manifest
