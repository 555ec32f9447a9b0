"""A round played by hand: one method for each entry, every field of it within reach."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from patronage_protocol.canonical import sha256
from patronage_protocol.entries import (
    Accepted,
    AnyEntry,
    Closed,
    Committed,
    Declined,
    Evaluated,
    Finished,
    Forfeited,
    Judged,
    Match,
    Opened,
    Questioned,
    Revealed,
    Shown,
    Valued,
    Witnessed,
    commitments_digest,
    decode_entry,
)
from patronage_protocol.envelopes import Envelope, sign_detached
from patronage_protocol.evidence import EvidenceHeader, MarginEvidence
from patronage_protocol.held_out import HeldOutSet
from patronage_protocol.keys import PrivateKey
from patronage_protocol.ledger.checkpoints import SignedCheckpoint
from patronage_protocol.manifest import MANIFEST_TYPE, Manifest
from patronage_protocol.messages import (
    Acceptance,
    Commitment,
    Question,
    Refusal,
    Reveal,
    Statement,
    commitment,
    sign_statement,
)
from patronage_protocol.preferences import PreferencePair
from patronage_protocol.rounds import Round, follow
from patronage_protocol.shares import compute_shares
from patronage_protocol.strict import base64_text

__all__ = ["DISPUTE", "HELD_OUT", "NOW", "Play", "adapter_of", "salt_of"]

NOW = 1_800_000_000

HELD_OUT = HeldOutSet(
    tuple(
        PreferencePair(prompt=prompt, chosen=f"yes {number}", rejected=f"no {number}")
        for number, prompt in enumerate(("tea", "tea", "sun", "rain"))
    ),
    b"\x0d" * 32,
)
DISPUTE = {"held_out": HELD_OUT.commitment, "dispute": {"seconds": 60, "pairs": 2}}


def adapter_of(owner: str) -> str:
    return sha256(f"adapter of {owner}".encode())


def salt_of(owner: str) -> str:
    return sha256(f"salt of {owner}".encode())


@dataclass
class Play:
    """A round played by hand: makes entries, folds them, keeps blobs."""

    manifest: Manifest
    keys: Callable[[str], PrivateKey]
    cosigned_head: Callable[..., SignedCheckpoint]
    now: int = NOW
    blobs: dict[str, bytes] = field(default_factory=dict)
    entries: list[AnyEntry] = field(default_factory=list)
    rounds: tuple[Round, ...] = ()

    @property
    def state(self) -> Round:
        return self.rounds[-1]

    def put(self, data: bytes) -> str:
        self.blobs[sha256(data)] = data
        return sha256(data)

    def take(self, entry: AnyEntry) -> Round:
        # Through bytes, as the ledger stores it.
        self.rounds = follow(self.rounds, decode_entry(entry.encode()), self.blobs.__getitem__)
        self.entries.append(entry)
        return self.state

    def open(self, signer: str = "operator") -> Round:
        data = self.manifest.encode()
        signature = base64_text(sign_detached(MANIFEST_TYPE, data, self.keys(signer)))
        return self.take(Opened(time=self.now, manifest=self.put(data), signature=signature))

    def say(self, owner: str, kind: type[Statement], *, signer: str | None = None, **fields: Any) -> Envelope:
        header = {
            "consortium": self.manifest.consortium,
            "round": self.manifest.round,
            "manifest": self.manifest.digest,
            "author": owner,
        }
        statement = kind.model_validate({**header, **fields})
        return sign_statement(statement, self.keys(signer or owner))

    def commitment(self, owner: str, adapter: str | None = None) -> str:
        return commitment(
            consortium=self.manifest.consortium,
            round_number=self.manifest.round,
            owner=owner,
            salt=salt_of(owner),
            adapter=adapter or adapter_of(owner),
        )

    def accept(self, owner: str, **changes: Any) -> Round:
        statement = self.say(owner, Acceptance, **changes)
        return self.take(Accepted(time=self.now, owner=owner, statement=statement))

    def decline(self, owner: str, **changes: Any) -> Round:
        statement = self.say(owner, Refusal, reason="another base model", **changes)
        return self.take(Declined(time=self.now, owner=owner, statement=statement))

    def commit(self, owner: str, digest: str | None = None) -> Round:
        statement = self.say(owner, Commitment, commitment=digest or self.commitment(owner))
        return self.take(Committed(time=self.now, owner=owner, statement=statement))

    def close(self) -> Round:
        made = self.state.commitments
        return self.take(Closed(time=self.now, count=len(made), commitments=commitments_digest(made)))

    def witness(self, *owners: str) -> Round:
        """The head as it stands, cosigned by these owners, or by all."""
        note = self.cosigned_head(self.state, self.keys, *owners).encode().decode()
        return self.take(Witnessed(time=self.now, checkpoint=note))

    def reveal(self, owner: str, **changes: Any) -> Round:
        fields = {"adapter": adapter_of(owner), "salt": salt_of(owner), "size": 100, "pairs": 7, **changes}
        return self.take(Revealed(time=self.now, owner=owner, statement=self.say(owner, Reveal, **fields)))

    def forfeit(self, owner: str) -> Round:
        return self.take(Forfeited(time=self.now, owner=owner, reason="silent"))

    def judge(self, owner: str, reason: str = "", norm: float | None = 1.0, cosine: float = 0.1) -> Round:
        nearest = Match(owner="ann", cosine=cosine)
        return self.take(
            Judged(time=self.now, owner=owner, accepted=not reason, reason=reason, norm=norm, nearest=nearest)
        )

    def evidence(self, **changes: Any) -> MarginEvidence:
        players = self.state.players
        fields = {
            "players": players,
            "adapters": tuple(adapter_of(player) for player in players),
            "clusters": (0, 0, 1, 2),
            "sources": (0, 0, 0, 0),
            "labels": ("all",),
            "scale_bits": 16,
            **changes,
        }
        margins = np.tile([1.0, 1.5, 0.5, 2.0], (len(fields["players"]), 1))
        return MarginEvidence.from_margins(EvidenceHeader.model_validate(fields), margins)

    def evaluate(self, **changes: Any) -> Round:
        return self.take(Evaluated(time=self.now, margins=self.put(self.evidence(**changes).encode())))

    def value(self, **changes: Any) -> Round:
        shares = compute_shares(self.evidence(**changes), self.manifest)
        return self.take(Valued(time=self.now, shares=self.put(shares.encode())))

    def settle(self) -> Round:
        while (due := self.state.due(self.now)) is not None:
            self.take(due)
        return self.state

    def ask(self, owner: str, *pairs: int) -> Round:
        statement = self.say(owner, Question, pairs=pairs)
        return self.take(Questioned(time=self.now, owner=owner, statement=statement))

    def show(self, pair: int, /, **changes: Any) -> Round:
        opening = HELD_OUT.open(pair).model_copy(update=changes)
        return self.take(Shown(time=self.now, opening=self.put(opening.encode())))

    def finish(self) -> Round:
        adapter = None if self.state.shares is None else "0f" * 32
        return self.take(Finished(time=self.now, adapter=adapter))
