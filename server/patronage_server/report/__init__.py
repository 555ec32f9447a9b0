"""The report of a round: one self-contained HTML page, made from a published ledger and nothing else.

Anybody who has the folder can make the page, and gets the same bytes as the operator. A ledger that does not
verify gets none. The page has no script, asks for nothing over the network, and claims only what the ledger
carries or what follows from it by the valuation engine.
"""

from patronage_server.report.model import Report, read_report
from patronage_server.report.page import GENERATOR, render, save

__all__ = ["GENERATOR", "Report", "read_report", "render", "save"]
