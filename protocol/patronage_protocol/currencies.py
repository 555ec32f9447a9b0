"""Minor units of the currencies of ISO 4217: how many decimals an amount has.

ISO 4217:2015, List One (currencies, funds and precious metals), as published on 2026-01-01. The list only
grows here: a currency that ISO withdraws stays, so that an old ledger is still read. One that ISO adds
later, or points of a consortium's own, are declared in the manifest (`minor_unit = "declared"`).
"""

from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["MINOR_UNITS", "decimal_text", "minor_unit_problem"]

_BY_EXPONENT = {
    0: """
        BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF
    """,
    2: """
        AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD CDF CHE
        CHF CHW CNY COP COU CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD
        HKD HNL HTG HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK
        MNT MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD
        RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH
        USD USN UYU UZS VED VES WST XAD XCD XCG YER ZAR ZMW ZWG
    """,
    3: """
        BHD IQD JOD KWD LYD OMR TND
    """,
    4: """
        CLF UYW
    """,
    None: """
        XAG XAU XBA XBB XBC XBD XDR XPD XPT XSU XTS XUA XXX
    """,
}

MINOR_UNITS: Mapping[str, int | None] = MappingProxyType(
    {code: exponent for exponent, codes in _BY_EXPONENT.items() for code in codes.split()}
)
"""Code to exponent: an amount is a whole number of 10**-exponent. None: ISO defines no minor unit."""


def minor_unit_problem(currency: str, exponent: int) -> str:
    """What is wrong with this exponent by ISO 4217; empty if nothing is."""
    if currency not in MINOR_UNITS:
        return f"{currency} is no currency of ISO 4217"
    known = MINOR_UNITS[currency]
    if known is None:
        return f"{currency} has no minor unit in ISO 4217"
    return "" if known == exponent else f"{currency} has the exponent {known} in ISO 4217, not {exponent}"


def decimal_text(amount: int, exponent: int) -> str:
    """Minor units as a plain decimal number: -12345 with exponent 2 is `-123.45`. Integers all the way."""
    digits = str(abs(amount)).rjust(exponent + 1, "0")
    whole, minor = digits[: len(digits) - exponent], digits[len(digits) - exponent :]
    return f"{'-' if amount < 0 else ''}{whole}{'.' if minor else ''}{minor}"
