"""One round after another in one ledger: when the next may open, and where it may start."""

import math

from patronage_protocol.entries import AnyEntry
from patronage_protocol.manifest import Manifest
from patronage_protocol.rounds.clauses import refuse
from patronage_protocol.rounds.machine import advance, open_round
from patronage_protocol.rounds.state import Blobs, Phase, Round
from patronage_protocol.rounds.table import ALLOWED

__all__ = ["follow"]


def follow(history: tuple[Round, ...], entry: AnyEntry, blobs: Blobs) -> tuple[Round, ...]:
    """The rounds of a ledger after one more entry: it continues the last round or opens the next one.

    The next round opens once the last head of the round before was cosigned and that is recorded.

    Raises:
        RemoteProtocolError, FormatError, VerificationError: as `open_round` and `advance`.
    """
    last = history[-1] if history else None
    if last is not None and (last.phase is not Phase.FINAL or isinstance(entry, ALLOWED[Phase.FINAL])):
        return (*history[:-1], advance(last, entry, blobs))
    opened = open_round(entry, blobs, last)
    if last is not None:
        if last.awaits_witnesses:
            refuse("the cosigned head of the round before first", entry.kind, "open §witnessed")
        before, after = last.manifest, opened.manifest
        if (after.consortium, after.round) != (before.consortium, before.round + 1):
            refuse(
                f"round {before.round + 1} of {before.consortium}",
                f"round {after.round} of {after.consortium}",
                "open §next",
            )
    _check_start(history, opened.manifest)
    return (*history, opened)


def _check_start(history: tuple[Round, ...], manifest: Manifest) -> None:
    """A start is the adapter that the last round with one left, over the same base model and modules."""
    start = manifest.start
    if start is None:
        return
    last = next((state for state in reversed(history) if state.adapter is not None), None)
    if last is None:
        refuse("the base model as start, since no round has left an adapter", start.adapter, "open §start")
    before = last.manifest
    if (start.round, start.adapter) != (before.round, last.adapter):
        refuse(
            f"the adapter {last.adapter} of round {before.round} as start",
            f"{start.adapter} of round {start.round}",
            "open §start",
        )
    if (
        manifest.base_model.identity != before.base_model.identity
        or manifest.lora.groups != before.lora.groups
    ):
        refuse(f"the base model and LoRA modules of round {before.round}", "others", "open §start")
    ours, theirs = (terms.alpha / terms.rank for terms in (start, before.lora))
    rank = len(last.players) * before.lora.rank + (before.start.rank if before.start else 0)
    if start.rank != rank or not math.isclose(ours, theirs, rel_tol=1e-12):
        refuse(f"rank {rank} and alpha / rank {theirs:g} as start", f"{start.rank}, {ours:g}", "open §start")
