"""What the blob of an `evaluate` entry is: the numbers from which every share and payout is recomputed.

margins      of the owners, where coalitions are sums
coalitions   margins of every coalition, where weights are merged
pools        candidates with log-ratios and rewards, where the utility is `reward`
evaluated    which of them the terms ask for
framing      the file: a header, and int32 numbers
"""

from patronage_protocol.evidence.coalitions import CoalitionEvidence
from patronage_protocol.evidence.evaluated import Evidence, declared, read_evidence, slice_columns
from patronage_protocol.evidence.margins import EvidenceHeader, MarginEvidence, SliceColumns
from patronage_protocol.evidence.pools import PoolEvidence, PoolHeader

__all__ = [
    "CoalitionEvidence",
    "Evidence",
    "EvidenceHeader",
    "MarginEvidence",
    "PoolEvidence",
    "PoolHeader",
    "SliceColumns",
    "declared",
    "read_evidence",
    "slice_columns",
]
