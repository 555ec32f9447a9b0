"""Arithmetic on LoRA factors: task vectors in the parameters that are trained.

All owners of a round start from one adapter (A_0, B_0 = 0), so what each has learnt is a displacement of both
factors, and displacements can be added before they are multiplied:

    A_S = A_0 + sum over S of (A_i - A_0),   B_S = sum over S of B_i,   dW_S = (alpha / r) B_S A_S

To the sum of the dW_i this adds the products B_i (A_k - A_0) across owners. Training on the union has them
too: there every owner's step is taken with the A that all have moved. This is task arithmetic (Ilharco et al.
2023, arXiv 2212.04089) on the factors instead of their product; it needs a common start, and fails for
adapters whose factors were rotated.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from patronage_protocol.adapters import Tensors

__all__ = ["added"]


def added(start: Tensors, adapters: Sequence[Tensors]) -> dict[str, NDArray[np.float32]]:
    """The adapter whose displacement from `start` is the sum of the displacements of `adapters`."""
    return {
        name: np.asarray(
            first + sum((adapter[name] - first for adapter in adapters), np.zeros_like(first)),
            dtype=np.float32,
        )
        for name, first in start.items()
    }
