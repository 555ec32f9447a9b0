"""What a verification found, and what none can find."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from patronage_protocol.canonical import Canonical
from patronage_protocol.entries import AnyEntry
from patronage_protocol.ledger.notes import VerifierKey
from patronage_protocol.ledger.published import PublishedLedger
from patronage_protocol.ledger.receipts import Receipt
from patronage_protocol.manifest import GameTerms, Manifest
from patronage_protocol.rounds import Round

__all__ = ["Check", "ReceiptVerdict", "Verdict", "not_known"]

MEASURED_MARGINS = "that the margins were measured on the declared base model and held-out pairs"
MEASURED_POOLS = (
    "that the candidates were drawn and scored with the declared models, held-out prompts and rewards"
)
MEASURED = "that margins or rewards were measured as the terms declare"
"""Of a receipt alone, which tells nothing of the terms."""

FAIR_SLICES = "that the slices that owners contributed are fair to the others, who are scored on them"


class Check(Canonical):
    """One thing that was checked and held."""

    phase: str
    what: str


@dataclass(frozen=True)
class Verdict:
    """A ledger that holds.

    Attributes:
        ledger: what was read.
        rounds: the rounds that its entries add up to.
        entries: the entries of each round.
        checks: what was checked, in the order of the phases.
        key: the operator's key at the end of the ledger.
        pinned: whether that key was given, rather than taken from the ledger itself.
        trusted: witnesses of the policy that was given, and when each cosigned the checkpoint.
    """

    ledger: PublishedLedger
    rounds: tuple[Round, ...]
    entries: tuple[tuple[AnyEntry, ...], ...]
    checks: tuple[Check, ...]
    key: VerifierKey
    pinned: bool
    trusted: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ReceiptVerdict:
    """A receipt that holds: the entry in it is in the log. `witnesses` are those that were looked for."""

    receipt: Receipt
    entry: bytes
    witnesses: tuple[str, ...]
    checks: tuple[Check, ...]


def not_known(manifests: Iterable[Manifest]) -> tuple[str, ...]:
    """What no ledger of rounds with these terms can show, a line each; without any, of a receipt alone."""
    rounds = tuple(manifests)
    games = {isinstance(manifest.game, GameTerms) for manifest in rounds}
    measured = [
        line for margins, line in ((True, MEASURED_MARGINS), (False, MEASURED_POOLS)) if margins in games
    ]
    sliced = any(manifest.slices.of for manifest in rounds)
    return (
        "that training happened as declared, or on whose data",
        "that the data was lawful to use",
        *(measured or [MEASURED]),
        *([FAIR_SLICES] if sliced else []),
        "that no trigger hides in an adapter",
        "that nobody was shown another ledger by more liars than the quorum bears; compare checkpoints",
        "that the witnesses are different people, and who is behind a key",
    )
