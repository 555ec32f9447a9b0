"""A consortium over several rounds, in which keys change between one round and the next."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from played import NOW, Play, Quality, Scenario

from patronage_protocol.entries import AnyEntry, KeyRevoked, KeyRotated, Paid
from patronage_protocol.envelopes import Envelope
from patronage_protocol.keys import PrivateKey
from patronage_protocol.ledger.checkpoints import SignedCheckpoint
from patronage_protocol.ledger.fsck import fsck
from patronage_protocol.ledger.publish import publish
from patronage_protocol.ledger.receipts import make_receipt
from patronage_protocol.ledger.rotation import revoke, rotate
from patronage_protocol.ledger.store import Ledger
from patronage_protocol.ledger.trust import TrustPolicy
from patronage_protocol.manifest import Deadlines, HeldOutTerms, Manifest, Party
from patronage_protocol.rounds import Round
from patronage_protocol.verify import Verdict, verify_ledger
from patronage_protocol.witnessing import witness_policy

Keys = Callable[[str], PrivateKey]
ORIGIN = "operator/orchard"
OWNERS = ("ash", "quince")
"""One before the operator in the alphabet, and one behind it."""
SCENARIO = Scenario({"ash": Quality(), "quince": Quality((0.1, 0.8, 0.2, 0.6))}, pairs=16)


def new_key(name: str) -> PrivateKey:
    return PrivateKey.from_seed(name.encode().ljust(32, b"+"))


NEW = new_key("new")


@dataclass
class Consortium:
    """Rounds played one after the other, with the keys that everybody has at the time."""

    manifests: Callable[..., Manifest]
    first: Keys
    heads: Callable[..., SignedCheckpoint]

    def __post_init__(self) -> None:
        self.keys: dict[str, PrivateKey] = {}
        self.plays: list[Play] = []

    def key(self, party: str) -> PrivateKey:
        return self.keys.get(party, self.first(party))

    def party(self, name: str) -> Party:
        return Party(name=name, key=self.key(name).public.text)

    def manifest(self, number: int, **changes: Any) -> Manifest:
        start = NOW + 3600 * number
        fields = {
            "round": number,
            "operator": self.party("operator"),
            "owners": tuple(map(self.party, OWNERS)),
            "held_out": HeldOutTerms(root="0c" * 32, pairs=16, prompts=8),
            "deadlines": Deadlines(accept=start + 120, commit=start + 300, reveal=start + 400),
        }
        return self.manifests(*OWNERS, **{**fields, **changes})

    def begin(self, **changes: Any) -> Play:
        """The next round, of which nothing has happened yet."""
        keys = dict(self.keys)
        play = Play(
            SCENARIO,
            self.manifest(len(self.plays) + 1, **changes),
            lambda party: keys.get(party, self.first(party)),
            self.heads,
            self.plays[-1].rounds if self.plays else (),
        )
        self.plays.append(play)
        return play

    def round(self) -> "Consortium":
        """One round from beginning to end."""
        self.begin().play()
        return self

    def ended(self) -> "Consortium":
        """And its cosigned end recorded, so that keys may change."""
        self.plays[-1].end()
        return self

    @property
    def play(self) -> Play:
        return self.plays[-1]

    @property
    def state(self) -> Round:
        return self.play.state

    @property
    def size(self) -> int:
        return self.state.tree.size

    def rotation(self, party: str, new: PrivateKey, **changes: Any) -> Envelope:
        fields = {"origin": ORIGIN, "party": party, "size": self.size, "old": self.key(party), **changes}
        return rotate(**fields, new=new)

    def take(self, kind: type[KeyRotated | KeyRevoked], party: str, statement: Envelope) -> None:
        self.play._take(kind(time=self.play.now, party=party, statement=statement))

    def rotate(self, party: str, new: PrivateKey) -> "Consortium":
        self.take(KeyRotated, party, self.rotation(party, new))
        self.keys[party] = new
        return self

    def revoke(self, party: str) -> "Consortium":
        self.take(KeyRevoked, party, revoke(ORIGIN, party, self.size, self.key(party), "stolen"))
        return self

    def entries(self) -> list[AnyEntry]:
        return [entry for play in self.plays for entry in play.entries]

    def ledger(self, path: Path) -> Ledger:
        """The store with all entries, signed and cosigned at its head; close it."""
        key = self.first("operator")
        ledger = Ledger.create(path, ORIGIN, key, guard=path.with_name("guard"))
        for entry in self.entries():
            if isinstance(entry, KeyRotated) and entry.party == "operator":
                ledger.rotate(self.keys["operator"], entry.encode())
            else:
                ledger.append([entry.encode()])
        for play in self.plays:
            for data in play.blobs.values():
                ledger.put_blob(data)
        head = ledger.checkpoint.checkpoint
        ledger.add_cosignatures(head.size, self.heads(self.state, self.play.keys).note.signatures[1:])
        return ledger


@pytest.fixture
def consortium(
    manifest_of: Callable[..., Manifest], key_of: Keys, cosigned_head: Callable[..., SignedCheckpoint]
) -> Consortium:
    return Consortium(manifest_of, key_of, cosigned_head)


@dataclass
class Rotated:
    """Two rounds with both kinds of keys changed in between, published, and what was handed out."""

    consortium: Consortium
    folder: Path
    first_policy: TrustPolicy
    first_receipt: bytes
    last_receipt: bytes

    @property
    def verdict(self) -> Verdict:
        return verify_ledger(self.folder)


@pytest.fixture
def rotated(consortium: Consortium, tmp_path: Path) -> Rotated:
    consortium.round()
    first_policy = witness_policy(consortium.state.manifest)
    with consortium.ledger(tmp_path / "first.sqlite") as ledger:
        first_receipt = make_receipt(ledger, payment(consortium)).encode()
    (tmp_path / "guard").unlink()
    consortium.ended().rotate("operator", new_key("operator 2")).rotate("ash", NEW).round()
    store = tmp_path / "ledger.sqlite"
    with consortium.ledger(store) as ledger:
        publish(ledger, tmp_path / "ledger")
        last_receipt = make_receipt(ledger, payment(consortium)).encode()
    assert fsck(store).problems == ()
    return Rotated(consortium, tmp_path / "ledger", first_policy, first_receipt, last_receipt)


def payment(consortium: Consortium) -> int:
    """The number of the last payment."""
    entries = consortium.entries()
    return max(number for number, entry in enumerate(entries) if isinstance(entry, Paid))
