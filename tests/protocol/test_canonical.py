"""One byte string for one value, strictly read back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patronage_protocol.canonical import BigInt, Canonical, Name, UnixTime, canonical_bytes, strict_json
from patronage_protocol.errors import FormatError


class Sample(Canonical):
    name: Name
    amount: BigInt
    rate: float = 1.0


class Moment(Canonical):
    time: UnixTime


SAMPLE = b'{"amount":"12345678901234567890","name":"ann","rate":0.5}'


def test_a_value_reads_back_from_its_own_bytes() -> None:
    sample = Sample.decode(SAMPLE)
    assert sample.amount == 12345678901234567890
    assert sample.encode() == SAMPLE


@pytest.mark.parametrize(
    "data",
    [
        b'{"name":"ann","amount":"1","rate":0.5}',  # another order of keys
        b'{"amount":"1","name":"ann","rate":0.50}',  # another spelling of a number
        b'{"amount":"1","name":"ann","rate":0.5} ',  # white space
        b'{"amount":"1","amount":"1","name":"ann","rate":0.5}',  # a key twice
        b'{"amount":"01","name":"ann","rate":0.5}',  # a leading zero
        b'{"amount":"+1","name":"ann","rate":0.5}',
        b'{"amount":"1_0","name":"ann","rate":0.5}',
        '{"amount":"١","name":"ann","rate":0.5}'.encode(),  # an Arabic digit
        b'{"amount":"1\\n","name":"ann","rate":0.5}',
        b'{"amount":1,"name":"ann","rate":0.5}',  # an integer that should be a string
        b'{"amount":"1","name":"ann\\n","rate":0.5}',
        b'{"amount":"1","name":"../ann","rate":0.5}',
        b'{"amount":"1","name":"ann","rate":NaN}',
        b'{"amount":"1","name":"ann","rate":"0.5"}',
        b'{"amount":"1","name":"ann"}',  # a default left out
        b'{"amount":"1","extra":0,"name":"ann","rate":0.5}',
        b'\xef\xbb\xbf{"amount":"1","name":"ann","rate":0.5}',
        b'{"amount":"1","name":"\xff","rate":0.5}',
        b"[]",
        b"",
        b"[" * 100_000,
    ],
)
def test_any_other_spelling_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        Sample.decode(data)


@given(st.binary(max_size=60))
def test_bytes_from_anywhere_are_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        Sample.decode(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
def test_canonical_bytes_are_a_fixed_point(value: object) -> None:
    data = canonical_bytes(value)
    assert canonical_bytes(strict_json(data, what="a value")) == data


def test_what_has_no_canonical_form_is_refused() -> None:
    for value in (2**53, float("nan"), "\ud800"):
        with pytest.raises(FormatError, match="RFC 8785"):
            canonical_bytes(value)


def test_an_error_says_what_was_expected_what_came_and_what_to_do() -> None:
    with pytest.raises(FormatError) as caught:
        Sample.decode(b'{"amount":"1","name":"Ann","rate":0.5}')
    line = str(caught.value)
    assert line.startswith("expected a valid Sample, got name: ")
    assert line.endswith("; refuse it")


def test_a_moment_that_no_calendar_has_is_refused() -> None:
    assert Moment.decode(b'{"time":253370764799}').time == 253_370_764_799  # the last second of 9998
    for text in (b'{"time":-1}', b'{"time":253370764800}'):
        with pytest.raises(FormatError, match="time"):
            Moment.decode(text)
