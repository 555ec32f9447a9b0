"""Text that has one spelling: base64 (RFC 4648, section 4) and decimals, checked by writing them again.

The parsers of the standard library are made for people: `int` takes `1_000`, `+5` and Arabic digits,
`b64decode` takes non-zero bits behind the last byte, `splitlines` splits at U+2028. What is signed must not
have two spellings.
"""

import base64
import binascii
import re

from patronage_protocol.errors import FormatError

__all__ = ["MAX_INTEGER", "base64_bytes", "base64_text", "decimal", "utf8"]

MAX_INTEGER = 2**63 - 1
"""The largest size, index and time: what fits a signed 64-bit integer, as SQLite and Go have it."""

_DECIMAL = re.compile(r"(?:0|[1-9][0-9]{0,18})\Z", re.ASCII)


def base64_text(data: bytes) -> str:
    """Standard base64 with padding."""
    return base64.b64encode(data).decode("ascii")


def base64_bytes(text: str, *, what: str, length: int | None = None) -> bytes:
    """The bytes that `base64_text` would write as `text`, of exactly `length` bytes if that is given.

    Raises:
        FormatError: a character outside the alphabet, wrong padding, stray bits, or another length.
    """
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise FormatError(f"{what} as standard base64", got=repr(shortened(text)), do="refuse it") from error
    if base64_text(data) != text:
        raise FormatError(
            f"{what} as canonical base64", got=f"stray bits in {shortened(text)!r}", do="refuse it"
        )
    if length is not None and len(data) != length:
        raise FormatError(f"{what} of {length} bytes", got=f"{len(data)} bytes", do="refuse it")
    return data


def decimal(text: str, *, what: str) -> int:
    """A non-negative decimal of at most `MAX_INTEGER`: ASCII digits, no sign, no leading zero.

    Raises:
        FormatError: another spelling, or too large.
    """
    if not _DECIMAL.match(text) or int(text) > MAX_INTEGER:
        raise FormatError(f"{what} as a plain decimal below 2**63", got=repr(shortened(text)), do="refuse it")
    return int(text)


def utf8(data: bytes, *, what: str) -> str:
    """`data` as UTF-8, without ASCII control characters other than the newline.

    Raises:
        FormatError: it is not that.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"{what} as UTF-8", got=f"byte {error.start} is not", do="refuse it") from error
    control = next((place for place, byte in enumerate(data) if byte < 0x20 and byte != 0x0A), None)
    if control is not None:
        raise FormatError(
            f"{what} without control characters", got=f"0x{data[control]:02x} at {control}", do="refuse it"
        )
    return text


def shortened(text: str) -> str:
    """At most 60 characters, for a message."""
    return text if len(text) <= 60 else f"{text[:57]}..."
