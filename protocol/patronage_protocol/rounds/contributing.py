"""From the terms to the adapters: owners accept, commit before the close, and reveal after it."""

from dataclasses import replace

from patronage_protocol.entries import (
    Accepted,
    Closed,
    Committed,
    Declined,
    Forfeited,
    Revealed,
    commitments_digest,
)
from patronage_protocol.messages import Acceptance, Commitment, Refusal, Reveal, commitment
from patronage_protocol.rounds.clauses import in_time, known, read, refuse
from patronage_protocol.rounds.state import Blobs, Phase, Round, Standing
from patronage_protocol.rounds.table import move, next_phase

__all__ = ["accept", "close", "commit", "decline", "forfeit", "reveal"]


def accept(state: Round, entry: Accepted, _blobs: Blobs) -> Round:
    """An owner takes the terms, in time."""
    in_time(entry, state.manifest.deadlines.accept)
    read(state, entry, Acceptance)
    return move(state, entry, entry.owner)


def decline(state: Round, entry: Declined, _blobs: Blobs) -> Round:
    """An owner does not take the terms."""
    read(state, entry, Refusal)
    return move(state, entry, entry.owner)


def commit(state: Round, entry: Committed, _blobs: Blobs) -> Round:
    """An owner that accepted binds itself to an adapter that nobody sees yet."""
    in_time(entry, state.manifest.deadlines.commit)
    statement = read(state, entry, Commitment)
    state = move(state, entry, entry.owner)
    return replace(state, commitments={**state.commitments, entry.owner: statement.commitment})


def forfeit(state: Round, entry: Forfeited, _blobs: Blobs) -> Round:
    """An owner that let its deadline pass leaves the round."""
    deadlines = state.manifest.deadlines
    owed = {
        Standing.INVITED: deadlines.accept,
        Standing.ACCEPTED: deadlines.commit,
        Standing.COMMITTED: deadlines.reveal,
    }
    known(state, entry.owner)
    deadline = owed.get(state.standing[entry.owner])
    if deadline is not None and entry.time <= deadline:
        refuse(f"a forfeit after the deadline {deadline}", str(entry.time), "forfeit §deadline")
    committed = state.standing[entry.owner] is Standing.COMMITTED
    if committed and state.phase is Phase.OPEN:
        refuse("a forfeit of a committed owner after close", "one before it", "forfeit §close")
    return next_phase(move(state, entry, entry.owner))


def close(state: Round, entry: Closed, _blobs: Blobs) -> Round:
    """The list of commitments is complete, and is what the operator says it is."""
    if waiting := state.owners(Standing.INVITED, Standing.ACCEPTED):
        refuse("no owner that may still accept or commit", ", ".join(waiting), "close §waiting")
    expected = (len(state.commitments), commitments_digest(state.commitments))
    if (entry.count, entry.commitments) != expected:
        refuse(f"{expected[0]} commitments with digest {expected[1]}", entry.commitments, "close §list")
    return replace(state, phase=Phase.CLOSED, closed=entry.time)


def reveal(state: Round, entry: Revealed, _blobs: Blobs) -> Round:
    """An owner opens its commitment."""
    manifest = state.manifest
    in_time(entry, manifest.deadlines.reveal)
    reveal = read(state, entry, Reveal)
    state = move(state, entry, entry.owner)
    opened = commitment(
        consortium=manifest.consortium,
        round_number=manifest.round,
        owner=entry.owner,
        salt=reveal.salt,
        adapter=reveal.adapter,
    )
    if opened != state.commitments[entry.owner]:
        refuse(f"an opening of {state.commitments[entry.owner]}", opened, "reveal §opening")
    if reveal.size > manifest.intake.max_bytes:
        refuse(f"at most {manifest.intake.max_bytes} bytes of adapter", str(reveal.size), "reveal §size")
    return next_phase(replace(state, reveals={**state.reveals, entry.owner: reveal}))
