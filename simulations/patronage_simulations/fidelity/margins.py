"""What a study measures before any statistics: margins of all coalitions, by seed and by how they arose."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["Order", "SeedMargins", "StudyMargins"]

Array = NDArray[np.float64]
Order = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class SeedMargins:
    """One seed of training. Every array has shape (2^n, M), coalitions in bitmask order, zeros first.

    Attributes:
        union: each coalition trained on the union of its pairs.
        composed: arithmetic on the adapters of single owners, by the name of its rule.
        sequences: each coalition trained one owner after another, by the order of the owners.
    """

    union: Array
    composed: Mapping[str, Array] = field(default_factory=dict)
    sequences: Mapping[Order, Array] = field(default_factory=dict)

    @property
    def solo(self) -> Array:
        """Single owners (n, M)."""
        owners = len(self.union).bit_length() - 1
        return self.union[[1 << i for i in range(owners)]]


@dataclass(frozen=True, eq=False)
class StudyMargins:
    """Everything measured.

    Attributes:
        owners: names, in the order of the bits.
        sizes: pairs of each owner.
        clusters: for each held-out pair the number of its prompt.
        scale_bits: margins are published in units of 2**-scale_bits.
        budget: in minor units.
        seeds: by seed of training.
        longer: the first seed trained for more epochs, by their number.
    """

    owners: tuple[str, ...]
    sizes: tuple[int, ...]
    clusters: NDArray[np.int64]
    scale_bits: int
    budget: int
    seeds: Mapping[int, SeedMargins]
    longer: Mapping[int, SeedMargins] = field(default_factory=dict)
