"""Whose keys count in a ledger: everybody that its manifests have named, and what became of their keys.

A name keeps its key from round to round unless an entry between two rounds says otherwise: `rotate`, signed
by the old key and the new, or `revoke`, signed by the key itself. A key that was given up, or that was
somebody's, is never taken again. Who revoked its key may come back under its name with a key that was never
used, by the operator's word alone; the operator itself may not: its ledger ends.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NoReturn, Self

from patronage_protocol.entries import KeyRevoked, KeyRotated
from patronage_protocol.errors import RemoteProtocolError
from patronage_protocol.keys import PublicKey
from patronage_protocol.ledger.notes import SignatureType, VerifierKey
from patronage_protocol.ledger.rotation import KeyHistory, Rotation, read_change
from patronage_protocol.ledger.trust import TrustPolicy
from patronage_protocol.manifest import Manifest, Party
from patronage_protocol.witnessing import witness_name

__all__ = ["KeyRing"]


@dataclass(frozen=True)
class KeyRing:
    """The keys of a ledger's parties.

    Attributes:
        operator: the operator's name; empty before the first round.
        consortium: the consortium's name; empty before the first round.
        histories: party to its keys.
    """

    operator: str = ""
    consortium: str = ""
    histories: Mapping[str, KeyHistory] = field(default_factory=dict)

    @property
    def log(self) -> KeyHistory:
        """The keys with which the operator signs heads."""
        return self.histories[self.operator]

    def current(self, party: str) -> PublicKey | None:
        """The key of a party now; None if it is unknown or its key was revoked."""
        history = self.histories.get(party)
        return None if history is None else history.current

    def retired(self, keyid: str) -> bool:
        """Whether a DSSE key id is of a key that was rotated away or revoked."""
        return any(key.keyid == keyid for history in self.histories.values() for key in history.retired)

    def admit(self, manifest: Manifest, size: int) -> Self:
        """The keys after the entry `open` of a manifest, before which there are `size` entries.

        Raises:
            RemoteProtocolError: a party that is known has another key, or a new one has somebody's key.
            FormatError: a key is not acceptable.
        """
        operator = manifest.operator.name
        if self.operator and (operator != self.operator or self.log.current is None):
            got = "one whose key was revoked" if operator == self.operator else operator
            _refuse(f"the operator {self.operator} with a key", got, "open §keys")
        histories = dict(self.histories)
        for party in (manifest.operator, *manifest.owners):
            since = 0 if party is manifest.operator else size + 1
            histories[party.name] = self._admitted(party, manifest.origin, since)
        return replace(self, operator=operator, consortium=manifest.consortium, histories=histories)

    def after(self, entry: KeyRotated | KeyRevoked, index: int) -> Self:
        """The keys after one change, which is entry `index`.

        Raises:
            RemoteProtocolError: it breaks a clause, `rotate §...` or `revoke §...`.
            FormatError: its statement is none, or names a key that is not acceptable.
        """
        history = self.histories.get(entry.party)
        if history is None:
            _refuse("a party of the ledger", entry.party, f"{entry.kind} §party")
        if self.log.current is None:
            _refuse("no change after the operator's revocation", entry.party, f"{entry.kind} §key")
        change = read_change(entry.statement)
        if isinstance(change, Rotation) != isinstance(entry, KeyRotated):
            _refuse(f"a statement to {entry.kind}", type(change).__name__.lower(), f"{entry.kind} §statement")
        if entry.party == self.operator and change.size != index:
            _refuse(f"the operator's own for entry {index}", str(change.size), f"{entry.kind} §place")
        if isinstance(change, Rotation) and self._holder(change.new) not in ("", entry.party):
            _refuse("a key that was never used", change.new, "rotate §fresh")
        return replace(self, histories={**self.histories, entry.party: history.after(index, entry.statement)})

    def policy_at(self, policy: TrustPolicy, size: int) -> TrustPolicy:
        """The same policy with each key of a party of this ledger replaced by its key at that size.

        Whoever trusts one key of a chain of rotations trusts the next: its holder said so, under that key.
        """
        logs = dict.fromkeys(self._key_at(log, size) for log in policy.logs)
        witnesses = {name: self._key_at(key, size) for name, key in policy.witnesses.items()}
        return replace(policy, logs=tuple(logs), witnesses=witnesses)

    def _key_at(self, key: VerifierKey, size: int) -> VerifierKey:
        for party, history in self.histories.items():
            name = history.origin if party == self.operator else witness_name(self.consortium, party)
            kind = SignatureType.ED25519 if party == self.operator else SignatureType.COSIGNATURE
            then = history.successor(key.material, size)
            if (key.name, key.kind) == (name, kind) and then is not None:
                return replace(key, material=then.raw)
        return key

    def _admitted(self, party: Party, origin: str, since: int) -> KeyHistory:
        key, known = PublicKey.from_base64(party.key), self.histories.get(party.name)
        if known is not None and known.current is not None:
            if known.current != key:
                _refuse(f"the key {known.current.text} of {party.name}", party.key, "open §keys")
            return known
        if self._holder(party.key):
            _refuse(f"a key for {party.name} that was never used", party.key, "open §keys")
        if known is not None:
            return known.come_back(key, since=since)
        return KeyHistory.begin(origin, party.name, key, since=since)

    def _holder(self, key: str) -> str:
        """Who has, or had, this key; empty if nobody."""
        return next(
            (
                party
                for party, history in self.histories.items()
                if any(span.key.text == key for span in history.spans)
            ),
            "",
        )


def _refuse(expected: str, got: str, clause: str) -> NoReturn:
    raise RemoteProtocolError(expected, got=got, do="the entry has no effect", where=clause)
