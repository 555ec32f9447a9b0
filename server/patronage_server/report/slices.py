"""Held-out pairs that owners contributed: who is not scored on what, and how the others do on it."""

import numpy as np
from numpy.typing import NDArray

from patronage_protocol.evidence import CoalitionEvidence, MarginEvidence
from patronage_protocol.manifest import GameTerms
from patronage_protocol.valuation.utilities import utility_of
from patronage_server.report.markup import Markup
from patronage_server.report.model import Report
from patronage_server.report.numbers import grouped
from patronage_server.report.outcome import section
from patronage_server.report.tables import cell, row, row_head, table

__all__ = ["slices"]


def slices(report: Report) -> Markup | None:
    """A line for each slice; None where nobody contributed any, and before evaluation."""
    evidence, game = report.evidence, report.manifest.game
    if not isinstance(evidence, MarginEvidence) or not isinstance(game, GameTerms):
        return None
    if not evidence.header.slices:
        return None
    rows = []
    for part in evidence.header.slices:
        utilities = utility_of(_of_the_others(evidence, part.owner), game.utility)
        elsewhere = np.delete(utilities, part.columns)
        levels = (report.scale.level(float(some.mean())) for some in (utilities[part.columns], elsewhere))
        rows.append(
            row(
                row_head(part.owner),
                cell(grouped(part.pairs), class_="number"),
                *(cell(level, class_="number") for level in levels),
            )
        )
    note = (
        "Held-out pairs that owners contributed. No owner is scored on its own, so its share is its Shapley "
        "value on the other pairs, and the shares need not add up to the utility of everybody. Where the "
        "others do worse on a slice than elsewhere, look at its pairs: they may be hard, new, or mislabelled."
    )
    heads = ("Contributed by", "Pairs", "The others on it", "The others elsewhere")
    return section(
        "slices", "Who was not scored on what", note, table("Slices", heads, rows, class_="legend")
    )


def _of_the_others(evidence: MarginEvidence, owner: str) -> NDArray[np.float64]:
    """The margins (M,) of all players together but the owner of a slice, which need not be a player."""
    players = evidence.header.players
    others = [player != owner for player in players]
    if isinstance(evidence, CoalitionEvidence):
        mask = sum(1 << place for place, other in enumerate(others) if other)
        return np.asarray(evidence.reals[mask])
    return np.asarray(evidence.margins.reals()[others].sum(axis=0))
