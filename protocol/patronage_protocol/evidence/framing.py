r"""The file that evidence is published as: `header "\\n" numbers`, RFC 8785 JSON and int32, little-endian."""

import math

import numpy as np
from numpy.typing import NDArray

from patronage_protocol.canonical import Canonical
from patronage_protocol.errors import FormatError

__all__ = ["join", "numbers", "split"]


def join(header: Canonical, values: NDArray[np.int32]) -> bytes:
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
