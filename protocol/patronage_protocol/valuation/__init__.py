"""What every owner's adapter was worth: shares of cooperative games on margins, with error and interval.

`value` is the entry point. docs/valuation.md derives the formulas and gives figures.
"""

from patronage_protocol.valuation.aumann_shapley import aumann_shapley
from patronage_protocol.valuation.engine import value
from patronage_protocol.valuation.enumeration import shares_from_values
from patronage_protocol.valuation.estimators import (
    Control,
    Estimate,
    additive_control,
    du_shapley,
    estimate_shares,
)
from patronage_protocol.valuation.games import Game, MarginGame, all_coalitions
from patronage_protocol.valuation.interactions import interactions_from_values, pairwise_interactions
from patronage_protocol.valuation.intervals import Intervals, IntervalSpec, Power
from patronage_protocol.valuation.margins import Margins
from patronage_protocol.valuation.results import Certificate, Saturation, ValuationResult
from patronage_protocol.valuation.sampling import SamplingSpec
from patronage_protocol.valuation.semivalues import Semivalue
from patronage_protocol.valuation.shapiq_bridge import estimate_with_shapiq, to_interaction_values

__all__ = [
    "Certificate",
    "Control",
    "Estimate",
    "Game",
    "IntervalSpec",
    "Intervals",
    "MarginGame",
    "Margins",
    "Power",
    "SamplingSpec",
    "Saturation",
    "Semivalue",
    "ValuationResult",
    "additive_control",
    "all_coalitions",
    "aumann_shapley",
    "du_shapley",
    "estimate_shares",
    "estimate_with_shapiq",
    "interactions_from_values",
    "pairwise_interactions",
    "shares_from_values",
    "to_interaction_values",
    "value",
]
