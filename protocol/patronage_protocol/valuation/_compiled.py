"""The one inner loop that is worth compiling: sums of sigmoids over pairs for all 2^n coalitions.

numpy needs five passes over every (coalition, pair); a fused loop needs one, with one division for four
pairs, and is seven times as fast (docs/decisions/0010-numba-is-optional.md). numba is not a dependency:
without it, or for small work, `enumeration` uses numpy and gives the same values up to the last bits.
"""

import importlib.util
from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from patronage_protocol.valuation._threads import in_order

__all__ = ["WORTH_COMPILING", "sigmoid_sums", "worth_it"]

WORTH_COMPILING = 1 << 26
"""Evaluations from which the kernel is used; below, numpy is done before numba is imported."""

GROUP = 4
PAIRS_AT_ONCE = 64
ROWS_AT_ONCE = 16

Kernel = Callable[[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]], None]


def worth_it(n: int, pairs: int, utility: str) -> bool:
    """Whether the kernel serves this game, is large enough work, and can be compiled here."""
    large = utility == "sigmoid" and pairs << n >= WORTH_COMPILING
    return large and importlib.util.find_spec("numba") is not None


def sigmoid_sums(low: NDArray[np.float64], high: NDArray[np.float64], threads: int) -> NDArray[np.float64]:
    """sum over pairs of 1 / (1 + low[j, s] high[j, t]) - 1/2, as (T, S).

    Args:
        low: exp(-x) of the low half-coalitions, (M, S).
        high: the same of the high ones, (M, T); a product of four terms 1 + low * high must be finite.
        threads: how many work on rows t; every row is summed by one of them, in the order of the pairs.
    """
    spare = -len(low) % GROUP
    low = np.concatenate([low, np.ones((spare, low.shape[1]))])
    high = np.concatenate([high, np.ones((spare, high.shape[1]))])
    total = np.full((high.shape[1], low.shape[1]), -0.5 * len(low))
    kernel = _kernel()

    def rows(start: int) -> None:
        stop = start + ROWS_AT_ONCE
        part = np.ascontiguousarray(high[:, start:stop])
        for first in range(0, len(low), PAIRS_AT_ONCE):
            pairs = slice(first, first + PAIRS_AT_ONCE)
            kernel(low[pairs], part[pairs], total[start:stop])

    for _ in in_order(rows, range(0, len(total), ROWS_AT_ONCE), threads):
        pass
    return total


@cache
def _kernel() -> Kernel:
    import numba  # noqa: PLC0415 - half a second that most processes never need

    @numba.njit(
        "void(f8[:,::1], f8[:,::1], f8[:,::1])", nogil=True, error_model="numpy", fastmath={"contract"}
    )  # type: ignore[untyped-decorator, unused-ignore]
    def add(low: NDArray[np.float64], high: NDArray[np.float64], total: NDArray[np.float64]) -> None:
        for t in range(total.shape[0]):
            row = total[t]
            for j in range(0, low.shape[0], 4):
                low_0, low_1, low_2, low_3 = low[j], low[j + 1], low[j + 2], low[j + 3]
                high_0, high_1, high_2, high_3 = high[j, t], high[j + 1, t], high[j + 2, t], high[j + 3, t]
                for s in range(row.shape[0]):
                    # 1/a + 1/b + 1/c + 1/d over one denominator
                    a, b = 1.0 + high_0 * low_0[s], 1.0 + high_1 * low_1[s]
                    c, d = 1.0 + high_2 * low_2[s], 1.0 + high_3 * low_3[s]
                    ab, cd = a * b, c * d
                    row[s] += ((a + b) * cd + (c + d) * ab) / (ab * cd)

    kernel: Kernel = add
    return kernel
