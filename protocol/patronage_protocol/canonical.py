"""One byte string for one value: RFC 8785 (JSON Canonicalization Scheme), strictly read back.

What is signed, hashed and verified is always the stored bytes. `Canonical.decode` therefore accepts only what
`encode` would have written: a duplicate key, another order, white space or a number spelled otherwise is an
error, never a second spelling of the same statement.
"""

import hashlib
import json
import re
from typing import Annotated, Any, Self

import rfc8785
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StringConstraints,
    ValidationError,
)

from patronage_protocol.errors import FormatError

__all__ = [
    "BigInt",
    "Canonical",
    "Digest",
    "Fraction",
    "Name",
    "Positive",
    "PositiveReal",
    "UnixTime",
    "canonical_bytes",
    "sha256",
    "strict_json",
]

_DECIMAL = re.compile(r"(?:0|-?[1-9][0-9]*)\Z", re.ASCII)


def sha256(data: bytes) -> str:
    """The digest of `data` as it is written everywhere in Patronage: 64 lower-case hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def canonical_bytes(value: Any) -> bytes:
    """RFC 8785 bytes of a JSON value.

    Raises:
        FormatError: the value has no canonical form (a NaN, an integer beyond 2**53 - 1, a lone surrogate).
    """
    try:
        return rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, UnicodeEncodeError) as error:
        raise FormatError(
            "a value with a canonical JSON form (RFC 8785)",
            got=str(error),
            do="send large integers as strings",
        ) from error


def strict_json(data: bytes, *, what: str) -> Any:
    """Parse JSON; refuse what could be read in two ways: duplicate keys, NaN, Infinity, a byte-order mark.

    Raises:
        FormatError: `what` names the thing that does not parse.
    """
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_unique_keys, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise FormatError(
            f"{what} as strict JSON", got=str(error), do="refuse it, or ask for it again"
        ) from error


class Canonical(BaseModel):
    """A frozen model whose only accepted encoding is its RFC 8785 form."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def encode(self) -> bytes:
        """The canonical bytes."""
        return canonical_bytes(self.model_dump(mode="json"))

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical bytes, hexadecimal."""
        return sha256(self.encode())

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read `data`, which must be exactly what `encode` writes.

        Raises:
            FormatError: no such value, or a value spelled in another way.
        """
        what = cls.__name__
        strict_json(data, what=what)
        try:
            value = cls.model_validate_json(data)
        except ValidationError as error:
            raise FormatError(f"a valid {what}", got=first_problem(error), do="refuse it") from error
        if value.encode() != data:
            raise FormatError(
                f"the canonical bytes of a {what} (RFC 8785)",
                got="another spelling of the same value",
                do="refuse it",
            )
        return value


def first_problem(error: ValidationError) -> str:
    """One line for the first thing that pydantic found wrong."""
    problem = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in problem["loc"]) or "the whole"
    return f"{place}: {problem['msg']}"


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the key {key[:80]!r} twice")
        result[key] = value
    return result


def _no_constant(name: str) -> None:
    raise ValueError(f"the number {name}")


def _decimal(value: Any) -> Any:
    if isinstance(value, str):
        if not _DECIMAL.match(value):
            raise ValueError(f"{value!r} is not a plain decimal integer")
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError("a large integer is written as a decimal string")


BigInt = Annotated[int, BeforeValidator(_decimal), PlainSerializer(str, return_type=str)]
"""An integer of any size, written as a decimal string: JSON numbers end at 2**53 - 1."""

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}\z")]
"""A SHA-256 digest, 64 lower-case hexadecimal digits."""

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?\z")]
"""The name of an owner, an operator or a consortium: safe in a file name, a note and a URL."""

UnixTime = Annotated[int, Field(ge=0, lt=253_370_764_800)]
"""Seconds since 1970, before the year 9999: a moment that calendars can write, and days after it, too."""

Positive = Annotated[int, Field(gt=0)]
PositiveReal = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
