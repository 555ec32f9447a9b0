"""The sentences of the report: what came of the round, and why each owner gets what it gets.

Every reason code of the protocol has its sentence here. A sentence says no more than the ledger does.
"""

from dataclasses import dataclass
from typing import Literal

from patronage_protocol.fixed_point import to_float
from patronage_protocol.manifest import GameTerms
from patronage_protocol.payout import Payment
from patronage_protocol.rounds import Phase, Standing
from patronage_server.report.coalitions import Coalitions
from patronage_server.report.model import Report, Share
from patronage_server.report.numbers import THIN, count, grouped, money, part_of, percent

__all__ = [
    "GLOSSARY",
    "Outcome",
    "about_coalitions",
    "about_power",
    "about_saturation",
    "fate",
    "outcome",
    "policy_in_words",
    "utility_in_words",
]

UNFINISHED = {
    Phase.OPEN: "owners may still accept, decline and commit",
    Phase.CLOSED: "the list of commitments awaits the cosignatures of the witnesses",
    Phase.REVEALING: "owners that committed are opening their commitments",
    Phase.INTAKE: "adapters are being checked",
    Phase.SCORING: "the adapters are in, their evaluation is not",
    Phase.VALUING: "the evaluation is fixed, the shares are not",
    Phase.PAYING: "the settlement is fixed, not all of it is in the ledger",
    Phase.SETTLED: "all is settled, the closing entry is missing",
}

SO_FAR = {
    Standing.INVITED: "Invited; has not answered yet.",
    Standing.ACCEPTED: "Accepted the terms; has not committed to an adapter yet.",
    Standing.COMMITTED: "Committed to an adapter that it has not opened yet.",
    Standing.REVEALED: "Opened its commitment; intake has not judged the adapter yet.",
    Standing.ADMITTED: "Its adapter was admitted; it has no share yet.",
}

OUT = {
    Standing.DECLINED: "Declined the terms",
    Standing.FORFEITED: "Forfeited its place",
    Standing.REJECTED: "Its adapter was rejected at intake",
}

GLOSSARY = {
    "Adapter": "What an owner trains and shares: a low-rank change dW = (alpha / rank) B A of the base.",
    "Margin": (
        "beta times how much more an adapter raises the log-probability of the chosen completion than "
        "that of the rejected one, against the base model. Dimensionless; above zero is in favour of the "
        "chosen one."
    ),
    "Coalition": "Some of the owners. Its margin on a pair is the sum of its members' margins.",
    "Share": (
        "The Shapley value: what an owner adds to the utility, averaged over all orders in which owners "
        "could join. Where everybody is scored on all pairs, the shares of all players add up to the "
        "utility of everybody, v(N)."
    ),
}


@dataclass(frozen=True)
class Outcome:
    """The verdict on a round: a headline, what it rests on, and its mood."""

    title: str
    sentence: str
    mood: Literal["paid", "refunded", "open"]


def outcome(report: Report) -> Outcome:
    """What came of the round."""
    phase, settlement = report.state.phase, report.state.settlement
    still = "" if report.finished else f" The round is not finished: {UNFINISHED[phase]}."
    if settlement is None:
        return Outcome("Not finished", f"Nothing is decided: {UNFINISHED[phase]}.", "open")
    if report.manifest.payout.budget == 0:
        return Outcome("No budget to pay", f"The budget of the round is zero.{still}", "open")
    paid = [payment for payment in settlement.payments if payment.amount > 0]
    if settlement.refund_reason in ("none", "unspent"):
        title = f"Paid to {len(paid)} of {count(len(settlement.payments), 'owner')}"
        return Outcome(title, _paid_sentence(report) + still, "paid" if report.finished else "open")
    title, why = _refund(report)
    return Outcome(f"Refunded: {title}", f"{why} Nobody is paid.{still}", "refunded")


def about_power(report: Report) -> str | None:
    """What the round could tell from zero, against the manifest's limit; None without gain or shares."""
    if report.detectable is None or report.grand is None or report.grand <= 0:
        return None
    equal, limit = report.grand / len(report.shares), report.manifest.payout.max_detectable_percent
    return (
        f"smallest detectable share {report.scale.size(report.detectable)}, "
        f"{percent(report.detectable / equal, 0)} of an equal one; the terms allow {limit}{THIN}%"
    )


