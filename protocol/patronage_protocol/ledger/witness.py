"""A witness cosigns the heads of logs that it knows, never two that fork (https://c2sp.org/tlog-witness).

`judge` is the whole decision, pure. `Witness` keeps the last head of every log in an append-only SQLite
file: it compares and stores in one transaction, on disk, and only then signs and answers. A crash in
between costs nothing: the log asks again from the stored size, and gets its cosignature.

The network is not here: an `AddCheckpoint` is the body of the request in the specification, and travels by
any means.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from patronage_protocol.errors import (
    FormatError,
    RemoteProtocolError,
    UnavailableError,
    UsageError,
    VerificationError,
)
from patronage_protocol.ledger import merkle
from patronage_protocol.ledger.checkpoints import Checkpoint, SignedCheckpoint
from patronage_protocol.ledger.cosignatures import Cosigner, cosignature_time
from patronage_protocol.ledger.database import Database
from patronage_protocol.ledger.notes import MAX_NOTE_BYTES, NoteSignature, VerifierKey
from patronage_protocol.ledger.store import Ledger
from patronage_protocol.ledger.trust import TrustPolicy
from patronage_protocol.strict import base64_bytes, base64_text, decimal, shortened, utf8

__all__ = [
    "AddCheckpoint",
    "Seen",
    "Witness",
    "accept_cosignatures",
    "judge",
    "make_memory",
    "request_cosignature",
    "store_cosignatures",
]

APPLICATION_ID = 0x50415457  # "PATW"
MAX_PROOF_HASHES = 63
MAX_REQUEST_BYTES = MAX_NOTE_BYTES + 4096

_SCHEMA = """
CREATE TABLE seen (number INTEGER PRIMARY KEY, origin TEXT NOT NULL, size INTEGER NOT NULL CHECK (size >= 0),
    root BLOB NOT NULL CHECK (length(root) = 32), time INTEGER NOT NULL CHECK (time > 0),
    note BLOB NOT NULL) STRICT;
CREATE INDEX seen_by_origin ON seen (origin, number);
CREATE TRIGGER seen_grows BEFORE INSERT ON seen
    WHEN new.size < (SELECT max(size) FROM seen WHERE origin = new.origin)
    OR EXISTS (SELECT 1 FROM seen WHERE origin = new.origin AND size = new.size AND root != new.root)
    BEGIN SELECT RAISE(ABORT, 'a head that does not continue what was seen'); END;
CREATE TRIGGER seen_no_UPDATE BEFORE UPDATE ON seen BEGIN SELECT RAISE(ABORT, 'seen only grows'); END;
CREATE TRIGGER seen_no_DELETE BEFORE DELETE ON seen BEGIN SELECT RAISE(ABORT, 'seen only grows'); END;
"""


@dataclass(frozen=True)
class Seen:
    """The last head that a witness cosigned for a log, and when (Unix seconds)."""

    checkpoint: Checkpoint
    time: int


@dataclass(frozen=True)
class AddCheckpoint:
    """What a log sends: a new checkpoint, and the proof that it continues the one of `old_size` entries.

    old <decimal>
    <base64 hash>...

    <signed checkpoint>
    """

    old_size: int
    proof: tuple[bytes, ...]
    signed: SignedCheckpoint

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a request, which must be exactly what `encode` writes.

        Raises:
            FormatError: names the first thing that is wrong.
        """
        if len(data) > MAX_REQUEST_BYTES:
            raise FormatError(
                f"a request of at most {MAX_REQUEST_BYTES} bytes", got=str(len(data)), do="refuse it"
            )
        head, border, checkpoint = data.partition(b"\n\n")
        lines = utf8(head, what="a request to cosign").split("\n")
        if not border or not lines[0].startswith("old ") or len(lines) > 1 + MAX_PROOF_HASHES:
            raise FormatError(
                "a line 'old N', at most 63 hashes, and a checkpoint",
                got=repr(shortened(lines[0])),
                do="refuse it",
            )
        proof = tuple(base64_bytes(line, what="a hash of the proof", length=32) for line in lines[1:])
        old_size = decimal(lines[0].removeprefix("old "), what="the old size")
        return cls(old_size, proof, SignedCheckpoint.parse(checkpoint))

    def encode(self) -> bytes:
        """The bytes of the request."""
        lines = [f"old {self.old_size}", *map(base64_text, self.proof), "", ""]
        return "\n".join(lines).encode() + self.signed.encode()


def judge(seen: Seen | None, request: AddCheckpoint, logs: Sequence[VerifierKey], time: int) -> None:
    """Decide whether a witness that last saw `seen` may cosign. It may if this returns.

    Args:
        seen: the last head cosigned for this origin.
        request: what the log sent.
        logs: the keys of the logs that the witness serves.
        time: now, Unix seconds.

    Raises:
        VerificationError: no known log signed it, or it does not continue what was seen; it may be evidence.
        RemoteProtocolError: the log asked from another size than was seen last; `Witness.last` tells which.
        UnavailableError: the witness's clock is behind its own last cosignature.
    """
    checkpoint = request.signed.checkpoint
    keys = [log for log in logs if request.signed.note.signature_by(log) is not None]
    if not keys:
        raise VerificationError(
            "a checkpoint signed by a log that this witness serves",
            got=f"one of {checkpoint.origin}",
            do="add the log's vkey to the witness, or refuse",
        )
    for key in keys:
        request.signed.verify(key)
    last = seen.checkpoint if seen else Checkpoint(checkpoint.origin, 0, merkle.EMPTY_ROOT)
    if request.old_size != last.size:
        raise RemoteProtocolError(
            f"a request from size {last.size}, the last that this witness saw",
            got=f"one from size {request.old_size}",
            do=f"send the proof from {last.size}",
            where="tlog-witness add-checkpoint",
        )
    merkle.verify_consistency(last.size, last.root, checkpoint.size, checkpoint.root, request.proof)
    if seen and time < seen.time:
        raise UnavailableError(
            f"a clock at {seen.time} or later, when this witness cosigned last",
            got=str(time),
            do="set the clock; a cosignature must not say that it is older than it is",
        )


