"""Matrix products whose bytes do not depend on the threads of the BLAS library.

A product is cut into tiles that are too small for BLAS to split among threads, and the tiles are added in
order.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["TILE", "tiled_product"]

TILE = 1 << 18
"""Multiplications in a tile; OpenBLAS does not split a product of so few."""
ROWS, INNER, COLUMNS = 64, 128, 32


def tiled_product(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """left (r, k) times right (k, c), with one fixed order of additions."""
    result = np.zeros((left.shape[0], right.shape[1]))
    for column in range(0, right.shape[1], COLUMNS):
        for inner in range(0, left.shape[1], INNER):
            tile = np.ascontiguousarray(right[inner : inner + INNER, column : column + COLUMNS])
            for row in range(0, len(left), ROWS):
                part = left[row : row + ROWS, inner : inner + INNER] @ tile
                result[row : row + ROWS, column : column + COLUMNS] += part
    return result
