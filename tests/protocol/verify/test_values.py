"""The second opinion on published shares: which methods spoke, and what happens when they disagree."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from patronage_protocol.errors import VerificationError
from patronage_protocol.evidence import (
    CoalitionEvidence,
    EvidenceHeader,
    MarginEvidence,
    PoolEvidence,
    PoolHeader,
)
from patronage_protocol.manifest import GameTerms, Manifest, RewardGameTerms
from patronage_protocol.shares import compute_shares
from patronage_protocol.valuation.pools import CandidatePools
from patronage_protocol.verify import values
from patronage_protocol.verify.values import check_values

Manifests = Callable[..., Manifest]


def header(players: int) -> EvidenceHeader:
    return EvidenceHeader(
        players=tuple(f"owner-{number:02}" for number in range(players)),
        adapters=("0a" * 32,) * players,
        clusters=(0, 1, 2),
        sources=(0, 0, 0),
        labels=("all",),
        scale_bits=16,
    )


def margins(players: int) -> MarginEvidence:
    return MarginEvidence.from_margins(header(players), np.random.default_rng(3).normal(0.3, 1, (players, 3)))


def terms(**changes: Any) -> GameTerms:
    return GameTerms.model_validate({"composition": "sum", "utility": "sigmoid", "scale_bits": 16, **changes})


@pytest.mark.parametrize(("method", "other"), [("enumeration", "polynomial"), ("polynomial", "enumeration")])
def test_the_method_that_was_named_is_not_the_only_one_asked(
    manifest_of: Manifests, method: Any, other: str
) -> None:
    manifest, evidence = manifest_of("ann", "bob"), margins(3)
    said = check_values(compute_shares(evidence, manifest, method=method), evidence, manifest)
    assert f"power by {method} again, within 0 units" in said
    assert f"; by {other}, within" in said


def test_a_second_method_that_disagrees_refuses_what_the_first_one_takes(
    manifest_of: Manifests, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if both sides had one defect in the first method: only the other one sees it."""
    manifest, evidence = manifest_of("ann", "bob"), margins(3)
    honest = compute_shares(evidence, manifest)

    def judge(moved: int) -> str:
        first, *rest = honest.shares
        wrong = honest.model_copy(update={"shares": (first + moved, *rest)})
        monkeypatch.setattr(values, "compute_shares", lambda *_, **__: wrong)
        return check_values(wrong, evidence, manifest)

    assert judge(2**40 // 10**9)
    for moved in (2**40 // 10**7, -(2**40 // 10**7)):
        with pytest.raises(VerificationError, match="the same shares by polynomial"):
            judge(moved)


@pytest.mark.parametrize(("players", "second"), [(16, True), (17, False)])
def test_up_to_sixteen_players_have_a_second_method(
    manifest_of: Manifests, players: int, second: bool
) -> None:
    manifest, evidence = manifest_of("ann", "bob"), margins(players)
    said = check_values(compute_shares(evidence, manifest, method="polynomial"), evidence, manifest)
    assert ("too many players" in said, "by enumeration, within" in said) == (not second, second)


def test_where_no_second_method_serves_the_verdict_says_so(manifest_of: Manifests) -> None:
    manifest, evidence = manifest_of("ann", "bob", game=terms(utility="win")), margins(2)
    said = check_values(compute_shares(evidence, manifest), evidence, manifest)
    assert said.endswith("no second method for this utility")
    manifest = manifest_of("ann", "bob", game=terms(composition="merged"))
    merged = CoalitionEvidence.from_margins(header(2), np.array([[1.0, 0, 0.5], [0, 1, 1], [2, 2, 2]]))
    said = check_values(compute_shares(merged, manifest), merged, manifest)
    assert said.endswith("margins that do not add up")


def test_of_pools_the_verdict_names_the_weakest_coalition(manifest_of: Manifests) -> None:
    game = RewardGameTerms.model_validate(
        {
            "composition": "sum",
            "utility": "reward",
            "scale_bits": 16,
            "objectives": [{"name": "kind", "reward": "model:judge", "weight": 1, "scorer": "0e" * 32}],
            "pool": {"candidates": 4, "from_base": 2, "max_new_tokens": 8, "seed": 0, "min_effective": 1.01},
        }
    )
    random = np.random.default_rng(4)
    pools = CandidatePools(
        log_ratios=np.stack([np.zeros((3, 4)), random.normal(size=(3, 4))]),
        proposal=random.normal(size=(3, 4)),
        from_base=2,
        rewards=random.normal(size=(1, 3, 4)),
    )
    fields = {"players": ("ann", "bob"), "adapters": ("0a" * 32,) * 2, "candidates": "0c" * 32}
    layout = {"sources": (0, 0, 0), "labels": ("all",), "size": 4, "from_base": 2, "scale_bits": 16}
    evidence = PoolEvidence.from_pools(
        PoolHeader.model_validate({**fields, **layout, "objectives": ("kind",)}), pools
    )
    manifest = manifest_of("ann", "bob", game=game)
    shares = compute_shares(evidence, manifest)
    assert shares.pool is not None
    said = check_values(shares, evidence, manifest)
    assert said.endswith(f"fewest for {' + '.join(shares.pool.weakest) or 'nobody'}")
    assert "effective candidates" in said