def make_memory(path: Path) -> None:
    """Make the memory of a new witness at `path`, before it has a log to serve.

    Raises:
        UsageError: there is something at `path`.
        UnavailableError: it cannot be written.
    """
    Database.create(path, application_id=APPLICATION_ID, schema=_SCHEMA, rows={}).close()


class Witness:
    """A cosigner with a memory. Use it as a context manager, or call `close`."""

    def __init__(self, database: Database, cosigner: Cosigner, logs: Sequence[VerifierKey]) -> None:
        """Take an open store; `create` and `open` are the doors."""
        self._database = database
        self._cosigner = cosigner
        self._logs = tuple(logs)
        self.verifier = cosigner.verifier

    @classmethod
    def create(cls, path: Path, cosigner: Cosigner, logs: Sequence[VerifierKey]) -> Self:
        """Make the memory of a new witness at `path`.

        A witness whose memory was lost must get a new key: with an empty memory it would cosign a fork.

        Raises:
            UsageError: there is something at `path`.
            UnavailableError: it cannot be written.
        """
        make_memory(path)
        return cls.open(path, cosigner, logs)

    @classmethod
    def open(cls, path: Path, cosigner: Cosigner, logs: Sequence[VerifierKey]) -> Self:
        """Open the memory at `path`.

        Raises:
            UnavailableError: it is not there, cannot be read, or another process has it open.
            FormatError: it is not the memory of a witness.
        """
        return cls(Database(path, application_id=APPLICATION_ID), cosigner, logs)

    def close(self) -> None:
        """Give the file back."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def last(self, origin: str) -> Seen | None:
        """The last head cosigned for a log, or None."""
        row = self._database.one(
            "SELECT size, root, time FROM seen WHERE origin = ? ORDER BY number DESC LIMIT 1", (origin,)
        )
        return None if row is None else Seen(Checkpoint(origin, row[0], row[1]), row[2])

    def last_note(self, origin: str) -> bytes:
        """The last head cosigned for a log, as the log signed it; empty where there is none."""
        row = self._database.one(
            "SELECT note FROM seen WHERE origin = ? ORDER BY number DESC LIMIT 1", (origin,)
        )
        return b"" if row is None else bytes(row[0])

    def cosign(self, request: AddCheckpoint, *, time: int) -> NoteSignature:
        """Judge, remember, and only then sign.

        Args:
            request: what the log sent.
            time: now, Unix seconds.

        Raises:
            VerificationError, RemoteProtocolError: as `judge`; nothing was remembered.
            UnavailableError: the clock or the storage failed; nothing was signed.
        """
        checkpoint = request.signed.checkpoint
        with self._database.transaction():
            judge(self.last(checkpoint.origin), request, self._logs, time)
            self._database.query(
                "INSERT INTO seen (origin, size, root, time, note) VALUES (?, ?, ?, ?, ?)",
                (checkpoint.origin, checkpoint.size, checkpoint.root, time, request.signed.encode()),
            )
        return self._cosigner.cosign(checkpoint, time)


def request_cosignature(ledger: Ledger, old_size: int) -> AddCheckpoint:
    """The request for the latest checkpoint of `ledger`, to a witness that saw `old_size` entries last.

    Raises:
        UsageError: the witness saw more than there is: this store is an old backup.
    """
    signed = ledger.checkpoint
    size = signed.checkpoint.size
    if old_size > size:
        raise UsageError(
            f"a witness that saw at most {size} entries",
            got=f"one that saw {old_size}",
            do="this ledger is an old backup, or not the one it witnessed: stop",
        )
    own = SignedCheckpoint(signed.checkpoint, type(signed.note)(signed.note.text, signed.note.signatures[:1]))
    return AddCheckpoint(old_size, ledger.consistency_proof(old_size, size), own)


def accept_cosignatures(
    ledger: Ledger, request: AddCheckpoint, lines: Sequence[NoteSignature], policy: TrustPolicy
) -> SignedCheckpoint:
    """Check what witnesses answered to `request`, store it, and return the checkpoint that has its quorum.

    Raises:
        VerificationError: a line is by no witness of the policy or does not verify, nothing was stored; or
            there is no quorum yet, and the good lines were stored.
    """
    signed = store_cosignatures(ledger, request, lines, policy)
    policy.check(signed)
    return signed


def store_cosignatures(
    ledger: Ledger, request: AddCheckpoint, lines: Sequence[NoteSignature], policy: TrustPolicy
) -> SignedCheckpoint:
    """Check what witnesses answered to `request` and store it, quorum or not.

    Returns:
        The checkpoint of the request with these lines.

    Raises:
        VerificationError: a line is by no witness of the policy or does not verify; nothing was stored.
    """
    head = request.signed.checkpoint
    signed = SignedCheckpoint(head, request.signed.note.with_signatures(*lines))
    known = {(key.name, key.keyid) for key in policy.witnesses.values() if cosignature_time(signed, key)}
    strangers = [line.name for line in lines if (line.name, line.keyid) not in known]
    if strangers:
        raise VerificationError(
            "cosignatures by witnesses of the policy alone",
            got=f"one by {strangers[0]}",
            do="drop it, or add its vkey to the policy",
        )
    ledger.add_cosignatures(head.size, lines)
    return signed
