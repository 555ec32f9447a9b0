"""The first half of the page: what came of the round, who brought what, and where the budget goes."""

from collections.abc import Iterator

from patronage_protocol.payout import Payment
from patronage_protocol.rounds import Standing
from patronage_server.report.markup import Child, Markup, join, tag
from patronage_server.report.model import Report, Share
from patronage_server.report.numbers import count, entries, moment, money, part_of, percent
from patronage_server.report.strips import Axis, budget_bar, whisker_strip
from patronage_server.report.tables import axis_row, cell, facts, row, row_head, table
from patronage_server.report.words import about_power, fate, outcome, policy_in_words

__all__ = ["budget", "headline", "section", "shares"]

SIDES = {1: "helps", 0: "unsure", -1: "harms"}


def section(name: str, title: str, note: Child, *content: Child) -> Markup:
    """A heading, what to see beneath it, and the content beside it."""
    head = tag("div", tag("h2", title, id=name), note and tag("p", note), class_="about")
    return tag("section", head, tag("div", *content, class_="content"), aria_labelledby=name)


def headline(report: Report) -> Markup:
    """Consortium, round, verdict, and the few numbers that matter most."""
    manifest, found = report.manifest, outcome(report)
    kicker = f"{manifest.consortium} · round {manifest.round}"
    return tag(
        "header",
        tag("p", kicker, class_="kicker"),
        tag("h1", found.title, class_=found.mood),
        tag("p", found.sentence, class_="lead"),
        facts(_key_figures(report), class_="key"),
    )


def shares(report: Report) -> Markup:
    """Shares with their intervals, and beside each owner what it is paid and why."""
    if not report.shares:
        return section(
            "shares",
            "Owners",
            "There are no shares: the round has not been valued.",
            _owners_without_shares(report),
        )
    scale, terms = report.scale, report.manifest.interval
    axis = Axis.covering(
        scale.in_units(number)
        for share in report.shares
        for number in (share.point, share.lower, share.upper)
    )
    rows = [_share_row(report, share, axis) for share in report.shares]
    rows.append(axis_row(axis, after=2))
    rows += [_excluded_row(report, owner) for owner in _excluded(report)]
    note = (
        f"What each owner adds to the {scale.measure}, in {_unit(report)}: the Shapley share, and the "
        f"{percent(terms.level, 0)} interval over the drawing of held-out prompts. A share whose interval "
        "reaches zero cannot be told from nothing."
    )
    heads = ("Owner", f"Share, {scale.unit}", "Share and interval", "Payout")
    caption = "Shares with intervals, payouts and reasons"
    return section("shares", "Who brought what", note, table(caption, heads, rows, class_="shares"))


def budget(report: Report) -> Markup | None:
    """One bar for the budget; None before there is a settlement, or without a budget."""
    settlement, terms = report.state.settlement, report.manifest.payout
    if settlement is None or terms.budget == 0:
        return None
    paid = sorted(
        (payment for payment in settlement.payments if payment.amount > 0),
        key=lambda payment: (-payment.amount, payment.owner),
    )
    parts = list(_parts(report, paid))
    bar = budget_bar(parts, label="; ".join(name for name, _, _ in parts))
    whole = sum(size for _, size, _ in parts)
    rows = [
        row(
            row_head(_swatch(opacity), payment.owner),
            cell(money(payment.amount, terms), class_="number"),
            cell(part_of(payment.amount, whole), class_="number"),
        )
        for payment, (_, _, opacity) in zip(paid, parts, strict=False)
    ]
    if settlement.refund:
        rows.append(
            row(
                row_head(_swatch(-1), "Refund"),
                cell(money(settlement.refund, terms), class_="number"),
                cell(part_of(settlement.refund, whole), class_="number"),
            )
        )
    rows += [
        row(
            row_head(_swatch(None), f"{payment.owner} pays in"),
            cell(money(payment.amount, terms), class_="number"),
            cell(),
        )
        for payment in settlement.payments
        if payment.amount < 0
    ]
    note = f"{money(terms.budget, terms)}, by the policy {policy_in_words(report)}"
    legend = table("What is paid and refunded", ("To", "Amount", "Part"), rows, class_="legend")
    return section("budget", "Where the budget goes", note, bar, legend, _due(report))


