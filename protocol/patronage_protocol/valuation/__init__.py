"""What every owner's adapter was worth: shares of cooperative games on margins, with error and interval.

`value` is the entry point. docs/valuation.md derives the formulas and gives figures.
"""

from patronage_protocol.valuation.engine import value
from patronage_protocol.valuation.intervals import Intervals, IntervalSpec, Power
from patronage_protocol.valuation.margins import Margins
from patronage_protocol.valuation.results import Certificate, Saturation, ValuationResult
from patronage_protocol.valuation.semivalues import Semivalue

__all__ = [
    "Certificate",
    "IntervalSpec",
    "Intervals",
    "Margins",
    "Power",
    "Saturation",
    "Semivalue",
    "ValuationResult",
    "value",
]
