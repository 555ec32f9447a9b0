"""Numbers that are published: integers in units of 2**-bits, rounded half to even.

Scaling by a power of two is exact in binary floating point, so the only rounding is the one to the integer.
"""

import math

import numpy as np
from numpy.typing import NDArray

from patronage_protocol.errors import UsageError

__all__ = ["SHARE_BITS", "int32_matrix", "to_fixed", "to_float"]

SHARE_BITS = 40
"""Shares and interval bounds are published in units of 2**-40, about 1e-12."""

_INT32_MAX = 2**31 - 1


def to_fixed(value: float, bits: int = SHARE_BITS) -> int:
    """`value` in units of 2**-bits.

    Raises:
        UsageError: `value` is not finite.
    """
    if not math.isfinite(value):
        raise UsageError("a finite number", got=str(value), do="look for the computation that produced it")
    return round(math.ldexp(value, bits))


def to_float(units: int, bits: int = SHARE_BITS) -> float:
    """The number that `units` of 2**-bits stand for, to double precision."""
    return math.ldexp(units, -bits)


def int32_matrix(values: NDArray[np.float64], bits: int) -> NDArray[np.int32]:
    """Every element in units of 2**-bits; the shape is kept.

    Raises:
        UsageError: an element is not finite or lies beyond the int32 range.
    """
    scaled = np.rint(np.ldexp(np.asarray(values, dtype=np.float64), bits))
    usable = np.isfinite(scaled) & (np.abs(scaled) <= _INT32_MAX)
    if not usable.all():
        place = tuple(int(i) for i in np.argwhere(~usable)[0])
        raise UsageError(
            f"values within ±{_INT32_MAX / 2**bits:g}, the range of int32 in units of 2**-{bits}",
            got=f"{values[place]} at {place}",
            do="reject that adapter, or declare a coarser scale_bits",
        )
    return scaled.astype(np.int32)
