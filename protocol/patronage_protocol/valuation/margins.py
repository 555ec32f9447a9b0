"""Margins: what every valuation starts from, and the checks that come before any work.

`a[i, j]` is the margin of owner i on held-out pair j: beta times the difference of the log-ratios of the
chosen and the rejected completion. Published margins are int32 in units of `2**-scale_bits`; their real
values are exact in double precision.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patronage_protocol.errors import UsageError

__all__ = ["LARGEST_MARGIN", "Margins", "check_clusters", "check_margins"]

LARGEST_MARGIN = 2.0**15
"""The fixed-point range: int32 in units of 2**-16."""

MOST_SCALE_BITS = 30


@dataclass(frozen=True, eq=False)
class Margins:
    """Fixed-point margins.

    Attributes:
        values: int32 (owners, pairs), in units of `2**-scale_bits`.
        scale_bits: the number of binary places, 0 to 30.

    Raises:
        UsageError: another type, another shape, or a scale out of range.
    """

    values: NDArray[np.int32]
    scale_bits: int

    def __post_init__(self) -> None:
        if np.asarray(self.values).dtype != np.int32:
            raise UsageError(
                "fixed-point margins as an int32 array",
                got=str(np.asarray(self.values).dtype),
                do="round half to even to int32 and refuse what is out of range",
            )
        _check_shape(self.values.shape)
        if not 0 <= self.scale_bits <= MOST_SCALE_BITS:
            raise UsageError(
                f"scale_bits between 0 and {MOST_SCALE_BITS}",
                got=str(self.scale_bits),
                do="use the scale of the manifest",
            )

    def reals(self) -> NDArray[np.float64]:
        """The margins as float64 (owners, pairs); exact."""
        return np.ldexp(self.values.astype(np.float64), -self.scale_bits)


def check_margins(margins: "NDArray[np.float64] | Margins") -> NDArray[np.float64]:
    """The margins as a C-contiguous float64 array (owners, pairs).

    Raises:
        UsageError: not a matrix, no owner, no pair, not finite, or beyond the fixed-point range.
    """
    if isinstance(margins, Margins):
        array = margins.reals()
    else:
        array = np.asarray(margins)
        if array.dtype.kind not in "fiu":
            raise UsageError(
                "margins as real numbers", got=f"dtype {array.dtype}", do="pass float64 or Margins"
            )
        array = np.ascontiguousarray(array, dtype=np.float64)
        _check_shape(array.shape)
    bad = ~np.isfinite(array)
    if bad.any():
        owner, pair = np.argwhere(bad)[0]
        raise UsageError(
            "finite margins",
            got=f"{array[owner, pair]} for owner {owner}, pair {pair}",
            do="refuse that adapter or drop the pair before valuing",
        )
    largest = float(np.abs(array).max())
    if largest > LARGEST_MARGIN:
        raise UsageError(
            f"margins within ±{LARGEST_MARGIN:g}, the fixed-point range",
            got=f"{largest:g}",
            do="check the adapter's norm; a margin of that size is no preference",
        )
    return array


def check_clusters(clusters: NDArray[np.int64] | None, pairs: int) -> NDArray[np.int64]:
    """Cluster labels 0, 1, ... of the pairs, in order of first label value; every pair its own by default.

    Args:
        clusters: integers (pairs,): pairs with one label came from one prompt.
        pairs: M.

    Raises:
        UsageError: another length, or labels that are not integers.
    """
    if clusters is None:
        return np.arange(pairs, dtype=np.int64)
    labels = np.asarray(clusters)
    if labels.shape != (pairs,) or labels.dtype.kind not in "iu":
        raise UsageError(
            f"one integer cluster label for each of {pairs} pairs",
            got=f"shape {labels.shape}, dtype {labels.dtype}",
            do="number the prompts and give each pair the number of its prompt",
        )
    _, dense = np.unique(labels, return_inverse=True)
    return dense.astype(np.int64)


def _check_shape(shape: tuple[int, ...]) -> None:
    if len(shape) != 2 or 0 in shape:
        raise UsageError(
            "margins of shape (owners, pairs) with at least one of each",
            got=f"shape {shape}",
            do="one row for each owner, one column for each held-out pair",
        )
