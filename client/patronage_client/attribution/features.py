"""What several methods value pairs by: the differences h(x, y+) - h(x, y-) of representations."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patronage_client.attribution.problem import Problem
from patronage_protocol.policy import tokenize_pairs
from patronage_protocol.policy.representations import completion_representations

__all__ = ["Differences", "differences"]


@dataclass(frozen=True)
class Differences:
    """h(x, y+) - h(x, y-) of n pairs to value, (n, d), and of m validation pairs, (m, d)."""

    pairs: NDArray[np.float64]
    validation: NDArray[np.float64]


def differences(problem: Problem) -> Differences:
    """Run the base model once over all pairs of a problem.

    Raises:
        DataError: a pair that does not fit the length.
        UnavailableError: not enough memory on the device.
    """
    tokens = tokenize_pairs(
        problem.base, (*problem.pairs, *problem.validation), max_length=problem.dpo.max_length
    )
    states = completion_representations(problem.base.model, tokens, progress=problem.progress)
    both = states[:, 0] - states[:, 1]
    return Differences(both[: len(problem.pairs)], both[len(problem.pairs) :])
