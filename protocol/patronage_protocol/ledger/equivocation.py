"""Equivocation: two heads that one log signed and that no single log can have, in one portable file.

Same size, two roots: the two signed checkpoints are the proof. Different sizes: the file also holds a path
in the larger tree (RFC 9162, section 2.1.4, always with its first hash written out) that leads to the root
signed for the larger size, and to a root for the smaller size that is not the one signed. Hashes do not
collide, so the larger tree does not continue the smaller one. Whoever holds the log's public key can check
the file offline. Where the log changed its key in between, the file holds the rotations.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, SerializerFunctionWrapHandler, model_serializer

from patronage_protocol.canonical import Canonical
from patronage_protocol.envelopes import Envelope
from patronage_protocol.errors import UsageError, VerificationError
from patronage_protocol.keys import PublicKey
from patronage_protocol.ledger import merkle
from patronage_protocol.ledger.checkpoints import SignedCheckpoint
from patronage_protocol.ledger.merkle import NodeSource
from patronage_protocol.ledger.notes import MAX_NOTE_BYTES, Note, VerifierKey
from patronage_protocol.ledger.rotation import KeyHistory, read_change
from patronage_protocol.strict import base64_bytes, base64_text

__all__ = ["EquivocationProof", "prove_equivocation"]


def _hash_text(text: str) -> str:
    base64_bytes(text, what="a hash of the proof", length=merkle.HASH_BYTES)
    return text


class EquivocationProof(Canonical):
    """The whole proof: two signed checkpoints as text, and a path that is empty for equal sizes.

    `rotations` lead from the key that the verifier holds to those that signed; left out where there are none.
    """

    kind: Annotated[str, Field(pattern=r"^patronage equivocation proof v1\z")]
    smaller: Annotated[str, Field(max_length=MAX_NOTE_BYTES)]
    larger: Annotated[str, Field(max_length=MAX_NOTE_BYTES)]
    path: Annotated[tuple[Annotated[str, AfterValidator(_hash_text)], ...], Field(max_length=65)]
    rotations: Annotated[tuple[Envelope, ...], Field(max_length=1024)] = ()

    @model_serializer(mode="wrap")
    def _without_nothing(self, inner: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in inner(self).items() if key != "rotations" or value}

    @classmethod
    def of(
        cls,
        smaller: SignedCheckpoint,
        larger: SignedCheckpoint,
        path: tuple[bytes, ...],
        rotations: Sequence[Envelope] = (),
    ) -> Self:
        """The proof with these parts. It is not checked."""
        return cls(
            kind="patronage equivocation proof v1",
            smaller=smaller.encode().decode(),
            larger=larger.encode().decode(),
            path=tuple(map(base64_text, path)),
            rotations=tuple(rotations),
        )

    def verify(self, key: VerifierKey) -> tuple[SignedCheckpoint, SignedCheckpoint]:
        """Check that the log with `key` signed two heads that fork, and return them, the smaller first.

        Raises:
            FormatError: a part does not parse.
            RemoteProtocolError: a rotation breaks a clause.
            VerificationError: the file does not prove that.
        """
        smaller, larger = (SignedCheckpoint.parse(text.encode()) for text in (self.smaller, self.larger))
        history = _history(key, self.rotations)
        for signed in (smaller, larger):
            history.verify(signed)
            if len(signed.note.signatures) != 1:
                raise VerificationError(
                    "the signature of the log alone",
                    got="cosignatures, which prove nothing here",
                    do="make the proof again",
                )
        old, new = smaller.checkpoint, larger.checkpoint
        path = [base64_bytes(text, what="a hash of the proof") for text in self.path]
        if old.size == new.size:
            forked = old.root != new.root and not path
        else:
            forked = (
                0 < old.size < new.size and merkle.prefix_root(old.size, new.size, new.root, path) != old.root
            )
        if not forked:
            raise VerificationError(
                "two signed heads of which none continues the other",
                got=f"heads of {old.size} and {new.size} entries that may be of one log",
                do="do not accuse anybody with this file",
            )
        return smaller, larger


def prove_equivocation(
    one: SignedCheckpoint,
    other: SignedCheckpoint,
    key: VerifierKey,
    *,
    node: NodeSource | None = None,
    rotations: Sequence[Envelope] = (),
) -> EquivocationProof:
    """The proof that the log with `key` forked.

    Args:
        one: a signed head.
        other: another of the same log.
        key: the log's key.
        node: perfect subtrees of the tree behind the larger head; needed when the sizes differ.
        rotations: of the log, from `key` on; those of after the larger head are left out.

    Raises:
        UsageError: the sizes differ and `node` is missing.
        VerificationError: a signature does not verify, `node` is of another tree, or nothing forked.
    """
    smaller, larger = sorted((one, other), key=lambda signed: signed.checkpoint.size)
    old, new = smaller.checkpoint, larger.checkpoint
    path: tuple[bytes, ...] = ()
    if 0 < old.size < new.size:
        if node is None:
            raise UsageError(
                "the entries behind the larger head", got="checkpoints alone", do="name the published folder"
            )
        path = merkle.prefix_path(old.size, new.size, node)
    rotations = [one for one in rotations if read_change(one).size < new.size]
    history = _history(key, rotations)
    first, second = (
        _own(signed, history.verifier_at(signed.checkpoint.size)) for signed in (smaller, larger)
    )
    proof = EquivocationProof.of(first, second, path, rotations)
    proof.verify(key)
    return proof


def _history(key: VerifierKey, rotations: Sequence[Envelope]) -> KeyHistory:
    """The keys of the log: the one that the verifier holds, and its successors by their own statements."""
    changes = [read_change(envelope) for envelope in rotations]
    party = changes[0].party if changes else ""
    history = KeyHistory.begin(key.name, party, PublicKey.from_raw(key.material))
    return history.follow((change.size, one) for change, one in zip(changes, rotations, strict=True))


def _own(signed: SignedCheckpoint, key: VerifierKey) -> SignedCheckpoint:
    """The checkpoint with the log's signature alone: the file holds nothing that it does not prove."""
    signed.verify(key)
    lines = tuple(line for line in signed.note.signatures if line == signed.note.signature_by(key))
    return SignedCheckpoint(signed.checkpoint, Note(signed.note.text, lines))