def fate(report: Report, owner: str) -> str:
    """Why an owner gets what it gets, or how far it has come."""
    standing = report.state.standing[owner]
    if standing in OUT:
        stated = report.stated_reasons.get(owner)
        return f"{OUT[standing]}: “{stated}”." if stated else f"{OUT[standing]}."
    payment = report.payments.get(owner)
    if payment is None:
        return SO_FAR[standing]
    share = next((share for share in report.shares if share.owner == owner), None)
    if share is None or payment.reason == "refunded":
        return f"Nothing is paid: the whole budget is refunded, {_refund(report)[0]}."
    return _payment_reason(report, payment, share)


def about_coalitions(coalitions: Coalitions, report: Report) -> tuple[str, ...]:
    """The best coalition, and whether leaving somebody out would improve the consortium."""
    scale, best = report.scale, coalitions.best()
    among = (
        f"Of all {count(len(coalitions.every), 'coalition')}"
        if coalitions.every
        else "Of the coalitions shown (each owner alone, all but one, everybody)"
    )
    name = coalitions.name(best)
    if len(best.members) == len(coalitions.owners):
        first = f"{among}, the best is everybody together, at {scale.level(best.utility)}."
    else:
        first = (
            f"{among}, the best is {name}, at {scale.level(best.utility)}; "
            f"everybody together stands at {scale.level(coalitions.grand)}."
        )
    worse = coalitions.better_without() if len(coalitions.owners) > 1 else ()
    if not worse:
        return first, "Leaving out any one owner would not improve the consortium on these pairs."
    return (first, *(_without(coalitions, owner, report) for owner in worse))


def about_saturation(report: Report) -> str:
    """What the gap between Aumann-Shapley and Shapley says about the round."""
    found = report.saturation
    if found is None:
        return f"Not defined for the utility {report.manifest.game.utility}, which has no slope in margins."
    assert found.lower is not None, "asked for with intervals"
    assert found.upper is not None, "asked for with intervals"
    sides = zip(report.state.players, found.lower, found.upper, strict=True)
    beyond = [owner for owner, lower, upper in sides if lower > 0 or upper < 0]
    if not beyond:
        return (
            "No interval of a gap excludes zero: the round cannot tell that cutting an adapter into "
            "parts would have changed what it earns."
        )
    largest = max(abs(float(gap)) for gap in found.gaps)
    return (
        f"The interval of the gap excludes zero for {_listed(beyond)} (the largest gap is "
        f"{report.scale.size(largest)}): the round is saturated, and what an owner earns depends on how "
        "its data is cut into adapters."
    )


def policy_in_words(report: Report) -> str:
    """The payout policy of the manifest."""
    terms = report.manifest.payout
    return {
        "gated": (
            "gated: a share whose lower bound is not above zero earns nothing; the others split the "
            "budget in proportion to their shares."
        ),
        "clipped": "clipped: a share that is not above zero earns nothing; the others split the budget.",
        "signed": f"signed: who has a negative share pays in, at most a bond of {money(terms.bond, terms)}.",
        "per_unit": (
            f"per unit: {money(terms.unit_price, terms)} for each whole unit of utility, for shares above "
            "zero; at most the budget, and the rest is refunded."
        ),
    }[terms.policy]


def utility_in_words(report: Report) -> str:
    """The utility of the manifest, and what its zero is."""
    return {
        "sigmoid": (
            "sigmoid, v(S) = mean of sigma(x) - 1/2 over the held-out pairs, x the coalition's margin. v "
            f"+ 1/2 is the expected preference accuracy; the base model stands at 50{THIN}% by definition."
        ),
        "log_sigmoid": (
            "log_sigmoid, v(S) = mean of log sigma(x) + log 2. log 2 - v is the preference loss in nats; "
            "the base model stands at log 2 = 0.693 by definition."
        ),
        "win": (
            "win, v(S) = the part of pairs with a margin above zero, ties counted half, less 1/2. The "
            f"base model ties on every pair and stands at 50{THIN}% by definition."
        ),
        "reward": (
            "reward, v(S) = expected reward of the coalition's answers less that of the base model's, by "
            "importance weights on one pool of candidates a prompt; the weighted mean over objectives."
        ),
    }[report.manifest.game.utility]


