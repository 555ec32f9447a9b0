"""Shares by objective, where the utility is a reward: the data signature, and the numbers behind it."""

from patronage_protocol.fixed_point import to_float
from patronage_protocol.manifest import RewardGameTerms
from patronage_protocol.shares import ObjectiveShares, PoolShares
from patronage_server.report.markup import Markup, join, tag
from patronage_server.report.model import Report
from patronage_server.report.numbers import percent, places_for, signed
from patronage_server.report.outcome import section
from patronage_server.report.signature import Signature, signature_plot
from patronage_server.report.tables import cell, row, row_head, table

__all__ = ["objectives"]


def objectives(report: Report) -> Markup | None:
    """What every owner brought to every objective; None before valuation, and without objectives."""
    game, shares = report.manifest.game, report.state.shares
    if not isinstance(game, RewardGameTerms) or shares is None or shares.pool is None:
        return None
    pool = shares.pool
    note = (
        "What each owner adds to the expected reward of every objective, with the interval over prompts. "
        "The share that is paid for is their mean, by the weights of the terms."
    )
    figure = _figure(report, pool.objectives) if len(pool.objectives) > 1 else None
    return section(
        "objectives", "What it was good for", note, figure, _table(report, game, pool), _ess(game, pool)
    )


def _figure(report: Report, found: tuple[ObjectiveShares, ...]) -> Markup:
    first, second = found[:2]
    signatures = [
        Signature(report.state.players[player], _numbers(first, player), _numbers(second, player))
        for player in report.order
    ]
    caption = tag(
        "p",
        f"Each owner's data signature: its share in {first.name} to the right, in {second.name} upwards. "
        "The base model stands at the origin; crosses are intervals.",
        class_="aside",
    )
    return join(signature_plot(signatures, across=first.name, up=second.name), caption)


def _table(report: Report, game: RewardGameTerms, pool: PoolShares) -> Markup:
    found = pool.objectives
    every = [number for one in found for player in report.order for number in _numbers(one, player)]
    places = places_for(every, least=3)
    total = sum(objective.weight for objective in game.objectives)
    weights = [cell(percent(objective.weight / total, 0), class_="number") for objective in game.objectives]
    rows = [
        row(
            row_head(report.state.players[player]),
            *(_share_cell(one, player, places) for one in found),
        )
        for player in report.order
    ]
    everybody = (cell(signed(to_float(one.grand), places), class_="number") for one in found)
    base = (cell(signed(to_float(one.base), places), class_="number") for one in found)
    rows += [
        row(row_head("Everybody"), *everybody, class_="total"),
        row(row_head("Base model's reward"), *base),
        row(row_head("Weight in the payout"), *weights),
    ]
    heads = ("Owner", *(one.name for one in found))
    return table("Shares by objective", heads, rows, class_="legend")


def _share_cell(one: ObjectiveShares, player: int, places: int) -> Markup:
    point, lower, upper = (signed(number, places) for number in _numbers(one, player))
    return cell(tag("strong", point), " ", tag("small", f"{lower} to {upper}"), class_="number")


def _ess(game: RewardGameTerms, pool: PoolShares) -> Markup:
    weakest = " + ".join(pool.weakest) or "the base model"
    return tag(
        "p",
        f"Of {game.pool.candidates} candidates for each prompt, the fewest count for {weakest}: "
        f"{to_float(pool.effective):.1f} in effect. The terms ask for {game.pool.min_effective:g}.",
        class_="aside",
    )


def _numbers(one: ObjectiveShares, player: int) -> tuple[float, float, float]:
    return to_float(one.shares[player]), to_float(one.lower[player]), to_float(one.upper[player])
