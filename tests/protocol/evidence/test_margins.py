"""Margins as published: integers in one encoding, strictly read back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from patronage_protocol.errors import FormatError, UsageError
from patronage_protocol.evidence import EvidenceHeader, MarginEvidence, SliceColumns
from patronage_protocol.fixed_point import int32_matrix, to_fixed, to_float


def header(**changes: object) -> EvidenceHeader:
    fields = {
        "players": ("ann", "bob"),
        "adapters": ("0a" * 32, "0b" * 32),
        "clusters": (0, 0, 1),
        "sources": (0, 1, 1),
        "labels": ("brevity", "spelling"),
        "scale_bits": 16,
        **changes,
    }
    return EvidenceHeader.model_validate(fields)


MARGINS = np.array([[0.5, -1.25, 2.0], [0.0, 1e-6, -0.75]])


def test_margins_read_back_as_the_integers_that_were_published() -> None:
    evidence = MarginEvidence.from_margins(header(), MARGINS)
    again = MarginEvidence.decode(evidence.encode())
    assert again.header == evidence.header
    assert again.values.tolist() == [[32768, -81920, 131072], [0, 0, -49152]]
    assert again.digest == evidence.digest


def test_rounding_is_half_to_even() -> None:
    halves = np.array([[0.5, 1.5, 2.5, -0.5, -1.5]]) / 2**16
    assert int32_matrix(halves, 16).tolist() == [[0, 2, 2, 0, -2]]
    assert [to_fixed(x / 2, bits=0) for x in (1, 3, 5, -1, -3)] == [0, 2, 2, 0, -2]


@given(st.floats(-1e6, 1e6))
def test_a_published_number_is_within_half_a_unit(number: float) -> None:
    assert abs(to_float(to_fixed(number)) - number) <= 2.0**-41


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 32768.0, -32768.1])
def test_margins_that_int32_cannot_hold_are_refused_with_their_place(bad: float) -> None:
    margins = MARGINS.copy()
    margins[1, 2] = bad
    with pytest.raises(UsageError, match=r"at \(1, 2\)"):
        MarginEvidence.from_margins(header(), margins)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"players": ("bob", "ann")}, "sorted order"),
        ({"players": ("ann", "ann")}, "distinct players"),
        ({"adapters": ("0a" * 32,)}, "one adapter digest a player"),
        ({"clusters": (1, 0, 0)}, "order of appearance"),
        ({"clusters": (0, 2, 1)}, "order of appearance"),
        ({"clusters": (0, 0, 2)}, "order of appearance"),
        ({"clusters": (0, -1, 1)}, "order of appearance"),
        ({"sources": (0, 1, 2)}, "indices of labels"),
        ({"sources": (0, 1)}, "one source a pair"),
        ({"sources": (0, 1, 1, 1)}, "one source a pair"),
        ({"sources": (0, -1, 1)}, "indices of labels"),
        ({"adapters": ("0a" * 32,) * 3}, "one adapter digest a player"),
        ({"clusters": (0, 0, 1, 2), "sources": (0, 1, 1, 1)}, "one column a pair"),
        ({"players": ("ann",), "adapters": ("0a" * 32,)}, "one row a player"),
        ({"players": ("ann", "ann", "bob"), "adapters": ("0a" * 32,) * 3}, "one row a player"),
        ({"clusters": (0, 1), "sources": (0, 1)}, "one column a pair"),
    ],
)
def test_a_header_that_does_not_describe_the_matrix_is_refused(
    change: dict[str, object], problem: str
) -> None:
    with pytest.raises(FormatError, match=problem):
        MarginEvidence.from_margins(header(**change), MARGINS)


def test_no_player_is_there_twice_whatever_stands_between() -> None:
    for players in (("ann", "ann", "bob"), ("ann", "bob", "bob"), ("ann", "bob", "ann")):
        crowd = header(players=players, adapters=("0a" * 32,) * 3)
        with pytest.raises(FormatError, match="distinct players in sorted order"):
            MarginEvidence.from_margins(crowd, np.zeros((3, 3)))


def test_a_byte_more_or_less_is_refused() -> None:
    data = MarginEvidence.from_margins(header(), MARGINS).encode()
    for broken in (data[:-1], data + b"\0"):
        with pytest.raises(FormatError, match="24 bytes of int32 numbers after the header"):
            MarginEvidence.decode(broken)
    for broken in (data.replace(b"\n", b"", 1), header().encode(), b""):
        with pytest.raises(FormatError, match=f"a header, a line feed, and numbers, got {len(broken)} bytes"):
            MarginEvidence.decode(broken)


def test_one_pair_that_is_nobodys_slice_is_enough_and_none_is_not() -> None:
    """The slice may be of an owner that is no player: then everybody is scored on it."""
    for owner, seen in (("ann", [True, False, False]), ("zed", [True, True, True])):
        apart = header(clusters=(0, 1, 2), slices=(SliceColumns(owner=owner, first=1, pairs=2),))
        scored = MarginEvidence.from_margins(apart, MARGINS).scored
        assert scored.tolist() == [seen, [True, True, True]]
    whole = header(clusters=(0, 1, 2), slices=(SliceColumns(owner="ann", first=0, pairs=3),))
    with pytest.raises(FormatError, match="at the end"):
        MarginEvidence.from_margins(whole, MARGINS)


def test_the_one_integer_without_a_positive_twin_is_refused() -> None:
    evidence = MarginEvidence(header(), np.full((2, 3), -(2**31), dtype=np.int32))
    with pytest.raises(FormatError, match="within"):
        MarginEvidence.decode(evidence.encode())


@given(arrays(np.int32, (2, 3), elements=st.integers(-(2**31) + 1, 2**31 - 1)))
def test_every_int32_matrix_survives_the_way_through_bytes(values: np.ndarray) -> None:
    evidence = MarginEvidence(header(), values)
    assert np.array_equal(MarginEvidence.decode(evidence.encode()).values, values)
