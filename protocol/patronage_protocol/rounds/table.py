"""The transitions of a round: what each phase takes, where it leaves an owner, and when a phase is over."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from patronage_protocol.entries import (
    Aborted,
    Accepted,
    AnyEntry,
    Closed,
    Committed,
    Declined,
    Entry,
    Evaluated,
    Finished,
    Forfeited,
    Judged,
    KeyRevoked,
    KeyRotated,
    Paid,
    Questioned,
    Refunded,
    Revealed,
    Shown,
    Valued,
    Witnessed,
)
from patronage_protocol.rounds.clauses import known, refuse
from patronage_protocol.rounds.state import Phase, Round, Standing

__all__ = ["ALLOWED", "MOVES", "move", "next_phase"]

ALLOWED: Mapping[Phase, tuple[type[Entry], ...]] = MappingProxyType(
    {
        Phase.OPEN: (Accepted, Declined, Committed, Forfeited, Closed),
        Phase.CLOSED: (Witnessed, Aborted),
        Phase.REVEALING: (Revealed, Forfeited),
        Phase.INTAKE: (Judged,),
        Phase.SCORING: (Evaluated, Aborted),
        Phase.VALUING: (Valued,),
        Phase.PAYING: (Paid, Refunded),
        Phase.SETTLED: (Questioned, Shown, Finished),
        Phase.FINAL: (Witnessed, KeyRotated, KeyRevoked),
    }
)

MOVES: Mapping[tuple[Standing, type[Entry]], Standing] = MappingProxyType(
    {
        (Standing.INVITED, Accepted): Standing.ACCEPTED,
        (Standing.INVITED, Declined): Standing.DECLINED,
        (Standing.INVITED, Forfeited): Standing.FORFEITED,
        (Standing.ACCEPTED, Committed): Standing.COMMITTED,
        (Standing.ACCEPTED, Forfeited): Standing.FORFEITED,
        (Standing.COMMITTED, Revealed): Standing.REVEALED,
        (Standing.COMMITTED, Forfeited): Standing.FORFEITED,
        (Standing.REVEALED, Judged): Standing.ADMITTED,  # REJECTED if the verdict says so
    }
)


def move(state: Round, entry: AnyEntry, owner: str) -> Round:
    """The owner's new standing, if there is one for this entry."""
    known(state, owner)
    standing = state.standing[owner]
    after = MOVES.get((standing, type(entry)))
    if after is None:
        refuse(
            f"an owner that may {entry.kind}",
            f"{owner}, which is {standing.value}",
            f"{entry.kind} §standing",
        )
    return replace(state, standing={**state.standing, owner: after})


def next_phase(state: Round) -> Round:
    """Leave REVEALING and INTAKE as soon as nobody is waited for."""
    if state.phase is Phase.REVEALING and not state.owners(Standing.COMMITTED):
        state = replace(state, phase=Phase.INTAKE)
    if state.phase is Phase.INTAKE and not state.owners(Standing.REVEALED):
        state = replace(state, phase=Phase.SCORING)
    return state
