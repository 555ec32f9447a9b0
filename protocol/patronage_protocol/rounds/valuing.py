"""From the adapters to the payments: verdicts, evidence, shares, and the settlement that follows."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from patronage_protocol.entries import Aborted, Evaluated, Judged, Paid, Refunded, Valued
from patronage_protocol.evidence import EvidenceHeader, declared, read_evidence
from patronage_protocol.manifest import RewardGameTerms
from patronage_protocol.payout import Reason, settle
from patronage_protocol.rounds.clauses import refuse
from patronage_protocol.rounds.heads import cosign_close_by
from patronage_protocol.rounds.state import Blobs, Phase, Round, Standing
from patronage_protocol.rounds.table import move, next_phase
from patronage_protocol.shares import Shares

__all__ = ["abort", "evaluate", "judge", "pay", "value"]

OUT_OF_GAME: Mapping[Standing, Reason] = MappingProxyType(
    {
        Standing.DECLINED: "declined",
        Standing.FORFEITED: "forfeited",
        Standing.REJECTED: "rejected",
        Standing.COMMITTED: "refunded",  # of a round that was aborted before anybody could reveal
        Standing.ADMITTED: "refunded",  # a player of a round that was aborted
    }
)


def judge(state: Round, entry: Judged, _blobs: Blobs) -> Round:
    """An adapter is admitted within the bounds of the manifest, or rejected with a reason."""
    terms = state.manifest.intake
    if entry.accepted == bool(entry.reason):
        refuse("a reason with a rejection and none with an admission", repr(entry.reason), "intake §reason")
    if entry.accepted and (entry.norm is None or entry.norm > terms.max_norm):
        refuse(f"a norm of at most {terms.max_norm}", str(entry.norm), "intake §norm")
    if entry.accepted and entry.nearest and entry.nearest.cosine >= terms.copy_cosine:
        refuse(f"a cosine below {terms.copy_cosine}", str(entry.nearest.cosine), "intake §copy")
    state = move(state, entry, entry.owner)
    if not entry.accepted:
        state = replace(state, standing={**state.standing, entry.owner: Standing.REJECTED})
    return next_phase(replace(state, verdicts={**state.verdicts, entry.owner: entry}))


def evaluate(state: Round, entry: Evaluated, blobs: Blobs) -> Round:
    """The evidence is about this round, its players and their adapters."""
    manifest = state.manifest
    if len(state.players) < manifest.min_players:
        refuse(f"at least {manifest.min_players} players", str(len(state.players)), "evaluate §players")
    evidence = read_evidence(blobs(entry.margins), manifest)
    header = evidence.header
    agreed = {
        "players": (header.players, state.players),
        "adapters": (header.adapters, tuple(state.reveals[player].adapter for player in state.players)),
        **declared(evidence, manifest),
    }
    for what, (got, expected) in agreed.items():
        if got != expected:
            refuse(f"evidence with {what} {expected}", str(got), "evaluate §evidence")
    clusters = header.clusters if isinstance(header, EvidenceHeader) else None
    return replace(state, margins=entry.margins, clusters=clusters, phase=Phase.VALUING)


def abort(state: Round, entry: Aborted, _blobs: Blobs) -> Round:
    """The round ends without shares, for a reason that holds."""
    manifest, players = state.manifest, len(state.players)
    if (entry.reason == "witnesses") != (state.phase is Phase.CLOSED):
        refuse("the reason that the phase allows", entry.reason, "abort §reason")
    if entry.reason == "rewards" and not isinstance(manifest.game, RewardGameTerms):
        refuse("a game on rewards", f"the utility {manifest.game.utility}", "abort §rewards")
    if entry.reason != "witnesses" and entry.count != players:
        refuse(f"the count of {players} players", str(entry.count), "abort §players")
    if entry.reason == "players" and players >= manifest.min_players:
        refuse(f"an abort below {manifest.min_players} players", str(entry.count), "abort §players")
    if entry.reason == "witnesses" and entry.count >= manifest.witness.quorum:
        refuse(f"an abort below {manifest.witness.quorum} witnesses", str(entry.count), "abort §witnesses")
    if entry.reason == "witnesses" and entry.time <= (deadline := cosign_close_by(state)):
        refuse(f"an abort after the deadline {deadline}", str(entry.time), "abort §deadline")
    return _settle(replace(state, aborted=entry.reason), None)


def value(state: Round, entry: Valued, blobs: Blobs) -> Round:
    """The shares follow from the evidence of this round; `verify` recomputes them."""
    shares = Shares.decode(blobs(entry.shares))
    if shares.margins != state.margins or shares.players != state.players:
        refuse(f"shares of the margins {state.margins}", shares.margins, "value §evidence")
    return _settle(state, shares)


def pay(state: Round, entry: Paid | Refunded, _blobs: Blobs) -> Round:
    """A payment is the next one of the settlement, and nothing else."""
    due = state.due(entry.time)
    assert due is not None, "the phase PAYING ends with the last due entry"
    if entry != due:
        refuse(due.encode().decode(), entry.encode().decode(), f"{entry.kind} §settlement")
    state = replace(state, settled=state.settled + 1)
    if state.due(entry.time):
        return state
    return replace(state, phase=Phase.SETTLED, settled_at=entry.time)


def _settle(state: Round, shares: Shares | None) -> Round:
    excluded = {
        owner: OUT_OF_GAME[standing]
        for owner, standing in state.standing.items()
        if shares is None or owner not in shares.players
    }
    settlement = settle(state.manifest.payout, shares, seed=state.manifest.seed, excluded=excluded)
    return replace(state, shares=shares, settlement=settlement, phase=Phase.PAYING)
