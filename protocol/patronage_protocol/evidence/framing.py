r"""The file that evidence is published as: `header "\\n" numbers`, RFC 8785 JSON and int32, little-endian.

What all of it has in common is here: players with their adapters, prompts with their sources, a fixed point.
"""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Generic, Literal, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from patronage_protocol.canonical import Canonical, Digest, Name, sha256
from patronage_protocol.errors import FormatError

__all__ = ["Framed", "FramedHeader", "join", "numbers", "read", "split"]


class FramedHeader(Canonical):
    """What every header says of its numbers.

    Args:
        players: names of the n players.
        adapters: SHA-256 of each player's adapter, in the same order.
        sources: for each pair, or each pool, an index into `labels`.
        labels: what the report calls the sources.
        scale_bits: numbers are in units of 2**-scale_bits.
    """

    schema_version: Literal[1] = 1
    players: Annotated[tuple[Name, ...], Field(min_length=1)]
    adapters: tuple[Digest, ...]
    sources: tuple[int, ...]
    labels: tuple[str, ...]
    scale_bits: Annotated[int, Field(ge=16, le=24)]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the numbers."""
        raise NotImplementedError

    def requirements(self) -> dict[str, bool]:
        """What a header must have, in words, and whether it has it."""
        return {
            "one adapter digest a player": len(self.adapters) == len(self.players),
            "distinct players in sorted order": list(self.players) == sorted(set(self.players)),
            "sources that are indices of labels": all(0 <= s < len(self.labels) for s in self.sources),
        }


H = TypeVar("H", bound=FramedHeader)


@dataclass(frozen=True)
class Framed(Generic[H]):
    """A header and the int32 numbers that it describes.

    Attributes:
        KIND: what this is called where it is refused.
        SHAPE: the shape of the numbers, in words.
    """

    KIND: ClassVar[str]
    SHAPE: ClassVar[str]

    header: H
    values: NDArray[np.int32]

    def checked(self) -> Self:
        """This, if header and numbers belong together.

        Raises:
            FormatError: says what they should have in common.
        """
        shape = self.values.shape
        requirements = {
            self.SHAPE: shape == self.header.shape,
            **self.header.requirements(),
            "numbers within ±(2**31 - 1)": bool((self.values > -(2**31)).all()),
        }
        for expected, holds in requirements.items():
            if not holds:
                raise FormatError(f"{self.KIND} with {expected}", got=f"the shape {shape}", do="refuse it")
        return self

    @property
    def digest(self) -> str:
        """SHA-256 of the file."""
        return sha256(self.encode())

    def encode(self) -> bytes:
        """The bytes of the file."""
        return join(self.header, self.values)


def join(header: FramedHeader, values: NDArray[np.int32]) -> bytes:
    """The bytes of a file."""
    return header.encode() + b"\n" + values.astype("<i4").tobytes()


def split(data: bytes) -> tuple[bytes, bytes]:
    """The bytes of the header and those of the numbers.

    Raises:
        FormatError: there is no line feed between them.
    """
    head, newline, body = data.partition(b"\n")
    if not newline:
        raise FormatError("a header, a line feed, and numbers", got=f"{len(data)} bytes", do="refuse it")
    return head, body


def numbers(body: bytes, shape: tuple[int, ...]) -> NDArray[np.int32]:
    """The numbers, in the shape that the header gives them.

    Raises:
        FormatError: there are more or fewer bytes.
    """
    size = 4 * math.prod(shape)
    if len(body) != size:
        raise FormatError(
            f"{size} bytes of int32 numbers after the header", got=f"{len(body)} bytes", do="refuse it"
        )
    return np.frombuffer(body, dtype="<i4").astype(np.int32).reshape(shape)


def read(data: bytes, kind: type[H]) -> tuple[H, NDArray[np.int32]]:
    """The header of a file and the numbers that it describes.

    Raises:
        FormatError: it is not exactly one header and its numbers.
    """
    head, body = split(data)
    header = kind.decode(head)
    return header, numbers(body, header.shape)
