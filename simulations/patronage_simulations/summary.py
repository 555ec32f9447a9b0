"""What a run came to, for people and for scripts. Reads the published ledger, like anybody else could."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from patronage_protocol.fixed_point import to_float
from patronage_protocol.payout import Payment
from patronage_protocol.rounds import Round

__all__ = ["Line", "lines_of", "money", "summary_of", "table_of"]


@dataclass(frozen=True)
class Line:
    """One owner's outcome; `share` and its bounds are in units of utility, None for who did not play."""

    owner: str
    standing: str
    share: float | None
    lower: float | None
    upper: float | None
    payment: Payment


def money(amount: int, *, currency: str, exponent: int) -> str:
    """Minor units as people write them: 12345 with exponent 2 is `123.45 EUR`."""
    return f"{Decimal(amount).scaleb(-exponent):,.{exponent}f} {currency}"


def lines_of(state: Round) -> tuple[Line, ...]:
    """Every owner's outcome, sorted by name; empty before the round is settled."""
    if state.settlement is None:
        return ()
    shares = state.shares
    place = {player: i for i, player in enumerate(shares.players)} if shares else {}

    def number(values: tuple[int, ...], owner: str) -> float | None:
        return to_float(values[place[owner]]) if owner in place else None

    return tuple(
        Line(
            owner=payment.owner,
            standing=state.standing[payment.owner].value,
            share=number(shares.shares if shares else (), payment.owner),
            lower=number(shares.lower if shares else (), payment.owner),
            upper=number(shares.upper if shares else (), payment.owner),
            payment=payment,
        )
        for payment in state.settlement.payments
    )


def table_of(state: Round) -> str:
    """The outcome as a table of plain text."""
    terms = state.manifest.payout
    rows = [("owner", "standing", "share", f"{state.manifest.interval.level:.0%} interval", "payout", "why")]
    for line in lines_of(state):
        shown = "" if line.share is None else f"{line.share:+.4f}"
        interval = "" if line.lower is None else f"[{line.lower:+.4f}, {line.upper:+.4f}]"
        amount = money(line.payment.amount, currency=terms.currency, exponent=terms.exponent)
        rows.append((line.owner, line.standing, shown, interval, amount, line.payment.reason))
    if state.settlement is not None and state.settlement.refund:
        amount = money(state.settlement.refund, currency=terms.currency, exponent=terms.exponent)
        rows.append(("refund", "", "", "", amount, state.settlement.refund_reason))
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    aligned = (
        "  ".join(
            cell.rjust(width) if k in (2, 3, 4) else cell.ljust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
    return "\n".join(aligned)


def summary_of(state: Round) -> dict[str, Any]:
    """The outcome for scripts: money as strings of minor units."""
    terms, settlement = state.manifest.payout, state.settlement
    return {
        "consortium": state.manifest.consortium,
        "round": state.manifest.round,
        "phase": state.phase.value,
        "manifest": state.manifest.digest,
        "currency": terms.currency,
        "exponent": terms.exponent,
        "budget": str(terms.budget),
        "grand": None if state.shares is None else to_float(state.shares.grand),
        "smallest_detectable": None if state.shares is None else to_float(state.shares.smallest_detectable),
        "refund": None if settlement is None else str(settlement.refund),
        "refund_reason": None if settlement is None else settlement.refund_reason,
        "owners": [
            {
                "owner": line.owner,
                "standing": line.standing,
                "share": line.share,
                "lower": line.lower,
                "upper": line.upper,
                "payout": str(line.payment.amount),
                "reason": line.payment.reason,
            }
            for line in lines_of(state)
        ],
    }
