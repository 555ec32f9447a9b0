"""A quote: what pairs would be worth to a round, with intervals, from a quote model and their text.

    value_i      = w . phi_i                                         w from the whole sample
    interval_i   = value_i -+ the (1 + 1/n) level quantile of the residuals on unseen prompts
    interval of the mean = mean -+ z sqrt( (K - 1)/K sum_k (mean_k - mean)^2 + s^2 / m )

with K students that each left one fold out, m pairs of different prompts and s the root mean square residual.
Values count nats of loss on the objective for a unit step; what they mean is told against the sample: a rank,
and how many average pairs of the sample they come to. A pair unlike all of the sample gets a value near zero
and an interval that is too narrow: `known` says what part of a pair's n-grams the sample had.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from patronage_protocol.errors import UsageError
from patronage_protocol.preferences import PreferencePair
from patronage_protocol.quotes.features import pair_features
from patronage_protocol.quotes.model import QuoteModel
from patronage_protocol.quotes.student import FOLDS

__all__ = ["Quote", "quote"]


@dataclass(frozen=True, eq=False)
class Quote:
    """Values of m pairs.

    Attributes:
        values: shape (m,).
        margin: half the width of each pair's interval.
        ranks: shape (m,), the share of the sample's pairs that are worth less.
        known: shape (m,), the part of a pair's vector, by norm, at entries that the sample used.
        mean, lower, upper: of the mean value, with its interval.
        average: the mean value of the sample's pairs.
        level: of both intervals.
    """

    values: NDArray[np.float64]
    margin: float
    ranks: NDArray[np.float64]
    known: NDArray[np.float64]
    mean: float
    lower: float
    upper: float
    average: float
    level: float

    @property
    def worth(self) -> tuple[float, float, float] | None:
        """How many average pairs of the sample all pairs come to, with the interval; None if those harm."""
        if not self.average > 0.0:
            return None
        count = len(self.values)
        estimate, low, high = (count * x / self.average for x in (self.mean, self.lower, self.upper))
        return estimate, low, high


def quote(model: QuoteModel, pairs: Sequence[PreferencePair], *, level: float = 0.9) -> Quote:
    """Value `pairs` with a quote model.

    Raises:
        UsageError: no pairs, or a level that the sample is too small for.
    """
    _check(model, pairs, level)
    features = pair_features(pairs).astype(np.float64)
    weights = model.matrix
    predicted = features @ weights.T
    values, by_fold = predicted[:, 0], predicted[:, 1:].mean(axis=0)
    residuals = np.array(model.accuracy.residuals)
    rank = int(np.ceil(level * (len(residuals) + 1)))
    mean = float(values.mean())
    jackknife = (FOLDS - 1) / FOLDS * float(((by_fold - mean) ** 2).sum())
    prompts = len({pair.prompt_digest for pair in pairs})
    error = float(np.sqrt(jackknife + float((residuals**2).mean()) / prompts))
    reach = NormalDist().inv_cdf((1.0 + level) / 2.0) * error
    used = (weights[0] != 0.0).astype(np.float64)
    norms = np.linalg.norm(features, axis=1)
    return Quote(
        values=values,
        margin=float(residuals[rank - 1]),
        ranks=np.searchsorted(np.array(model.scores), values) / len(model.scores),
        known=np.linalg.norm(features * used, axis=1) / np.where(norms > 0.0, norms, 1.0),
        mean=mean,
        lower=mean - reach,
        upper=mean + reach,
        average=float(np.mean(model.scores)),
        level=level,
    )


def _check(model: QuoteModel, pairs: Sequence[PreferencePair], level: float) -> None:
    if not pairs:
        raise UsageError("at least one pair to quote", got="none", do="check the file")
    highest = model.pairs / (model.pairs + 1)
    if not 0.0 < level <= highest:
        raise UsageError(
            f"a level above 0 and at most {highest:.3f}, which a sample of {model.pairs} pairs can support",
            got=str(level),
            do="name another with --level",
        )