def _paid_sentence(report: Report) -> str:
    settlement, grand, scale = report.state.settlement, report.grand, report.scale
    assert settlement is not None, "the caller has looked"
    assert grand is not None, "nobody is paid before valuation"
    verb = "lower" if scale.utility == "log_sigmoid" else "raise"
    sentence = (
        f"Together the adapters {verb} {scale.measure} from {scale.level(0)} to {scale.level(grand)} on "
        f"{grouped(report.manifest.held_out_pairs)} held-out pairs, and by its terms the round had the "
        "power to tell shares apart from zero."
    )
    nothing = sum(payment.amount == 0 for payment in settlement.payments)
    if nothing:
        get = "gets" if nothing == 1 else "get"
        sentence += f" {count(nothing, 'owner')} {get} nothing, for reasons given below."
    return sentence


def _refund(report: Report) -> tuple[str, str]:
    """Why the whole budget is refunded: a few words, and a sentence."""
    settlement, manifest = report.state.settlement, report.manifest
    assert settlement is not None, "the caller has looked"
    players, least = len(report.state.players), manifest.min_players
    if report.state.aborted == "witnesses":
        return (
            "too few witnesses cosigned",
            f"The terms ask for {manifest.witness.quorum} of {len(manifest.witness.owners)} of them.",
        )
    if report.state.aborted == "rewards":
        return (
            "a reward could not score the answers",
            "The operator gave the round up, since the manifest pins the reward.",
        )
    reasons = {
        "aborted": (
            "too few adapters were admitted",
            f"The terms ask for {count(least, 'player')}, and {players} came through intake.",
        ),
        "degenerate": (
            "the candidates hardly speak for some coalition",
            _degenerate(report),
        ),
        "no-gain": (
            "the consortium gained nothing",
            "All adapters together are no better than the base model on the held-out pairs.",
        ),
        "underpowered": (
            "the round was underpowered",
            "The held-out pairs are too few, or the shares too small, to tell who brought something.",
        ),
        "nobody-qualified": (
            "nobody qualified",
            f"No share meets the policy {manifest.payout.policy}.",
        ),
        "none": ("there was no budget", "The budget is zero."),
        "unspent": ("unspent", "The budget was not spent."),
    }
    return reasons[settlement.refund_reason]


def _degenerate(report: Report) -> str:
    game, shares = report.manifest.game, report.state.shares
    if isinstance(game, GameTerms) or shares is None or shares.pool is None:
        return ""
    pool = shares.pool
    return (
        f"Of {game.pool.candidates} candidates a prompt, {to_float(pool.effective):.1f} count for "
        f"{_listed(list(pool.weakest))}; the terms ask for {game.pool.min_effective:g}."
    )


def _payment_reason(report: Report, payment: Payment, share: Share) -> str:
    terms = report.manifest.payout
    if payment.reason != "share":
        return _nothing_reason(report, payment, share)
    if payment.amount < 0:
        owes = "its bond" if payment.amount == -terms.bond else "in proportion to its negative share"
        return f"Pays in {owes}."
    if payment.amount == 0:
        return "Nothing: its part comes to less than one minor unit."
    basis = "unit of utility" if terms.policy == "per_unit" else "its share"
    return f"{part_of(payment.amount, terms.budget)} of the budget, by {basis}."


def _nothing_reason(report: Report, payment: Payment, share: Share) -> str:
    level = percent(report.manifest.interval.level, 0)
    if payment.reason == "negative":
        return "Nothing: its share is not above zero."
    if share.told_from_zero < 0:
        return f"Nothing: the whole {level} interval of its share lies below zero."
    return (
        f"Nothing: the {level} interval of its share reaches down to "
        f"{report.scale.difference(share.lower)}, so the round cannot tell it from zero."
    )


def _without(coalitions: Coalitions, owner: int, report: Report) -> str:
    scale, rest, name = report.scale, coalitions.without[owner], coalitions.owners[owner]
    share = next((share for share in report.shares if share.owner == name), None)
    chance = "; its share cannot be told from zero" if share and not share.told_from_zero else ""
    return (
        f"Leaving out {name} would improve the consortium on these pairs, from "
        f"{scale.level(coalitions.grand)} to {scale.level(rest)} "
        f"({scale.difference(rest - coalitions.grand)} {scale.unit}){chance}."
    )


def _listed(names: list[str]) -> str:
    if len(names) > 4:
        return f"{', '.join(names[:3])} and {len(names) - 3} others"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
