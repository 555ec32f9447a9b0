"""The coefficients with which the adapters of a coalition enter: c_i(S), zero outside S.

sum     c_i = 1             sequential DPO at convergence; the rule of arXiv 2512.15765
mean    c_i = 1 / |S|       federated averaging of equals
size    c_i = m_i / m_S     m_i training pairs of owner i, m_S of the coalition (FedAvg, arXiv 1602.05629)
"""

from collections.abc import Callable
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from patronage_protocol.errors import UsageError
from patronage_server.composition.adapter_set import AdapterSet

__all__ = ["WEIGHTINGS", "WeightName", "Weighting", "check_coalitions", "weighting"]

Weighting: TypeAlias = Callable[[NDArray[np.bool_]], NDArray[np.float64]]
"""Coalitions (k, n) to coefficients (k, n). Anybody may write another one."""

WeightName: TypeAlias = Literal["sum", "mean", "size"]
WEIGHTINGS: tuple[WeightName, ...] = get_args(WeightName)


def weighting(name: str, adapters: AdapterSet) -> Weighting:
    """The weighting of that name for these owners.

    Raises:
        UsageError: no such weighting, or `size` and the sizes are not known.
    """
    if name == "sum":
        return lambda coalitions: coalitions.astype(np.float64)
    if name == "mean":
        return lambda coalitions: _shares(coalitions, np.ones(len(adapters)))
    if name != "size":
        raise UsageError(f"weights out of {', '.join(WEIGHTINGS)}", got=repr(name), do="choose one of them")
    if adapters.sizes is None:
        raise UsageError(
            "the number of training pairs of each owner, for weights by size",
            got="none",
            do="give the sizes with the adapters, or choose sum or mean",
        )
    masses = np.array([adapters.sizes[owner] for owner in adapters.owners], dtype=np.float64)
    return lambda coalitions: _shares(coalitions, masses)


def check_coalitions(coalitions: NDArray[np.bool_], owners: int) -> NDArray[np.bool_]:
    """Coalitions as a boolean matrix (k, n).

    Raises:
        UsageError: another shape or type.
    """
    matrix = np.asarray(coalitions)
    if matrix.ndim != 2 or matrix.shape[1] != owners or matrix.dtype != np.bool_:
        raise UsageError(
            f"coalitions as a boolean matrix with {owners} columns",
            got=f"{matrix.dtype} of shape {matrix.shape}",
            do="give one row for each coalition, one column for each owner",
        )
    return matrix


def _shares(coalitions: NDArray[np.bool_], masses: NDArray[np.float64]) -> NDArray[np.float64]:
    parts = coalitions * masses
    totals = parts.sum(axis=1, keepdims=True)
    return np.asarray(parts / np.where(totals > 0, totals, 1.0))
