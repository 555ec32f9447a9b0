from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from patronage_protocol.errors import FormatError, UsageError
from patronage_protocol.evidence import CoalitionEvidence, EvidenceHeader, MarginEvidence, read_evidence
from patronage_protocol.fixed_point import to_float
from patronage_protocol.manifest import GameTerms, Manifest
from patronage_protocol.shares import compute_shares
from patronage_protocol.valuation import all_coalitions

PAIRS = 6


def header(players: int, pairs: int = PAIRS) -> EvidenceHeader:
    return EvidenceHeader(
        players=tuple(f"owner-{number:02}" for number in range(players)),
        adapters=("ab" * 32,) * players,
        clusters=tuple(range(pairs)),
        sources=(0,) * pairs,
        labels=("",),
        scale_bits=16,
    )


def merged(utility: str = "sigmoid") -> GameTerms:
    return GameTerms.model_validate({"composition": "merged", "utility": utility, "scale_bits": 16})


@settings(max_examples=25)
@given(players=st.integers(1, 4), seed=st.integers(0, 2**32 - 1))
def test_a_file_is_read_back_as_it_was_written(players: int, seed: int) -> None:
    margins = np.random.default_rng(seed).normal(0, 2, ((1 << players) - 1, PAIRS))
    evidence = CoalitionEvidence.from_margins(header(players), margins)
    again = CoalitionEvidence.decode(evidence.encode())
    np.testing.assert_array_equal(again.coalitions, evidence.coalitions)
    assert again.digest == evidence.digest
    np.testing.assert_allclose(again.reals[1:], margins, atol=2**-17)
    assert not again.reals[0].any()
    np.testing.assert_array_equal(again.values, again.coalitions[[1 << i for i in range(players)]])


@pytest.mark.parametrize("utility", ["sigmoid", "log_sigmoid", "win"])
def test_where_margins_happen_to_add_up_the_shares_are_those_of_the_sum(
    manifest_of: Callable[..., Manifest], utility: str
) -> None:
    rows = np.random.default_rng(1).integers(-(2**17), 2**17, (3, PAIRS)) / 2**16
    sums = all_coalitions(3)[1:].astype(float) @ rows
    terms = {"utility": utility, "scale_bits": 16}
    both = [
        manifest_of("ann", "bob", "cyd", game=GameTerms.model_validate({"composition": composition, **terms}))
        for composition in ("sum", "merged")
    ]
    added = compute_shares(MarginEvidence.from_margins(header(3), rows), both[0])
    found = compute_shares(CoalitionEvidence.from_margins(header(3), sums), both[1])
    for name in ("shares", "lower", "upper", "detectable"):
        np.testing.assert_allclose(getattr(found, name), getattr(added, name), atol=4)
    assert found.grand == pytest.approx(added.grand, abs=4)


def test_two_owners_who_reach_something_only_together_share_it(manifest_of: Callable[..., Manifest]) -> None:
    together = np.array([0.3, -1.0, 2.0, 0.1, 0.5, 4.0])
    margins = np.stack([np.zeros(PAIRS), np.zeros(PAIRS), together])
    evidence = CoalitionEvidence.from_margins(header(2), margins)
    shares = compute_shares(evidence, manifest_of("ann", "bob", game=merged()))
    expected = float((1 / (1 + np.exp(-evidence.reals[3])) - 0.5).mean() / 2)
    assert [to_float(share) for share in shares.shares] == pytest.approx([expected, expected], abs=1e-11)
    assert to_float(shares.grand) == pytest.approx(2 * expected, abs=1e-11)
    assert shares.gap < 64


def test_the_manifest_decides_how_evidence_is_read(manifest_of: Callable[..., Manifest]) -> None:
    evidence = CoalitionEvidence.from_margins(header(2), np.ones((3, PAIRS)))
    found = read_evidence(evidence.encode(), manifest_of("ann", "bob", game=merged()))
    assert isinstance(found, CoalitionEvidence)
    with pytest.raises(FormatError, match="48 bytes of int32"):
        read_evidence(evidence.encode(), manifest_of("ann", "bob"))


def test_more_owners_than_can_be_enumerated_are_refused(manifest_of: Callable[..., Manifest]) -> None:
    names = [f"owner-{number:02}" for number in range(11)]
    assert manifest_of(*names[:10], game=merged()).game.composition == "merged"
    with pytest.raises(ValidationError, match="at most 10 owners"):
        manifest_of(*names, game=merged())
    ten = CoalitionEvidence.from_margins(header(10, 1), np.ones((1023, 1)))
    assert CoalitionEvidence.decode(ten.encode()).digest == ten.digest
    with pytest.raises(FormatError, match="at most 10 players"):
        CoalitionEvidence.decode(header(11, 1).encode() + b"\n")


def test_files_of_another_size_or_without_sense_are_refused() -> None:
    evidence = CoalitionEvidence.from_margins(header(2), np.ones((3, PAIRS)))
    data = evidence.encode()
    for wrong in (data[:-1], data + b"\0", data.replace(b"\n", b"", 1)):
        with pytest.raises(FormatError):
            CoalitionEvidence.decode(wrong)
    least = (-(2**31)).to_bytes(4, "little", signed=True)
    with pytest.raises(FormatError, match="margins within"):
        CoalitionEvidence.decode(data[:-4] + least)
    last = (1 - 2**31).to_bytes(4, "little", signed=True)
    assert CoalitionEvidence.decode(data[:-4] + last).coalitions[3, -1] == 1 - 2**31
    unsorted = header(2).model_copy(update={"players": ("owner-01", "owner-00")})
    with pytest.raises(FormatError, match="distinct players in sorted order"):
        CoalitionEvidence.decode(unsorted.encode() + b"\n" + data.partition(b"\n")[2])
    for rows in (2, 4):
        with pytest.raises(UsageError, match=f"margins of 3 coalitions, got {rows}"):
            CoalitionEvidence.from_margins(header(2), np.ones((rows, PAIRS)))
    with pytest.raises(UsageError):
        CoalitionEvidence.from_margins(header(2), np.full((3, PAIRS), np.nan))
