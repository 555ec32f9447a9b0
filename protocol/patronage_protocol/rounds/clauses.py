"""Clauses that entries of several kinds share, and the one way to refuse."""

from typing import NoReturn

from patronage_protocol.entries import AnyEntry, Entry, OwnerStatement
from patronage_protocol.errors import RemoteProtocolError
from patronage_protocol.keys import PublicKey
from patronage_protocol.manifest import Party
from patronage_protocol.messages import S, read_statement
from patronage_protocol.rounds.state import Round

__all__ = ["in_time", "kind_of", "known", "read", "refuse"]


def refuse(expected: str, got: str, clause: str) -> NoReturn:
    """Raise the clause that an entry breaks."""
    raise RemoteProtocolError(expected, got=got, do="the entry has no effect", where=clause)


def kind_of(entry: type[Entry]) -> str:
    """What entries of a type call themselves."""
    return str(entry.model_fields["kind"].default)


def known(state: Round, owner: str) -> Party:
    """The party of this name in the manifest."""
    party = state.manifest.owner(owner)
    if party is None:
        refuse("an owner of the manifest", owner, "open §owners")
    return party


def in_time(entry: AnyEntry, deadline: int) -> None:
    """An entry with a deadline bears a time that is not after it."""
    if entry.time > deadline:
        refuse(f"{entry.kind} by {deadline}", str(entry.time), f"{entry.kind} §deadline")


def read(state: Round, entry: OwnerStatement, kind: type[S]) -> S:
    """What an owner said, under the key that the manifest names and that it has not given up."""
    party = known(state, entry.owner)
    key = PublicKey.from_base64(party.key)
    if state.keys.retired(entry.statement.signatures[0].keyid):
        refuse(
            f"the key {key.text} of {entry.owner}", "one that was given up", f"{kind_of(type(entry))} §key"
        )
    return read_statement(entry.statement, kind, manifest=state.manifest, author=entry.owner, key=key)
