"""What was checked in one round, in words: one line a phase. The shares are recomputed on the way."""

from collections import Counter
from collections.abc import Sequence

from patronage_protocol.evidence import (
    CoalitionEvidence,
    Evidence,
    MarginEvidence,
    read_evidence,
)
from patronage_protocol.manifest import Manifest
from patronage_protocol.payout import Settlement
from patronage_protocol.rounds import Blobs, Phase, Round, Standing
from patronage_protocol.verify.values import check_values
from patronage_protocol.verify.verdict import Check
from patronage_protocol.witnessing import check_quorum

__all__ = ["check_round", "cosigned"]


def check_round(state: Round, blobs: Blobs) -> list[Check]:
    """One line a phase for a round whose entries have passed the state machine."""
    manifest, number = state.manifest, Counter(state.standing.values())
    accepted = len(manifest.owners) - number[Standing.INVITED] - number[Standing.DECLINED]
    lines = {
        "open": f"manifest {manifest.digest[:16]} signed by {manifest.operator.name}; "
        f"{len(manifest.owners)} owners, {manifest.held_out_pairs} held-out pairs{_slices(manifest)}"
        f"{_start(manifest)}",
        "accept": f"{accepted} accepted and {number[Standing.DECLINED]} declined, each in its own signature",
        "commit": f"{len(state.commitments)} commitments, each signed by its owner",
    }
    if state.phase is not Phase.OPEN:
        lines["close"] = f"the list of {len(state.commitments)} commitments, before any was opened"
    if state.witnessed:
        seen = check_quorum(state.witnessed[0], manifest)
        lines["close"] += f"; {cosigned(seen, state)}"
        forfeited = number[Standing.FORFEITED]
        lines["reveal"] = f"{len(state.reveals)} openings match their commitments, {forfeited} forfeited"
    if state.verdicts:
        rejected = number[Standing.REJECTED]
        lines["intake"] = f"{len(state.players)} admitted within the declared bounds, {rejected} rejected"
    if state.margins is not None:
        evidence = read_evidence(blobs(state.margins), manifest)
        lines["evaluate"] = f"{_scope(evidence)}, {state.margins[:16]}"
        if state.shares is not None:
            lines["value"] = check_values(state.shares, evidence, manifest)
    if state.settlement is not None:
        lines["pay"] = _payments(state.settlement, state.settled, manifest.payout.budget)
    if state.questions:
        asked = len(state.questions)
        lines["dispute"] = (
            f"{asked} owners asked; {len(state.shown)} held-out pairs opened, in their places, with the "
            "prompts that they were counted under"
        )
    checks = [Check(phase=phase, what=what) for phase, what in lines.items()]
    if state.phase is Phase.FINAL:
        return [*checks, Check(phase="final", what=_end(state))]
    return [*checks, Check(phase=state.phase.value, what="the round is not finished")]


def _slices(manifest: Manifest) -> str:
    given = ", ".join(f"{part.owner} {part.pairs}" for part in manifest.slices.of)
    return f", of which owners contributed: {given}" if given else ""


def _start(manifest: Manifest) -> str:
    start = manifest.start
    return "" if start is None else f"; starts from the adapter {start.adapter[:16]} of round {start.round}"


def _payments(settlement: Settlement, settled: int, budget: int) -> str:
    """What the ledger's own entries, `settled` of the settlement's, have given out of the budget."""
    paid = sum(payment.amount for payment in settlement.payments[:settled])
    refund = settlement.refund if settled > len(settlement.payments) else 0
    return f"{paid} paid, {refund} refunded of {budget} minor units, recomputed to the unit"


def _end(state: Round) -> str:
    line = f"consortium adapter {state.adapter[:16]}" if state.adapter else "no adapter"
    if len(state.witnessed) > 1:
        line += f"; {cosigned(check_quorum(state.witnessed[1], state.manifest), state)}"
    if state.aborted == "witnesses":
        line += "; aborted for want of witnesses, so no quorum stands behind its end"
    return line


def _scope(evidence: Evidence) -> str:
    players = len(evidence.header.players)
    if isinstance(evidence, CoalitionEvidence):
        pairs = len(evidence.header.clusters)
        return f"margins of all {(1 << players) - 1} coalitions of {players} players on {pairs} pairs"
    if isinstance(evidence, MarginEvidence):
        return f"margins of {players} players on {len(evidence.header.clusters)} pairs"
    header = evidence.header
    return (
        f"{header.prompts} pools of {header.size} candidates, log-ratios of {players} players and rewards "
        f"for {', '.join(header.objectives)}"
    )


def cosigned(owners: Sequence[str], state: Round) -> str:
    """Who cosigned a head, of how many, and how many it takes."""
    terms = state.manifest.witness
    return f"cosigned by {', '.join(owners)}: {len(owners)} of {len(terms.owners)}, {terms.quorum} needed"
