"""From the last payment to the end: owners may ask for held-out pairs, which are opened first."""

from dataclasses import replace

from patronage_protocol.entries import Finished, Questioned, Shown
from patronage_protocol.errors import VerificationError
from patronage_protocol.held_out import HeldOutOpening, check_opening
from patronage_protocol.messages import Question
from patronage_protocol.opened_pairs import against_clusters, against_counts
from patronage_protocol.rounds.clauses import in_time, read, refuse
from patronage_protocol.rounds.state import Blobs, Phase, Round

__all__ = ["ask", "finish", "show"]


def ask(state: Round, entry: Questioned, _blobs: Blobs) -> Round:
    """An owner names the held-out pairs that it wants to see, once and in time."""
    terms = state.manifest.dispute
    in_time(entry, state.ask_by)
    pairs = read(state, entry, Question).pairs
    if entry.owner in state.questions:
        refuse("an owner that has not asked yet", entry.owner, "ask §standing")
    if len(pairs) > terms.pairs or list(pairs) != sorted(set(pairs)):
        refuse(f"at most {terms.pairs} pairs, ascending", str(pairs)[:80], "ask §pairs")
    if pairs and pairs[-1] >= (number := state.manifest.held_out_pairs):
        refuse(f"pairs below {number}", str(pairs[-1]), "ask §pairs")
    return replace(state, questions={**state.questions, entry.owner: pairs})


def show(state: Round, entry: Shown, blobs: Blobs) -> Round:
    """A pair that was asked for is opened, under the root that the manifest commits to."""
    opening = HeldOutOpening.decode(blobs(entry.opening))
    if opening.index not in state.to_show:
        refuse("a pair that was asked for and not shown", str(opening.index), "show §asked")
    try:
        check_opening(opening, *state.manifest.held_out_sets)
    except VerificationError as error:
        refuse("the pair at its place under the held-out root", error.got, "show §root")
    shown = {**state.shown, opening.index: opening.pair.prompt_digest}
    if state.clusters is None:
        problem = against_counts(shown, state.manifest.held_out)
    else:
        problem = against_clusters(shown, opening.index, state.clusters)
    if problem is not None:
        refuse("opened pairs with the prompts that they were counted under", problem, "show §prompt")
    return replace(state, shown=shown)


def finish(state: Round, entry: Finished, _blobs: Blobs) -> Round:
    """The end: every pair shown, and every owner heard or the time for questions over."""
    if (entry.adapter is None) != (state.shares is None):
        refuse("an adapter exactly when the round was valued", str(entry.adapter), "final §adapter")
    if entry.time <= state.ask_by and len(state.questions) < len(state.manifest.owners):
        refuse(f"an end after {state.ask_by}, or a word of every owner", str(entry.time), "final §window")
    if state.to_show:
        refuse("every pair shown that was asked for", f"pair {state.to_show[0]} missing", "final §shown")
    return replace(state, adapter=entry.adapter, phase=Phase.FINAL)
