"""Published shares: what a verifier takes for the same numbers, and what it refuses."""

import json
from collections.abc import Callable

import numpy as np
import pytest

from patronage_protocol.canonical import canonical_bytes
from patronage_protocol.errors import FormatError, VerificationError
from patronage_protocol.evidence import EvidenceHeader, MarginEvidence
from patronage_protocol.manifest import Manifest
from patronage_protocol.shares import (
    TOLERANCE,
    ObjectiveShares,
    PoolShares,
    Shares,
    check_shares,
    compute_shares,
)

LISTS = ("shares", "lower", "upper", "detectable")

Manifests = Callable[..., Manifest]


@pytest.fixture
def evidence() -> MarginEvidence:
    header = EvidenceHeader(
        players=("ann", "bob", "cy"),
        adapters=("0a" * 32, "0b" * 32, "0c" * 32),
        clusters=(0, 0, 1, 2, 3, 4),
        sources=(0,) * 6,
        labels=("all",),
        scale_bits=16,
    )
    margins = np.array([[1, 2, 0.5, 1, 0, 1.5], [0.5, -1, 1, 0.25, 2, 0.5], [-1, -0.5, 0, -2, 1, -1]])
    return MarginEvidence.from_margins(header, margins)


@pytest.fixture
def shares(evidence: MarginEvidence, manifest_of: Manifests) -> Shares:
    return compute_shares(evidence, manifest_of("ann", "bob", "cy"))


@pytest.fixture
def with_pool(shares: Shares) -> Shares:
    objectives = tuple(
        ObjectiveShares(name=name, shares=(1, 2, 3), lower=(0, 1, 2), upper=(2, 3, 4), grand=6, base=9)
        for name in ("harmless", "helpful")
    )
    pool = PoolShares(objectives=objectives, weakest=("ann", "cy"), effective=5 << 40, degenerate=False)
    return shares.model_copy(update={"pool": pool})


def test_shares_add_up_to_the_value_of_all_and_lie_within_their_bounds(shares: Shares) -> None:
    assert abs(sum(shares.shares) - shares.grand) <= len(shares.players) + 1
    assert all(
        low <= share <= high
        for low, share, high in zip(shares.lower, shares.shares, shares.upper, strict=True)
    )
    assert shares.smallest_detectable == min(shares.detectable)


def test_what_is_the_same_differs_by_nothing(shares: Shares, with_pool: Shares) -> None:
    assert check_shares(shares, shares) == check_shares(with_pool, with_pool) == 0


def test_both_methods_publish_the_same_shares(
    evidence: MarginEvidence, manifest_of: Manifests, shares: Shares
) -> None:
    manifest = manifest_of("ann", "bob", "cy")
    other = compute_shares(evidence, manifest, method="polynomial")
    assert (shares.method, other.method) == ("enumeration", "polynomial")
    assert check_shares(shares, other.model_copy(update={"gap": shares.gap})) <= TOLERANCE


@pytest.mark.parametrize("name", [*LISTS, "grand", "gap"])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_number_may_differ_by_the_tolerance_and_by_no_unit_more(
    shares: Shares, name: str, sign: int
) -> None:
    def changed(units: int) -> Shares:
        value = getattr(shares, name)
        moved = (*value[:-1], value[-1] + sign * units) if isinstance(value, tuple) else value + sign * units
        return shares.model_copy(update={name: moved})

    assert check_shares(changed(TOLERANCE), shares) == TOLERANCE
    with pytest.raises(VerificationError, match=f"{name}.*as the evidence gives"):
        check_shares(changed(TOLERANCE + 1), shares)


@pytest.mark.parametrize("name", ["shares", "lower", "upper", "grand", "base"])
@pytest.mark.parametrize("place", [0, 1])
def test_the_shares_by_objective_are_held_to_the_same_tolerance(
    with_pool: Shares, name: str, place: int
) -> None:
    assert with_pool.pool is not None
    for units in (TOLERANCE, TOLERANCE + 1):
        objectives = list(with_pool.pool.objectives)
        value = getattr(objectives[place], name)
        moved = (*value[:-1], value[-1] + units) if isinstance(value, tuple) else value + units
        objectives[place] = objectives[place].model_copy(update={name: moved})
        pool = with_pool.pool.model_copy(update={"objectives": tuple(objectives)})
        changed = with_pool.model_copy(update={"pool": pool})
        if units == TOLERANCE:
            assert check_shares(changed, with_pool) == TOLERANCE
        else:
            with pytest.raises(VerificationError, match=name):
                check_shares(changed, with_pool)


@pytest.mark.parametrize(
    "change", [{"weakest": ("ann",)}, {"degenerate": True}, {"effective": (5 << 40) + TOLERANCE + 1}]
)
def test_the_facts_of_a_pool_must_be_the_recomputed_ones(
    with_pool: Shares, change: dict[str, object]
) -> None:
    assert with_pool.pool is not None
    changed = with_pool.model_copy(update={"pool": with_pool.pool.model_copy(update=change)})
    with pytest.raises(VerificationError):
        check_shares(changed, with_pool)


def test_a_pool_cannot_be_left_out_or_made_up(shares: Shares, with_pool: Shares) -> None:
    assert with_pool.pool is not None
    assert check_shares(with_pool, with_pool) == 0
    fewer = with_pool.pool.model_copy(update={"objectives": with_pool.pool.objectives[:1]})
    for published, ours in (
        (shares, with_pool),
        (with_pool, shares),
        (with_pool.model_copy(update={"pool": fewer}), with_pool),
    ):
        with pytest.raises(VerificationError, match="the weakest coalition"):
            check_shares(published, ours)


@pytest.mark.parametrize("name", LISTS)
def test_the_comparison_itself_counts_the_numbers_too(shares: Shares, with_pool: Shares, name: str) -> None:
    """`model_copy` does not validate, as somebody may who calls `check_shares` with models of their own."""
    for numbers in (getattr(shares, name)[:-1], (*getattr(shares, name), 0), ()):
        with pytest.raises(VerificationError, match=f"3 numbers in {name}"):
            check_shares(shares.model_copy(update={name: numbers}), shares)
    if name != "detectable":
        assert with_pool.pool is not None
        first, second = with_pool.pool.objectives
        for numbers in (getattr(second, name)[:-1], (*getattr(second, name), 0)):
            objectives = (first, second.model_copy(update={name: numbers}))
            pool = with_pool.pool.model_copy(update={"objectives": objectives})
            with pytest.raises(VerificationError, match=f"3 numbers in {name} of helpful"):
                check_shares(with_pool.model_copy(update={"pool": pool}), with_pool)


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("change", ["drop", "add", "empty"])
def test_an_operator_cannot_publish_more_or_fewer_numbers_than_players(
    shares: Shares, name: str, change: str
) -> None:
    fields = json.loads(shares.encode())
    numbers = fields[name]
    fields[name] = {"drop": numbers[:-1], "add": [*numbers, "1"], "empty": []}[change]
    with pytest.raises(FormatError, match=f"numbers in {name} for 3 players"):
        Shares.decode(canonical_bytes(fields))


@pytest.mark.parametrize("name", ["shares", "lower", "upper"])
def test_nor_in_one_objective(with_pool: Shares, name: str) -> None:
    assert Shares.decode(with_pool.encode()) == with_pool
    fields = json.loads(with_pool.encode())
    del fields["pool"]["objectives"][1][name][0]
    with pytest.raises(FormatError, match=f"2 numbers in {name} of helpful for 3 players"):
        Shares.decode(canonical_bytes(fields))
