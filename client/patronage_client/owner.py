"""What an owner answers at each step of a round. Knows nothing of Flower: bytes in, signed statements out.

The owner checks before it answers: that the operator it trusts signed the manifest, that its own name and
key are in it, that its base model is the declared one, and, before it opens its commitment, that the
commitment is among those that were closed, in a head of the ledger that a quorum of witnesses cosigned. It is
such a witness itself.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from patronage_client.home import OwnerHome
from patronage_client.slicing import require_own_slice
from patronage_protocol.adapters import encode
from patronage_protocol.canonical import Canonical, sha256
from patronage_protocol.entries import Closed, commitments_digest, decode_entry
from patronage_protocol.envelopes import Envelope, verify_detached
from patronage_protocol.errors import LocalProtocolError, PatronageError, RemoteProtocolError
from patronage_protocol.files import read_bytes, write_atomic
from patronage_protocol.keys import PublicKey
from patronage_protocol.ledger.cosignatures import Ed25519Cosigner
from patronage_protocol.ledger.notes import VerifierKey
from patronage_protocol.ledger.receipts import Receipt
from patronage_protocol.ledger.witness import AddCheckpoint, Witness
from patronage_protocol.manifest import MANIFEST_TYPE, Manifest, Party
from patronage_protocol.messages import (
    MAX_REASON,
    Acceptance,
    Commitment,
    Cosignature,
    CosignatureRequest,
    Privacy,
    Question,
    QuestionRequest,
    ReceiptRequest,
    Refusal,
    Reveal,
    RevealRequest,
    Statement,
    TrainRequest,
    commitment,
    read_statement,
    sign_statement,
)
from patronage_protocol.pair_files import LoadedPairs, read_pairs
from patronage_protocol.policy import (
    BaseModel,
    check_same_base,
    length_check,
    progress_bar,
    shared_base_model,
    started,
)
from patronage_protocol.preferences import PreferencePair
from patronage_protocol.witnessing import check_quorum, log_key, witness_name

if TYPE_CHECKING:
    from patronage_client.training import TrainedAdapter

__all__ = ["Owner"]

MAX_MANIFEST = 16 * 2**20
MANIFEST, ADAPTER, RECORD = "manifest.json", "adapter.safetensors", "training.json"

A = TypeVar("A", bound=Statement)
R = TypeVar("R", TrainRequest, RevealRequest, QuestionRequest, ReceiptRequest)


class TrainingRecord(Canonical):
    """What the owner remembers of a training that is finished."""

    pairs: int
    privacy: Privacy | None = None


@dataclass(frozen=True)
class Owner:
    """An owner at its own machine."""

    home: OwnerHome

    @property
    def name(self) -> str:
        """The owner's name."""
        return self.home.config.name

    def offer(self, manifest_bytes: bytes, signature: bytes, rotations: Iterable[Envelope] = ()) -> Envelope:
        """Answer an offer of terms with a signed acceptance, or a signed refusal that says why.

        The operator's key is followed through its own `rotations`. Where the terms name the next key of this
        owner, its rotation was recorded, and that key takes the place of the old one.

        Raises:
            RemoteProtocolError, FormatError, VerificationError: it is not an offer that can be answered,
            since
                the trusted operator did not make it or this owner is not in it.
        """
        self.home.operator.heed(rotations)
        manifest, named = self._authentic(manifest_bytes, signature)
        owner = replace(self, home=self.home.with_key(named.key))
        try:
            owner._agree(manifest)
        except PatronageError as error:
            return owner._sign(manifest, Refusal, reason=str(error)[:MAX_REASON])
        folder = self.home.round_folder(manifest.consortium, manifest.round)
        write_atomic(folder / MANIFEST, manifest_bytes)
        return owner._sign(manifest, Acceptance)

    def train(self, request: Envelope, start: bytes | None = None) -> Envelope:
        """Train on the own pairs, keep the adapter, and commit to it.

        Args:
            request: the operator's, signed.
            start: the adapter that the round starts from; None where it starts from the base model.

        Raises:
            RemoteProtocolError: the manifest names another start.
            PatronageError: nothing was accepted for that round, or training cannot be done.
        """
        _, manifest = self._request(request, TrainRequest)
        digest = sha256(self._adapter(manifest, start))
        return self._sign(manifest, Commitment, commitment=self._commitment(manifest, digest))

    def cosign(self, request: Envelope) -> Envelope:
        """Cosign the head of the operator's ledger, if it continues the last one seen, or say which that was.

        Witnessing binds to nothing: an owner that declined the terms cosigns too. What it sees is remembered,
        on disk, before it answers.

        Raises:
            VerificationError: the head does not continue the last one; it may be evidence of a fork.
            PatronageError: it is no request to this owner, or the memory cannot be read or written.
        """
        asked, key = self._opened(request, CosignatureRequest)
        self._require_mine(asked.owner)
        head = AddCheckpoint.parse(asked.request.encode())
        log = VerifierKey.ed25519(f"{asked.author}/{asked.consortium}", key)
        with self._witness(asked.consortium, log) as witness:
            last = witness.last(log.name)
            if head.old_size != (last.checkpoint.size if last else 0):
                line, seen = "", witness.last_note(log.name).decode()
            else:
                line, seen = witness.cosign(head, time=int(time.time())).line, ""
        answer = Cosignature(
            consortium=asked.consortium,
            round=asked.round,
            manifest=asked.manifest,
            author=self.name,
            line=line,
            seen=seen,
        )
        return sign_statement(answer, self.home.key)

    def reveal(self, request: Envelope) -> tuple[Envelope, bytes]:
        """Open the commitment: the signed opening and the adapter's bytes.

        Raises:
            RemoteProtocolError: no quorum cosigned the closed list, or it does not hold this owner's
                commitment.
            PatronageError: there is nothing to reveal.
        """
        closed, manifest = self._request(request, RevealRequest)
        self._require_closed(closed, manifest)
        folder = self.home.round_folder(manifest.consortium, manifest.round)
        adapter = read_bytes(folder / ADAPTER, limit=manifest.intake.max_bytes)
        digest = sha256(adapter)
        if (self.name, self._commitment(manifest, digest)) not in closed.commitments:
            raise self._not_closed(
                "the own commitment among those that were closed",
                f"{len(closed.commitments)} commitments without it",
            )
        opening = self._sign(
            manifest,
            Reveal,
            adapter=digest,
            salt=self._salt(manifest, digest),
            size=len(adapter),
            **TrainingRecord.decode(read_bytes(folder / RECORD, limit=MAX_MANIFEST)).model_dump(),
        )
        return opening, adapter

    def question(self, request: Envelope) -> Envelope:
        """Ask for some held-out pairs to be opened, which nobody could foresee and which stay the same.

        They follow from a signature of this owner's key over the terms (RFC 8032: deterministic).

        Raises:
            PatronageError: nothing was accepted for that round.
        """
        _, manifest = self._request(request, QuestionRequest)
        allowed, audit = manifest.dispute.pairs, self.home.config.audit
        number = manifest.held_out_pairs
        count = min(allowed if audit is None else min(audit, allowed), number)
        seed = self.home.key.sign(f"patronage questions v1\n{manifest.digest}\n".encode())
        order = sorted(range(number), key=lambda j: sha256(seed + j.to_bytes(8, "big")))
        return self._sign(manifest, Question, pairs=tuple(sorted(order[:count])))

    def receipt(self, request: Envelope) -> Path:
        """Keep the receipt that the operator hands over; returns where it lies."""
        handed, manifest = self._request(request, ReceiptRequest)
        path = self.home.round_folder(manifest.consortium, manifest.round) / "receipt.tlog-proof"
        write_atomic(path, handed.receipt.encode())
        return path

    def _require_closed(self, request: RevealRequest, manifest: Manifest) -> None:
        """The closed list ends a head that a quorum cosigned, and none but what this owner cosigned."""
        receipt = Receipt.parse(request.closed.encode())
        check_quorum(receipt.signed, manifest)
        head = receipt.signed.checkpoint
        entry = decode_entry(receipt.verify(log_key(manifest)))
        listed = dict(request.commitments)
        stated = (len(listed), commitments_digest(listed))
        if not isinstance(entry, Closed) or (entry.count, entry.commitments) != stated:
            raise self._not_closed("the entry close of these commitments", f"an entry {entry.kind} of others")
        if receipt.index != head.size - 1:
            raise self._not_closed(
                "a head that ends with close", f"{head.size - 1 - receipt.index} more entries"
            )
        if not self.home.witness.exists():
            return  # it cosigns nothing any more; the quorum of the others stands
        with self._witness(manifest.consortium, log_key(manifest)) as witness:
            last = witness.last(head.origin)
        if last is not None and last.checkpoint.size == head.size and last.checkpoint != head:
            raise self._not_closed("the head that this owner cosigned", "another of the same size")

    def _not_closed(self, expected: str, got: str) -> RemoteProtocolError:
        return RemoteProtocolError(
            expected,
            got=got,
            do="nothing is revealed; ask the operator for the ledger",
            where="reveal §closed",
        )

    def _witness(self, consortium: str, log: VerifierKey) -> Witness:
        cosigner = Ed25519Cosigner(witness_name(consortium, self.name), self.home.key)
        return Witness.open(self.home.witness, cosigner, [log])

    def _require_mine(self, owner: str) -> None:
        if owner != self.name:
            raise RemoteProtocolError(
                f"a request to {self.name}", got=owner, do="it is not answered", where="request §owner"
            )

    def _authentic(self, manifest_bytes: bytes, signature: bytes) -> tuple[Manifest, Party]:
        """The manifest, and this owner as it stands there."""
        manifest = Manifest.decode(manifest_bytes)
        verify_detached(MANIFEST_TYPE, manifest_bytes, signature, self.home.operator.current(manifest.origin))
        party = manifest.owner(self.name)
        if party is None:
            raise RemoteProtocolError(
                f"the owner {self.name} in the manifest",
                got="no such owner",
                do="register the public key with the operator",
                where="open §owners",
            )
        return manifest, party

    def _opened(self, envelope: Envelope, kind: type[A]) -> tuple[A, PublicKey]:
        """What the operator says, and the key under which it says so: that of the ledger which it names."""
        claimed = kind.decode(envelope.unverified_payload)
        key = self.home.operator.current(f"{claimed.author}/{claimed.consortium}")
        envelope.open(kind.media_type, key)
        return claimed, key

    def _agree(self, manifest: Manifest) -> None:
        if not self.home.accepts(manifest.digest):
            raise LocalProtocolError(
                "a manifest that was accepted",
                got=manifest.digest,
                do="read the new terms and accept them: patronage owner join",
            )
        require_own_slice(self.home, manifest)
        check_same_base(manifest.base_model, self._base(manifest))
        self._pairs(manifest, self._base(manifest))

    def _request(self, envelope: Envelope, kind: type[R]) -> tuple[R, Manifest]:
        """The operator's request and the manifest it belongs to, which this owner must have accepted."""
        claimed, key = self._opened(envelope, kind)
        folder = self.home.round_folder(claimed.consortium, claimed.round)
        manifest = Manifest.decode(read_bytes(folder / MANIFEST, limit=MAX_MANIFEST))
        request = read_statement(envelope, kind, manifest=manifest, author=manifest.operator.name, key=key)
        self._require_mine(request.owner)
        return request, manifest

    def _base(self, manifest: Manifest) -> BaseModel:
        config = self.home.config
        precision = manifest.base_model.precision if config.precision == "auto" else config.precision
        return shared_base_model(
            config.base_model, precision=precision, device=config.device, cache=self.home.cache
        )

    def _pairs(self, manifest: Manifest, base: BaseModel) -> LoadedPairs:
        return read_pairs(
            self.home.data,
            on_bad_row=self.home.config.on_bad_row,
            check=length_check(base, manifest.dpo.max_length),
        )

    def _adapter(self, manifest: Manifest, start: bytes | None) -> bytes:
        """The bytes of the adapter of this round: trained once, then kept."""
        folder = self.home.round_folder(manifest.consortium, manifest.round)
        if (folder / ADAPTER).exists():
            return read_bytes(folder / ADAPTER, limit=manifest.intake.max_bytes)
        base = self._base(manifest)
        pairs = self._pairs(manifest, base).pairs
        if manifest.start is not None:
            base = started(base, manifest, start or b"")
        trained, privacy = self._trained(manifest, base, pairs, folder / "training")
        adapter = encode(trained.tensors)
        write_atomic(folder / RECORD, TrainingRecord(pairs=len(pairs), privacy=privacy).encode())
        write_atomic(folder / ADAPTER, adapter)
        return adapter

    def _trained(
        self, manifest: Manifest, base: BaseModel, pairs: Sequence[PreferencePair], workdir: Path
    ) -> "tuple[TrainedAdapter, Privacy | None]":
        """With differential privacy where the owner asked for it."""
        # What trains is imported when it does: it brings TRL, seconds and memory.
        choice = self.home.privacy
        with progress_bar(f"{self.name} trains") as progress:
            if choice is not None:
                from patronage_client.private_training import train_private_adapter  # noqa: PLC0415

                # Nobody else can sign this, so nobody else can draw the noise again.
                secret = self.home.key.sign(f"patronage private training v1\n{manifest.digest}\n".encode())
                return train_private_adapter(
                    base,
                    pairs,
                    dpo=manifest.dpo,
                    lora=manifest.lora,
                    choice=choice,
                    secret=secret,
                    workdir=workdir,
                    progress=progress,
                )
            from patronage_client.training import train_adapter  # noqa: PLC0415

            plain = train_adapter(
                base,
                pairs,
                dpo=manifest.dpo,
                lora=manifest.lora,
                workdir=workdir,
                progress=progress,
                threads=self.home.config.threads or None,
            )
            return plain, None

    def _salt(self, manifest: Manifest, adapter: str) -> str:
        """Secret until revealed, the same after a restart: Ed25519 signatures are deterministic, RFC 8032."""
        message = f"patronage salt v1\n{manifest.digest}\n{adapter}\n"
        return sha256(self.home.key.sign(message.encode()))

    def _commitment(self, manifest: Manifest, adapter: str) -> str:
        return commitment(
            consortium=manifest.consortium,
            round_number=manifest.round,
            owner=self.name,
            salt=self._salt(manifest, adapter),
            adapter=adapter,
        )

    def _sign(self, manifest: Manifest, kind: type[Statement], **fields: object) -> Envelope:
        statement = kind.model_validate(
            {
                "consortium": manifest.consortium,
                "round": manifest.round,
                "manifest": manifest.digest,
                "author": self.name,
                **fields,
            }
        )
        return sign_statement(statement, self.home.key)
