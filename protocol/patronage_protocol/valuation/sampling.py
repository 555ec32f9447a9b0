"""Shares by sampling, for games on margins that no exact method serves: averages and `win` with many owners.

All prefixes of antithetic permutations (an order and its reverse; Mitchell et al. 2022), where a prefix is
a running sum. An owner that joins as number s + 1 of n is weighted by n C(n-1, s) gamma(s), which is 1 for
Shapley. A control variate whose shares are known exactly is subtracted from every term: the average of a
coalition's margins (`ratio`) where the composition divides, a smooth utility (`polynomial`) for `win`. Its
coefficient comes from draws of their own, so the estimate stays unbiased.

The standard error is that of the mean over antithetic pairs. Sampling stops when the largest one is small
enough.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patronage_protocol.errors import UsageError
from patronage_protocol.valuation._threads import in_order
from patronage_protocol.valuation.composition import Composition
from patronage_protocol.valuation.polynomial import polynomial_shares
from patronage_protocol.valuation.ratio import average_shares
from patronage_protocol.valuation.semivalues import Semivalue, position_weights
from patronage_protocol.valuation.streams import Stream
from patronage_protocol.valuation.utilities import Utility, utility_of

__all__ = ["Sampled", "SamplingSpec", "sample_shares"]

PERMUTATIONS_AT_ONCE = 8
PILOT = 64
CONTROL_TOLERANCE = 1e-9
LEAST_BATCHES = 4


@dataclass(frozen=True)
class SamplingSpec:
    """How long to sample.

    Attributes:
        permutations: antithetic pairs of permutations at most.
        standard_error: stop when no share has a larger one; None to use all permutations.
        seed: of the draws.

    Raises:
        UsageError: fewer than 32 permutations, or a standard error that is not positive.
    """

    permutations: int = 1024
    standard_error: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        wrong = self.standard_error is not None and not self.standard_error > 0
        if self.permutations < PERMUTATIONS_AT_ONCE * LEAST_BATCHES or wrong:
            raise UsageError(
                "at least 32 permutations and a positive standard error",
                got=repr(self),
                do="correct the sampling's terms",
            )


@dataclass(frozen=True, eq=False)
class Sampled:
    """Pair shares (n, M), standard errors of the shares (n,), and the antithetic pairs that were drawn."""

    pair_shares: NDArray[np.float64]
    standard_errors: NDArray[np.float64]
    permutations: int


def sample_shares(
    composition: Composition, utility: Utility, semivalue: Semivalue, spec: SamplingSpec, threads: int
) -> Sampled:
    """Estimated shares.

    Raises:
        UsageError: the requested standard error was not reached.
    """
    n, pairs = composition.rows.shape
    control = _control(composition, utility, semivalue, spec, threads)
    game = _Residual(composition, utility, control, position_weights(semivalue, n)[:, None])
    stream = Stream(spec.seed)
    orders = (
        stream.permutations(min(PERMUTATIONS_AT_ONCE, spec.permutations - start), n)
        for start in range(0, spec.permutations, PERMUTATIONS_AT_ONCE)
    )
    total, squares, sums, drawn = np.zeros((n, pairs)), np.zeros(n), np.zeros(n), 0
    errors = np.full(n, np.inf)
    for marginals, means in in_order(game.marginals, orders, threads):
        total += marginals
        sums += means.sum(axis=0)
        squares += (means**2).sum(axis=0)
        drawn += len(means)
        variance = np.maximum(squares - sums**2 / drawn, 0.0) / max(1, drawn - 1)
        errors = np.sqrt(variance / drawn)
        enough = drawn >= PERMUTATIONS_AT_ONCE * LEAST_BATCHES
        if enough and spec.standard_error is not None and errors.max() <= spec.standard_error:
            break
    if spec.standard_error is not None and errors.max() > spec.standard_error:
        raise UsageError(
            f"standard errors of at most {spec.standard_error:.2e}",
            got=f"{errors.max():.2e} after {drawn} antithetic pairs of permutations",
            do="allow more permutations or a larger error",
        )
    return Sampled(total / drawn + control.shares, errors, drawn)


@dataclass(frozen=True, eq=False)
class _Control:
    """A game that is near, with known pair shares (n, M): slope * x, or slope * sigma(x / width)."""

    slope: NDArray[np.float64]
    width: NDArray[np.float64] | None
    shares: NDArray[np.float64]

    def __call__(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.width is None:
            return np.asarray(self.slope * x)
        return np.asarray(self.slope * utility_of(x / self.width, "sigmoid"))


def _control(
    composition: Composition, utility: Utility, semivalue: Semivalue, spec: SamplingSpec, threads: int
) -> _Control:
    """The control variate, with the slope that fits the game best on a few prefixes drawn for that."""
    x = _prefixes(composition, Stream(spec.seed + 1).permutations(PILOT, len(composition.rows)))
    if composition.mass is None:
        spread = np.sqrt(np.mean(x**2, axis=0))
        width = np.where(spread > 0, spread, 1.0) / 4
        smooth = polynomial_shares(
            composition.rows / width, "sigmoid", semivalue, tolerance=CONTROL_TOLERANCE, threads=threads
        )
        shares, shape = smooth.pair_shares, utility_of(x / width, "sigmoid")
    else:
        width = None
        margins = composition.rows / composition.mass[:, None]
        shares, shape = average_shares(composition.mass, semivalue) @ margins, x
    norm = np.sum(shape**2, axis=0)
    slope = np.sum(shape * utility_of(x, utility), axis=0) / np.where(norm > 0, norm, 1.0)
    return _Control(slope, width, slope * shares)


class _Residual:
    """The game less its control, on the prefixes of permutations."""

    def __init__(
        self, composition: Composition, utility: Utility, control: _Control, position: NDArray[np.float64]
    ) -> None:
        self.composition, self.utility = composition, utility
        self.control, self.position = control, position

    def marginals(self, orders: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The sum over orders and their reverses of marginal contributions (n, M), and the means (k, n)."""
        n, pairs = self.composition.rows.shape
        total, means = np.zeros((n, pairs)), np.empty((len(orders), n))
        for k, order in enumerate(orders):
            both = np.zeros((n, pairs))
            for path in (order, order[::-1]):
                both[path] += 0.5 * self.position * self._steps(path)
            total += both
            means[k] = both.mean(axis=1)
        return total, means

    def _steps(self, order: NDArray[np.int64]) -> NDArray[np.float64]:
        x = _running(self.composition, order)
        residual = utility_of(x, self.utility) - self.control(x)
        residual[1:] -= residual[:-1].copy()
        return residual


def _running(composition: Composition, order: NDArray[np.int64]) -> NDArray[np.float64]:
    """The margins (n, M) of the prefixes of an order."""
    x = np.cumsum(composition.rows[order], axis=0)
    if composition.mass is not None:
        x /= np.cumsum(composition.mass[order])[:, None]
    return x


def _prefixes(composition: Composition, orders: NDArray[np.int64]) -> NDArray[np.float64]:
    """One prefix of each order, of every length in turn: (orders, M)."""
    n = len(composition.rows)
    return np.stack([_running(composition, order)[k % n] for k, order in enumerate(orders)])
