"""The published shares computed again, by the method that was named and by a second one where one serves."""

from patronage_protocol.errors import UsageError, VerificationError
from patronage_protocol.evidence import CoalitionEvidence, Evidence, MarginEvidence, PoolEvidence
from patronage_protocol.fixed_point import to_float
from patronage_protocol.manifest import GameTerms, Manifest
from patronage_protocol.shares import Shares, check_shares, compute_shares
from patronage_protocol.valuation import value
from patronage_protocol.valuation.engine import MethodChoice
from patronage_protocol.valuation.scored import mean_shares

__all__ = ["check_values"]

MOST_FOR_SECOND = 16
"""Up to so many players a second method is no burden."""

SECOND_TOLERANCE = 1e-8


def check_values(published: Shares, evidence: Evidence, manifest: Manifest) -> str:
    """Recompute by the method that was named, and the shares alone by the other one where the size allows."""
    try:
        recomputed = compute_shares(evidence, manifest, method=published.method)
    except UsageError as error:  # too many players for the method, say
        raise VerificationError(
            error.expected,
            got=error.got,
            do="do not trust it; no shares follow by that method",
            where="value",
        ) from error
    difference = check_shares(published, recomputed)
    line = f"shares, intervals, power by {published.method} again, within {difference} units of 2**-40"
    if isinstance(evidence, MarginEvidence):
        line += _not_scored(evidence)
    other: MethodChoice = "polynomial" if published.method == "enumeration" else "enumeration"
    if len(published.players) > MOST_FOR_SECOND:
        return f"{line}; too many players for a second method"
    if manifest.game.utility == "win":
        return f"{line}; no second method for this utility"
    if isinstance(evidence, CoalitionEvidence):
        return f"{line}; no second method serves margins that do not add up"
    if isinstance(evidence, PoolEvidence):
        return f"{line}; {_pools_in_words(published)}"
    assert isinstance(manifest.game, GameTerms), "evidence was read by the terms"
    second = value(evidence.margins, utility=manifest.game.utility, method=other, interval=None)
    assert second.pair_shares is not None, "they are kept"
    theirs = mean_shares(second.pair_shares, evidence.scored)
    gaps = [abs(to_float(our) - float(their)) for our, their in zip(published.shares, theirs, strict=True)]
    if max(gaps) > SECOND_TOLERANCE:
        raise VerificationError(
            f"the same shares by {other}",
            got=f"a difference of {max(gaps):.1e}",
            do="do not trust it",
            where="value",
        )
    return f"{line}; by {other}, within {max(gaps):.0e}"


def _not_scored(evidence: MarginEvidence) -> str:
    """Who was not scored on what, in words."""
    total = len(evidence.header.clusters)
    own = [
        f"{player} on {number} of {total} pairs"
        for player, number in zip(evidence.header.players, evidence.scored.sum(axis=1), strict=True)
        if number < total
    ]
    return f"; nobody was scored on its own slice: {', '.join(own)}" if own else ""


def _pools_in_words(published: Shares) -> str:
    assert published.pool is not None, "the pools were recomputed"
    weakest = " + ".join(published.pool.weakest) or "nobody"
    return f"at least {to_float(published.pool.effective):.1f} effective candidates, fewest for {weakest}"
