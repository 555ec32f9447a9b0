"""From published shares to minor units, in integers only.

Leftover units go by largest remainder (Hamilton's method), ties by SHA-256(round seed || owner). Hamilton
keeps quota and is not monotone in the budget: with a larger budget an owner can lose a unit. Shares are
never shifted by their minimum, which would pay owners that brought nothing.
"""

import hashlib
from collections.abc import Mapping
from typing import Literal

from patronage_protocol.canonical import BigInt, Canonical, Name
from patronage_protocol.errors import UsageError
from patronage_protocol.fixed_point import SHARE_BITS
from patronage_protocol.manifest import PayoutTerms
from patronage_protocol.shares import Shares

__all__ = ["Payment", "Reason", "RefundReason", "Settlement", "largest_remainder", "settle"]

Reason = Literal[
    "share",  # paid in proportion to its share
    "not-above-zero",  # gated: the interval's lower bound is not above zero
    "negative",  # its share is not positive
    "declined",
    "forfeited",
    "rejected",
    "refunded",  # the whole budget was refunded
]
RefundReason = Literal[
    "none", "aborted", "degenerate", "no-gain", "underpowered", "nobody-qualified", "unspent"
]


class Payment(Canonical):
    """What one owner is paid, in minor units, and why. Negative only under the policy `signed`."""

    owner: Name
    amount: BigInt
    reason: Reason


class Settlement(Canonical):
    """Payments to every owner, sorted by name, and the refund; together exactly the budget."""

    payments: tuple[Payment, ...]
    refund: BigInt
    refund_reason: RefundReason


def settle(
    terms: PayoutTerms, shares: Shares | None, *, seed: str, excluded: Mapping[str, Reason]
) -> Settlement:
    """Apply the manifest's policy.

    Args:
        terms: the payout terms of the manifest.
        shares: the published shares; None if the round was aborted.
        seed: the manifest's round seed, hexadecimal.
        excluded: owners that are not players, and why.
    """
    amounts, refund_reason = _amounts(terms, shares, seed)
    reasons: dict[str, Reason] = {**excluded, **(_reasons(terms, shares, bool(amounts)) if shares else {})}
    payments = [
        Payment(owner=owner, amount=amounts.get(owner, 0), reason=reason) for owner, reason in reasons.items()
    ]
    refund = terms.budget - sum(amounts.values())
    return Settlement(
        payments=tuple(sorted(payments, key=lambda payment: payment.owner)),
        refund=refund,
        refund_reason=refund_reason if refund else "none",
    )


def largest_remainder(budget: int, weights: Mapping[str, int], *, seed: str) -> dict[str, int]:
    """Split `budget` in proportion to `weights`, whose sum must be positive; the parts add up to `budget`.

    A negative weight gets a negative part.

    Raises:
        UsageError: the weights do not have a positive sum.
    """
    total = sum(weights.values())
    if total <= 0:
        raise UsageError("weights with a positive sum", got=str(total), do="refund the budget instead")
    parts = {owner: budget * weight // total for owner, weight in weights.items()}
    leftover = budget - sum(parts.values())
    order = sorted(weights, key=lambda owner: (-(budget * weights[owner] % total), _tie(seed, owner)))
    for owner in order[:leftover]:
        parts[owner] += 1
    return parts


def _amounts(terms: PayoutTerms, shares: Shares | None, seed: str) -> tuple[dict[str, int], RefundReason]:
    """Amount a player and the reason of whatever is left; no amounts if the whole budget is refunded."""
    if shares is None:
        return {}, "aborted"
    if shares.pool is not None and shares.pool.degenerate:
        return {}, "degenerate"
    if shares.grand <= 0:
        return {}, "no-gain"
    if _underpowered(terms, shares):
        return {}, "underpowered"
    weights = _weights(terms, shares)
    if sum(weights.values()) <= 0:
        return {}, "nobody-qualified"
    return _split(terms, weights, seed), "unspent"


def _weights(terms: PayoutTerms, shares: Shares) -> dict[str, int]:
    """What each player's part is proportional to, under the manifest's policy."""
    weights = dict(zip(shares.players, shares.shares, strict=True))
    if terms.policy == "signed":
        return weights
    bounds = dict(zip(shares.players, shares.lower, strict=True))
    earns = bounds if terms.policy == "gated" else weights
    return {player: max(weight, 0) if earns[player] > 0 else 0 for player, weight in weights.items()}


def _split(terms: PayoutTerms, weights: Mapping[str, int], seed: str) -> dict[str, int]:
    if terms.policy == "signed":
        return _bonded(terms, weights, seed)
    if terms.policy == "per_unit":
        priced = {player: terms.unit_price * weight >> SHARE_BITS for player, weight in weights.items()}
        if sum(priced.values()) <= terms.budget:
            return priced
    return largest_remainder(terms.budget, weights, seed=seed)


def _reasons(terms: PayoutTerms, shares: Shares, paid_out: bool) -> dict[str, Reason]:
    reasons: dict[str, Reason] = {}
    for player, share, lower in zip(shares.players, shares.shares, shares.lower, strict=True):
        if not paid_out:
            reasons[player] = "refunded"
        elif terms.policy == "gated" and lower <= 0:
            reasons[player] = "not-above-zero"
        elif terms.policy != "signed" and share <= 0:
            reasons[player] = "negative"
        else:
            reasons[player] = "share"
    return reasons


def _underpowered(terms: PayoutTerms, shares: Shares) -> bool:
    players = len(shares.players)
    return 100 * players * shares.smallest_detectable > terms.max_detectable_percent * shares.grand


def _bonded(terms: PayoutTerms, weights: Mapping[str, int], seed: str) -> dict[str, int]:
    """Signed split in which nobody pays in more than its bond.

    Whoever would owe more owes its bond; what that leaves is split among the others, until nobody is beyond.
    """
    fixed: dict[str, int] = {}
    while True:
        free = {player: weight for player, weight in weights.items() if player not in fixed}
        parts = largest_remainder(terms.budget - sum(fixed.values()), free, seed=seed)
        beyond = [player for player, part in parts.items() if part < -terms.bond]
        if not beyond:
            return fixed | parts
        fixed |= dict.fromkeys(beyond, -terms.bond)


def _tie(seed: str, owner: str) -> bytes:
    return hashlib.sha256(bytes.fromhex(seed) + owner.encode()).digest()
