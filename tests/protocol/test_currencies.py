"""Minor units against ISO 4217, and what a manifest takes for a currency."""

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patronage_protocol.currencies import MINOR_UNITS, decimal_text
from patronage_protocol.errors import DataError
from patronage_protocol.manifest import PayoutTerms
from patronage_protocol.settings import Settings, read_settings

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "iso4217.json").read_text())["minor_units"]

Terms = Callable[..., PayoutTerms]


def test_every_currency_of_iso_4217_has_its_published_minor_unit() -> None:
    assert {code: MINOR_UNITS.get(code, "missing") for code in VECTORS} == VECTORS
    assert len(VECTORS) == 178


@pytest.mark.parametrize("code", [code for code, exponent in VECTORS.items() if exponent is not None])
def test_a_manifest_takes_a_currency_with_its_own_exponent_and_no_other(
    payout_terms: Terms, code: str
) -> None:
    for exponent in range(5):
        if exponent == VECTORS[code]:
            assert payout_terms(currency=code, exponent=exponent).exponent == exponent
        else:
            with pytest.raises(ValueError, match=f"{code} has the exponent {VECTORS[code]} in ISO 4217"):
                payout_terms(currency=code, exponent=exponent)


@pytest.mark.parametrize(
    ("code", "problem"), [("EUX", "no currency"), ("PTS", "no currency"), ("XAU", "no minor unit")]
)
def test_what_iso_4217_does_not_know_must_be_declared(payout_terms: Terms, code: str, problem: str) -> None:
    with pytest.raises(ValueError, match=f"{problem}.*minor_unit to 'declared'"):
        payout_terms(currency=code)
    assert payout_terms(currency=code, minor_unit="declared").currency == code


@pytest.mark.parametrize("code", ["eur", "EU", "EURO", "€", "EUR\n", "ЕUR", "=A1"])
def test_a_code_is_three_capitals_even_when_declared(payout_terms: Terms, code: str) -> None:
    with pytest.raises(ValueError, match="currency"):
        payout_terms(currency=code, minor_unit="declared")


def test_a_wrong_exponent_in_a_file_of_terms_is_one_clear_line(tmp_path: Path) -> None:
    class Money(Settings):
        payout: PayoutTerms

    (tmp_path / "terms.toml").write_text(
        '[payout]\npolicy = "gated"\ncurrency = "JPY"\nexponent = 2\nbudget = 100000\n'
        "max_detectable_percent = 100\n"
    )
    with pytest.raises(DataError) as caught:
        read_settings(tmp_path / "terms.toml", Money)
    assert str(caught.value).count("\n") == 0
    assert "JPY has the exponent 0 in ISO 4217, not 2" in str(caught.value)


@given(amount=st.integers(-(10**30), 10**30), exponent=st.integers(0, 4))
def test_minor_units_are_written_as_exact_decimals(amount: int, exponent: int) -> None:
    text = decimal_text(amount, exponent)
    assert Fraction(text) == Fraction(amount, 10**exponent)
    assert len(text.partition(".")[2]) == exponent
    assert text.strip("-0123456789.") == ""


def test_amounts_below_one_keep_their_zeros() -> None:
    assert [decimal_text(n, 2) for n in (0, 5, -5, 100, -12345)] == [
        "0.00",
        "0.05",
        "-0.05",
        "1.00",
        "-123.45",
    ]
    assert decimal_text(7, 0) == "7"
    assert decimal_text(-1, 3) == "-0.001"
