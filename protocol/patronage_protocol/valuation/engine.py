"""The entry point of valuation: checks what it is given, picks a method, computes, and certifies the result.

| method        | games                                                 | owners       |
|---------------|-------------------------------------------------------|--------------|
| `enumeration` | all                                                   | up to 22     |
| `polynomial`  | weights `sum`; `win` where the lattice is small       | thousands    |
| `closed_form` | the semivalue leave-one-out                           | any          |
| `sampling`    | all                                                   | thousands    |
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from patronage_protocol.errors import UsageError, VerificationError
from patronage_protocol.valuation._threads import check_threads
from patronage_protocol.valuation.aumann_shapley import aumann_shapley
from patronage_protocol.valuation.composition import Composition, Weights, check_composition
from patronage_protocol.valuation.enumeration import MOST_OWNERS, enumerate_coalitions
from patronage_protocol.valuation.intervals import IntervalSpec, bootstrap, power_of_round
from patronage_protocol.valuation.margins import Margins, check_clusters, check_margins
from patronage_protocol.valuation.polynomial import lattice_work, polynomial_shares
from patronage_protocol.valuation.results import Certificate, Method, Saturation, ValuationResult
from patronage_protocol.valuation.sampling import SamplingSpec, sample_shares
from patronage_protocol.valuation.semivalues import Semivalue, check_semivalue
from patronage_protocol.valuation.utilities import Utility, check_utility, utility_of

__all__ = ["MethodChoice", "value"]

MethodChoice = Literal["auto", "enumeration", "polynomial", "sampling"]

FEW_OWNERS = 12
"""Up to here `auto` enumerates, for the sake of the coalition values."""
ENUMERATION_TOLERANCE = 1e-12
SAMPLING_GAP = 1e-8
"""Permutations telescope: what is left is the error of the control variate."""
MOST_LATTICE_WORK = 4e9
"""Factors of products on a lattice that `auto` is willing to multiply: about a minute."""


def value(
    margins: NDArray[np.float64] | Margins,
    *,
    utility: Utility = "sigmoid",
    weights: Weights = "sum",
    sizes: NDArray[np.int64] | None = None,
    semivalue: str | Semivalue = "shapley",
    clusters: NDArray[np.int64] | None = None,
    tolerance: float = 1e-9,
    method: MethodChoice = "auto",
    sampling: SamplingSpec = SamplingSpec(),  # noqa: B008 - frozen
    interval: IntervalSpec | None = IntervalSpec(),  # noqa: B008 - frozen
    keep_pair_shares: bool = True,
    threads: int | None = None,
) -> ValuationResult:
    """What every owner's adapter was worth to the consortium.

    Args:
        margins: (n, M), one row for each owner; `win` takes fixed-point `Margins` only:
            floats flip at 0.
        utility: of one pair, see `utilities`.
        weights: how adapters compose, see `composition`.
        sizes: (n,) numbers of training pairs, with weights="size".
        semivalue: a name or `Semivalue.beta(a, b)`.
        clusters: (M,) the prompt of each pair; every pair its own by default.
        tolerance: the largest error allowed in any share.
        method: `auto` picks one and says why in the certificate.
        sampling: how long `sampling` samples; the other methods have no use for it.
        interval: how intervals and power are made; None for neither, which also saves time.
        keep_pair_shares: whether the result holds the (n, M) pair shares.
        threads: how many threads may work; every core by default. The result does not depend on it.

    Raises:
        UsageError: the arguments do not describe a game that can be valued to that
            tolerance. Nothing was computed.
        VerificationError: the shares do not add up: the certificate failed. Nothing is returned.
    """
    game = _Game(
        check_margins(margins),
        _fixed_point(margins, utility),
        check_utility(utility),
        check_semivalue(semivalue),
        _check_tolerance(tolerance),
        sampling,
        keep_pair_shares or interval is not None,
        check_threads(threads),
    )
    composition = check_composition(game.margins, weights, sizes)
    labels = check_clusters(clusters, game.pairs)
    if interval is not None and labels.max() == 0:
        raise UsageError(
            "at least two clusters of held-out pairs for an interval",
            got="1",
            do="hold out more prompts, or pass interval=None",
        )
    chosen, reason = _choose(game, composition, method)
    found = _METHODS[chosen](game, composition)
    certificate = _certify(game, composition, found, chosen, reason)
    by_pair = found.pair_shares
    return ValuationResult(
        shares=_frozen(found.shares),
        pair_shares=_frozen(by_pair) if keep_pair_shares and by_pair is not None else None,
        grand=float(np.mean(_grand(game, composition))),
        coalition_values=None if found.coalition_values is None else _frozen(found.coalition_values),
        intervals=None if interval is None or by_pair is None else bootstrap(by_pair, labels, interval),
        power=None if interval is None or by_pair is None else power_of_round(by_pair, labels, interval),
        saturation=_saturation(game, composition, found, labels, interval),
        certificate=certificate,
        utility=game.utility,
        weights=composition.weights,
        semivalue=str(game.semivalue),
    )


@dataclass(frozen=True, eq=False)
class _Game:
    """Checked arguments."""

    margins: NDArray[np.float64]
    fixed_point: NDArray[np.int32] | None
    utility: Utility
    semivalue: Semivalue
    tolerance: float
    sampling: SamplingSpec
    pairwise: bool
    threads: int

    @property
    def owners(self) -> int:
        return len(self.margins)

    @property
    def pairs(self) -> int:
        return int(self.margins.shape[1])


@dataclass(frozen=True, eq=False)
class _Found:
    """Shares by one method, before they are certified."""

    shares: NDArray[np.float64]
    pair_shares: NDArray[np.float64] | None
    coalition_values: NDArray[np.float64] | None
    error_bound: float
    nodes: dict[str, int]


def _choose(game: _Game, composition: Composition, method: str) -> tuple[Method, str]:
    """The method, and why; what was asked for if it can be done.

    Raises:
        UsageError: it cannot.
    """
    if method == "auto":
        return _pick(game, composition)
    if method not in get_args(MethodChoice):
        raise UsageError(
            f"a method out of {', '.join(get_args(MethodChoice))}", got=repr(method), do="choose one of them"
        )
    if method == "enumeration":
        if game.owners > MOST_OWNERS:
            raise UsageError(
                f"at most {MOST_OWNERS} owners for enumeration", got=f"{game.owners}", do="use method='auto'"
            )
        return "enumeration", "asked for"
    if game.semivalue.kind == "leave_one_out":
        raise UsageError(
            "method auto or enumeration for the semivalue leave_one_out",
            got=repr(method),
            do="use method='auto'",
        )
    if method == "sampling":
        return "sampling", "asked for"
    if not composition.additive:
        raise UsageError(
            "weights='sum' for the polynomial method",
            got=f"weights={composition.weights!r}",
            do="use method='auto'",
        )
    return "polynomial", "asked for"


def _pick(game: _Game, composition: Composition) -> tuple[Method, str]:
    n = game.owners
    if game.semivalue.kind == "leave_one_out":
        return "closed_form", "leave-one-out is a difference of two values"
    if n <= FEW_OWNERS:
        return "enumeration", f"{n} owners have only {1 << n} coalitions"
    if composition.additive and game.utility != "win":
        return "polynomial", f"margins add up, and {n} owners are too many to enumerate quickly"
    if n <= MOST_OWNERS:
        return "enumeration", f"no smooth function of a sum, but {1 << n} coalitions can be enumerated"
    if composition.additive and game.fixed_point is not None:
        work = lattice_work(_lattice_margins(game.fixed_point))
        if work <= MOST_LATTICE_WORK:
            return "polynomial", f"margins lie on a lattice that takes {work:.1e} factors"
    return "sampling", f"no exact method serves {n} owners with this utility and composition"


def _enumeration(game: _Game, composition: Composition) -> _Found:
    found = enumerate_coalitions(
        composition, game.utility, game.semivalue, pair_shares=game.pairwise, threads=game.threads
    )
    scale = 1.0 + float(np.abs(found.values).max())
    bound = ENUMERATION_TOLERANCE * scale
    return _Found(found.shares, found.pair_shares, found.values, bound, {"coalitions": len(found.values)})


def _polynomial(game: _Game, composition: Composition) -> _Found:
    margins = composition.rows if game.fixed_point is None else _lattice_margins(game.fixed_point)
    found = polynomial_shares(
        margins, game.utility, game.semivalue, tolerance=game.tolerance, threads=game.threads
    )
    nodes = {
        "frequencies": found.frequencies,
        "inclusions": found.inclusions,
        "interpolation": found.interpolation,
        "direct owners": found.direct,
    }
    return _Found(found.pair_shares.mean(axis=1), found.pair_shares, None, found.error_bound, nodes)


def _closed_form(game: _Game, composition: Composition) -> _Found:
    x = composition.rows.sum(axis=0) - composition.rows
    if composition.mass is not None:
        mass = composition.mass.sum() - composition.mass
        x = x / np.where(mass > 0, mass, 1.0)[:, None]
    by_pair = _grand(game, composition) - utility_of(x, game.utility)
    return _Found(by_pair.mean(axis=1), by_pair, None, ENUMERATION_TOLERANCE, {"coalitions": game.owners + 1})


def _sampling(game: _Game, composition: Composition) -> _Found:
    found = sample_shares(composition, game.utility, game.semivalue, game.sampling, game.threads)
    error = float(found.standard_errors.max())
    nodes = {"permutations": 2 * found.permutations}
    return _Found(found.pair_shares.mean(axis=1), found.pair_shares, None, error, nodes)


_METHODS = {
    "enumeration": _enumeration,
    "polynomial": _polynomial,
    "closed_form": _closed_form,
    "sampling": _sampling,
}


def _grand(game: _Game, composition: Composition) -> NDArray[np.float64]:
    """f(x_N) on every pair (M,)."""
    everybody = np.ones((1, game.owners), dtype=np.bool_)
    return np.asarray(utility_of(composition.margins(everybody), game.utility)[0])


def _certify(
    game: _Game, composition: Composition, found: _Found, method: Method, reason: str
) -> Certificate:
    """The certificate of shares that hold what it says.

    Raises:
        VerificationError: a share is not finite, or the shares do not add up to v(N).
    """
    if not np.isfinite(found.shares).all():
        raise VerificationError(
            "finite shares", got="others", do="report this: the method failed", where="valuation"
        )
    exact = method in ("enumeration", "closed_form")
    scale = 1.0 + float(np.abs(_grand(game, composition)).max())
    tolerance = ENUMERATION_TOLERANCE * game.owners * scale if exact else game.tolerance
    if method == "sampling":
        tolerance = SAMPLING_GAP
    gap: float | None = None
    if game.semivalue.efficient:
        grand = _grand(game, composition)
        if found.pair_shares is None:
            gap = float(abs(found.shares.sum() - grand.mean()))
        else:
            gap = float(np.abs(found.pair_shares.sum(axis=0) - grand).max())
        if not gap <= tolerance:
            raise VerificationError(
                f"shares that add up to v(N) within {tolerance:.1e}",
                got=f"a gap of {gap:.1e}",
                do="report this: the method failed",
                where="valuation",
            )
    return Certificate(method, reason, found.error_bound, gap, tolerance, found.nodes)


def _lattice_margins(values: NDArray[np.int32]) -> NDArray[np.float64]:
    """Fixed-point margins in the coarsest unit that keeps them integers, as float64."""
    unit = int(np.gcd.reduce(np.abs(values.astype(np.int64)), axis=None))
    return values.astype(np.float64) / max(unit, 1)


def _saturation(
    game: _Game,
    composition: Composition,
    found: _Found,
    labels: NDArray[np.int64],
    interval: IntervalSpec | None,
) -> Saturation | None:
    if game.utility == "win" or not composition.additive or not game.semivalue.efficient:
        return None
    by_pair = aumann_shapley(game.margins, utility=game.utility)
    shares = by_pair.mean(axis=1)
    if interval is None or found.pair_shares is None:
        return Saturation(_frozen(shares), _frozen(shares - found.shares), None, None)
    gaps = bootstrap(by_pair - found.pair_shares, labels, interval)
    return Saturation(_frozen(shares), _frozen(shares - found.shares), gaps.lower, gaps.upper)


def _fixed_point(margins: NDArray[np.float64] | Margins, utility: str) -> NDArray[np.int32] | None:
    if utility != "win":
        return None
    if not isinstance(margins, Margins):
        raise UsageError(
            "fixed-point Margins for the utility 'win'",
            got="real numbers, which flip at a tie",
            do="pass Margins(values, scale_bits)",
        )
    return margins.values


def _check_tolerance(tolerance: float) -> float:
    if not 0 < tolerance < 1:
        raise UsageError("a tolerance between 0 and 1", got=repr(tolerance), do="1e-9 is the default")
    return float(tolerance)


def _frozen(array: NDArray[np.float64]) -> NDArray[np.float64]:
    array.setflags(write=False)
    return array
