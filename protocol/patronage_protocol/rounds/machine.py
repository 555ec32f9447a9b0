"""The machine: the first entry of a round, and every other one."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

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
    Opened,
    Paid,
    Questioned,
    Refunded,
    Revealed,
    Shown,
    Valued,
    Witnessed,
)
from patronage_protocol.envelopes import verify_detached
from patronage_protocol.key_ring import KeyRing
from patronage_protocol.keys import PublicKey
from patronage_protocol.ledger.merkle import Frontier, leaf_hash
from patronage_protocol.manifest import MANIFEST_TYPE, Manifest
from patronage_protocol.rounds.clauses import kind_of, refuse
from patronage_protocol.rounds.contributing import accept, close, commit, decline, forfeit, reveal
from patronage_protocol.rounds.disputing import ask, finish, show
from patronage_protocol.rounds.heads import change_key, witness
from patronage_protocol.rounds.state import Blobs, Phase, Round, Standing
from patronage_protocol.rounds.table import ALLOWED
from patronage_protocol.rounds.valuing import abort, evaluate, judge, pay, value
from patronage_protocol.strict import base64_bytes

__all__ = ["advance", "open_round"]

HANDLERS: Mapping[type[Entry], Callable[[Round, Any, Blobs], Round]] = MappingProxyType(
    {
        Accepted: accept,
        Declined: decline,
        Committed: commit,
        Forfeited: forfeit,
        Closed: close,
        Witnessed: witness,
        Revealed: reveal,
        Judged: judge,
        Evaluated: evaluate,
        Aborted: abort,
        Valued: value,
        Paid: pay,
        Refunded: pay,
        Questioned: ask,
        Shown: show,
        Finished: finish,
        KeyRotated: change_key,
        KeyRevoked: change_key,
    }
)


def open_round(entry: AnyEntry, blobs: Blobs, before: Round | None = None) -> Round:
    """The state after the first entry, which must open a round with a manifest that its operator signed.

    `before` is where the round before it stands, if there was one.

    Raises:
        RemoteProtocolError: it is another entry, or a party has a key that is not its own.
        FormatError: the manifest does not parse.
        VerificationError: the signature is not the operator's.
    """
    if not isinstance(entry, Opened):
        refuse("the entry open first", entry.kind, "open §first")
    data = blobs(entry.manifest)
    manifest = Manifest.decode(data)
    key = PublicKey.from_base64(manifest.operator.key)
    verify_detached(MANIFEST_TYPE, data, base64_bytes(entry.signature, what="the signature"), key)
    tree, keys = (before.tree, before.keys) if before else (Frontier(), KeyRing())
    return Round(
        manifest=manifest,
        time=entry.time,
        phase=Phase.OPEN,
        standing={owner.name: Standing.INVITED for owner in manifest.owners},
        tree=_grown(tree, entry),
        keys=keys.admit(manifest, tree.size),
    )


def advance(state: Round, entry: AnyEntry, blobs: Blobs) -> Round:
    """The state after `entry`.

    Raises:
        RemoteProtocolError: the entry breaks a clause, which `where` names; `state` still holds.
        FormatError, VerificationError: a statement or blob in it does not hold.
    """
    if type(entry) not in ALLOWED[state.phase]:
        allowed = ", ".join(kind_of(kind) for kind in ALLOWED[state.phase])
        refuse(f"{allowed} in the phase {state.phase.value}", entry.kind, f"{entry.kind} §phase")
    if entry.time < state.time:
        refuse(f"a time of at least {state.time}", str(entry.time), f"{entry.kind} §clock")
    after = HANDLERS[type(entry)](replace(state, time=entry.time), entry, blobs)
    return replace(after, tree=_grown(state.tree, entry))


def _grown(tree: Frontier, entry: AnyEntry) -> Frontier:
    """A new tree with one more entry; a state that is kept keeps its own."""
    tree = tree.copy()
    tree.append(leaf_hash(entry.encode()))
    return tree
