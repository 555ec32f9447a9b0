"""The heads at close and at final, which a quorum cosigns; and keys, which may change after the second."""

from dataclasses import replace

from patronage_protocol.entries import KeyRevoked, KeyRotated, Witnessed
from patronage_protocol.ledger.checkpoints import Checkpoint, SignedCheckpoint
from patronage_protocol.rounds.clauses import in_time, refuse
from patronage_protocol.rounds.state import Blobs, Phase, Round
from patronage_protocol.rounds.table import next_phase
from patronage_protocol.witnessing import check_quorum, in_order

__all__ = ["change_key", "cosign_close_by", "witness"]


def witness(state: Round, entry: Witnessed, _blobs: Blobs) -> Round:
    """A quorum of the manifest's witnesses cosigned the head before this entry."""
    if not state.awaits_witnesses:
        refuse("a head that is to be cosigned", "one that is done", "witness §standing")
    if state.phase is Phase.CLOSED:
        in_time(entry, cosign_close_by(state))
    signed = SignedCheckpoint.parse(entry.checkpoint.encode())
    head = Checkpoint(state.manifest.origin, state.tree.size, state.tree.root())
    if signed.checkpoint != head:
        refuse(f"the head of {head.size} entries before it", signed.checkpoint.text, "witness §head")
    check_quorum(signed, state.manifest)
    if signed != in_order(signed, state.manifest):
        refuse("the lines of the operator and the witnesses, in order", "others", "witness §lines")
    state = replace(state, witnessed=(*state.witnessed, signed))
    return next_phase(replace(state, phase=Phase.REVEALING)) if state.phase is Phase.CLOSED else state


def change_key(state: Round, entry: KeyRotated | KeyRevoked, _blobs: Blobs) -> Round:
    """A party takes another key, or gives its own up, after the cosigned end."""
    if state.awaits_witnesses:
        refuse("the cosigned head of the round first", entry.kind, f"{entry.kind} §witnessed")
    return replace(state, keys=state.keys.after(entry, state.tree.size))


def cosign_close_by(state: Round) -> int:
    """The last moment for the cosignatures of the head at close, Unix seconds."""
    assert state.closed is not None, "the phase CLOSED begins with the close"
    return state.closed + state.manifest.witness.seconds
