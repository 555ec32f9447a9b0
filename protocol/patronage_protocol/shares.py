"""From published margins to published shares: the one computation that operator and verifier both run.

Shares and bounds are computed in double precision and published as integers in units of 2**-40. Two
machines may differ in the last bits of an exponential, so a verifier allows `TOLERANCE` units; whatever
follows is exact.
"""

from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from patronage_protocol.canonical import BigInt, Canonical, Digest, Name
from patronage_protocol.errors import VerificationError
from patronage_protocol.evidence import MarginEvidence
from patronage_protocol.fixed_point import to_fixed
from patronage_protocol.manifest import Manifest
from patronage_protocol.valuation import IntervalSpec, value
from patronage_protocol.valuation.engine import MethodChoice

__all__ = ["TOLERANCE", "Shares", "check_shares", "compute_shares"]

TOLERANCE = 64
"""Units of 2**-40 by which a recomputed number may differ: 6e-11, far below any interval."""


class Shares(Canonical):
    """The outcome of valuation. All numbers are in units of 2**-40 of the utility.

    Args:
        margins: digest of the evidence.
        players: the n players, in the order of the evidence.
        method: how the shares were computed, as the valuation engine names it.
        shares: Shapley shares phi_i, n integers.
        lower: lower interval bounds at the manifest's level.
        upper: upper interval bounds.
        detectable: for each player the true share that this round could have told from zero.
        grand: v(N), the utility of all players together.
        gap: |sum of shares - v(N)|, the certificate of the computation.
    """

    schema_version: Literal[1] = 1
    margins: Digest
    players: Annotated[tuple[Name, ...], Field(min_length=1)]
    method: Literal["enumeration", "polynomial"]
    shares: tuple[BigInt, ...]
    lower: tuple[BigInt, ...]
    upper: tuple[BigInt, ...]
    detectable: tuple[BigInt, ...]
    grand: BigInt
    gap: BigInt

    @property
    def smallest_detectable(self) -> int:
        """The smallest share that the round could have told from zero."""
        return min(self.detectable)


def compute_shares(evidence: MarginEvidence, manifest: Manifest, *, method: MethodChoice = "auto") -> Shares:
    """Value the players' margins by the manifest's game.

    Args:
        evidence: the published margins.
        manifest: whose game and interval terms apply.
        method: of the valuation engine; `auto` lets it choose by size.

    Raises:
        UsageError: that method cannot value this game.
        VerificationError: the computation does not meet its own certificate.
    """
    terms = manifest.interval
    result = value(
        evidence.margins,
        utility=manifest.game.utility,
        weights=manifest.game.composition,
        clusters=evidence.clusters,
        interval=IntervalSpec(level=terms.level, replicates=terms.replicates, seed=terms.seed),
        method=method,
    )
    certificate, intervals, power = result.certificate, result.intervals, result.power
    assert intervals is not None, "an interval was asked for"
    assert power is not None, "an interval was asked for"
    assert certificate.efficiency_gap is not None, "the Shapley value is efficient"
    return Shares(
        margins=evidence.digest,
        players=evidence.header.players,
        method=_named(certificate.method),
        shares=_units(result.shares),
        lower=_units(intervals.lower),
        upper=_units(intervals.upper),
        detectable=_units(power.detectable),
        grand=to_fixed(result.grand),
        gap=to_fixed(certificate.efficiency_gap),
    )


def check_shares(published: Shares, recomputed: Shares) -> int:
    """Compare published numbers with recomputed ones; returns the largest difference in units of 2**-40.

    Raises:
        VerificationError: a number differs by more than `TOLERANCE`, or there are more or fewer of them.
    """
    largest = 0
    for name in ("shares", "lower", "upper", "detectable"):
        ours, theirs = getattr(recomputed, name), getattr(published, name)
        if len(ours) != len(theirs):
            raise VerificationError(
                f"{len(ours)} numbers in {name}", got=str(len(theirs)), do="do not trust it", where="value"
            )
        for player, our, their in zip(recomputed.players, ours, theirs, strict=True):
            largest = max(largest, _difference(f"{name} of {player}", our, their))
    for name in ("grand", "gap"):
        largest = max(largest, _difference(name, getattr(recomputed, name), getattr(published, name)))
    return largest


def _difference(what: str, ours: int, theirs: int) -> int:
    difference = abs(ours - theirs)
    if difference > TOLERANCE:
        raise VerificationError(
            f"{what} of {ours} units of 2**-40, as the margins give",
            got=str(theirs),
            do="do not trust this ledger; the published shares do not follow from its margins",
            where="value",
        )
    return difference


def _named(method: str) -> Literal["enumeration", "polynomial"]:
    """Shapley shares of additive margins are never valued in another way."""
    if method == "enumeration":
        return "enumeration"
    assert method == "polynomial", method
    return "polynomial"


def _units(values: NDArray[np.float64]) -> tuple[int, ...]:
    return tuple(to_fixed(float(number)) for number in values)