def _key_figures(report: Report) -> Iterator[tuple[str, Child]]:
    scale, settlement, terms = report.scale, report.state.settlement, report.manifest.payout
    if report.grand is not None:
        change = f"{scale.level(0)} → {scale.level(report.grand)}"
        yield _title(scale.measure), _figure(change, "base model → everybody")
    if settlement is None:
        yield "Budget", _figure(money(terms.budget, terms), "nothing decided yet")
    else:
        paid = sum(payment.amount for payment in settlement.payments)
        rest = f", {money(settlement.refund, terms)} refunded" if settlement.refund else ""
        yield "Paid", _figure(money(paid, terms), f"of a budget of {money(terms.budget, terms)}{rest}")
    if report.powered is not None:
        word = "Powered" if report.powered else "Underpowered"
        yield "Power", _figure(word, about_power(report))
    day, *clock = moment(report.state.time).split(" ", 1)
    yield "Closed" if report.finished else "Last entry", _figure(day, " ".join(clock))
    checkpoint = report.signed.checkpoint
    root = checkpoint.text.split("\n")[2]
    yield "Checkpoint", _figure(tag("code", f"{root[:10]}…"), f"{entries(checkpoint.size)}, verified")


def _figure(value: Child, note: str | None) -> Markup:
    return join(tag("strong", value), note and tag("small", note))


def _share_row(report: Report, share: Share, axis: Axis) -> Markup:
    scale = report.scale
    kind = SIDES[share.told_from_zero]
    text, interval = scale.difference(share.point), scale.interval(share.lower, share.upper)
    figure = whisker_strip(
        axis,
        *(scale.in_units(number) for number in (share.point, share.lower, share.upper)),
        kind=kind,
        label=f"{share.owner}: {text} {scale.unit}, interval {interval}",
    )
    return row(
        row_head(share.owner),
        cell(figure, class_="figure"),
        cell(tag("strong", text), tag("small", interval), class_="number"),
        _payout_cell(report, share.owner),
        class_=kind,
    )


def _payout_cell(report: Report, owner: str) -> Markup:
    payment: Payment | None = report.payments.get(owner)
    amount = None if payment is None else tag("strong", money(payment.amount, report.manifest.payout))
    kind = "payout" if payment is not None and payment.amount else "payout nothing"
    return cell(amount, tag("small", fate(report, owner)), class_=kind)


def _excluded_row(report: Report, owner: str) -> Markup:
    standing = report.state.standing[owner].value
    return row(
        row_head(owner),
        cell(f"{standing}, no share", class_="absent"),
        cell(class_="number"),
        _payout_cell(report, owner),
        class_="out",
    )


def _excluded(report: Report) -> tuple[str, ...]:
    players = {share.owner for share in report.shares}
    return tuple(sorted(owner for owner in report.state.standing if owner not in players))


def _owners_without_shares(report: Report) -> Markup:
    rows = (
        row(
            row_head(owner),
            cell(standing.value, class_="standing"),
            _payout_cell(report, owner),
            class_="out" if standing in (Standing.DECLINED, Standing.FORFEITED, Standing.REJECTED) else None,
        )
        for owner, standing in sorted(report.state.standing.items())
    )
    return table("Owners", ("Owner", "Standing", "Payout"), rows, class_="owners")


def _parts(report: Report, paid: list[Payment]) -> Iterator[tuple[str, int, float]]:
    terms, settlement = report.manifest.payout, report.state.settlement
    for place, payment in enumerate(paid):
        opacity = max(0.3, 1 - place * min(0.22, 0.7 / len(paid)))
        yield f"{payment.owner} {money(payment.amount, terms)}", payment.amount, opacity
    if settlement is not None and settlement.refund > 0:
        yield f"refund {money(settlement.refund, terms)}", settlement.refund, -1.0


def _swatch(opacity: float | None) -> Markup:
    kind = "none" if opacity is None else "refund" if opacity < 0 else "paid"
    style = f"opacity:{opacity:.2f}" if kind == "paid" else None
    return tag("i", class_=f"swatch {kind}", style=style, aria_hidden="true")


def _due(report: Report) -> Markup | None:
    due = sum(1 for _ in report.state.all_due(report.state.time))
    if not due:
        return None
    return tag(
        "p", f"{count(due, 'payment')} of this settlement still to be entered in the ledger.", class_="aside"
    )


def _unit(report: Report) -> str:
    return {"nats": "nats", "reward": "units of reward"}.get(report.scale.unit, "percentage points")


def _title(text: str) -> str:
    return text[0].upper() + text[1:]
