"""Faults that no system call shows: a torn tail, an old backup, a wrong clock, a second operator.

Each scenario returns what happened, in words, or raises `AssertionError` where a promise broke.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

from patronage_protocol.errors import PatronageError, UnavailableError, VerificationError
from patronage_protocol.keys import PrivateKey
from patronage_protocol.ledger.checkpoints import SignedCheckpoint
from patronage_protocol.ledger.cosignatures import Ed25519Cosigner
from patronage_protocol.ledger.notes import NoteSignature
from patronage_protocol.ledger.publish import publish
from patronage_protocol.ledger.store import Ledger
from patronage_protocol.ledger.trust import flat_policy
from patronage_protocol.ledger.witness import request_cosignature
from patronage_simulations.faults.worker import KEY, ORIGIN, PREPARED, entry, open_ledger, open_witness

__all__ = ["SCENARIOS"]


def torn_tail(folder: Path) -> str:
    """The end of the write-ahead log never reached the disk, at any length; nothing was acknowledged."""
    wal, torn = folder / "ledger.sqlite-wal", folder / "torn"
    with open_ledger(folder) as ledger:
        before = len(wal.read_bytes()) if wal.exists() else 0
        ledger.append([entry(PREPARED)])
        database, log = (folder / "ledger.sqlite").read_bytes(), wal.read_bytes()
    torn.mkdir()
    cuts = range(before, len(log) + 1, 97)
    for cut in cuts:
        (torn / "ledger.sqlite").write_bytes(database)
        (torn / "ledger.sqlite-wal").write_bytes(log[:cut])
        (torn / "ledger.sqlite-shm").unlink(missing_ok=True)
        shutil.rmtree(torn / "second", ignore_errors=True)
        shutil.copytree(folder / "second", torn / "second")
        with open_ledger(torn) as ledger:
            assert ledger.size in (PREPARED, PREPARED + 1)
            ledger.append([entry(ledger.size)])
            assert ledger.checkpoint.checkpoint.size == ledger.size
    return f"{len(cuts)} lengths: each opened at the last whole transaction and went on"


def lying_disk(folder: Path) -> str:
    """The disk lost a transaction that it had said was safe, and whose head was signed."""
    shutil.copy(folder / "ledger.sqlite", folder / "before.sqlite")
    with open_ledger(folder) as ledger:
        ledger.append([entry(PREPARED)])
        _sign(ledger)
    return _old_store_is_refused(folder)


def restored_backup(folder: Path) -> str:
    """Last week's backup is put in the place of the store."""
    shutil.copy(folder / "ledger.sqlite", folder / "before.sqlite")
    with open_ledger(folder) as ledger:
        for _ in range(3):
            ledger.append([entry(ledger.size)])
            _sign(ledger)
    return _old_store_is_refused(folder)


def restored_backup_without_second_place(folder: Path) -> str:
    """The same, by an operator without a second place: the published folder and the witness notice."""
    shutil.copy(folder / "ledger.sqlite", folder / "before.sqlite")
    with open_ledger(folder) as ledger, open_witness(folder, ledger) as witness:
        ledger.append([entry(PREPARED)])
        witness.cosign(request_cosignature(ledger, PREPARED), time=2_000)
        publish(ledger, folder / "published")
    shutil.copy(folder / "before.sqlite", folder / "ledger.sqlite")
    with Ledger.open(folder / "ledger.sqlite", KEY) as ledger, open_witness(folder, ledger) as witness:
        ledger.append([b"another entry"])
        _refused(VerificationError, lambda: publish(ledger, folder / "published"))
        seen = witness.last(ORIGIN)
        assert seen is not None
        request = request_cosignature(ledger, seen.checkpoint.size)
        _refused(VerificationError, lambda: witness.cosign(request, time=3_000))
    return "publishing refused; the witness did not cosign the fork"


def clock_set_back(folder: Path) -> str:
    """The witness's clock jumps back by a day."""
    with open_ledger(folder) as ledger, open_witness(folder, ledger) as witness:
        ledger.append([entry(PREPARED)])
        request = request_cosignature(ledger, PREPARED)
        _refused(UnavailableError, lambda: witness.cosign(request, time=999))
        witness.cosign(request, time=1_000)
    return "no cosignature was dated back; the ledger itself holds no clock"


def two_operators(folder: Path) -> str:
    """A second operator opens the same store, then a copy of it that shares the second place."""
    with open_ledger(folder) as first:
        _refused(UnavailableError, lambda: open_ledger(folder))
        shutil.copy(folder / "ledger.sqlite", folder / "copy.sqlite")
        with Ledger.open(folder / "copy.sqlite", KEY, guard=folder / "second" / "head") as second:
            first.append([b"the first operator's entry"])
            _sign(first)
            _refused(VerificationError, lambda: second.append([b"the second operator's entry"]))
    return "the second could not open the store; its copy was refused before it appended"


def witness_down(folder: Path) -> str:
    """One of four witnesses is away, then two, with a quorum that tolerates one liar."""
    witnesses = [
        Ed25519Cosigner(f"owner.example/{k}", PrivateKey.from_seed(bytes([9 + k]) * 32)) for k in range(4)
    ]
    with open_ledger(folder) as ledger:
        policy = flat_policy(ledger.verifier, [witness.verifier for witness in witnesses], faulty=1)
        head = ledger.checkpoint.checkpoint
        lines: list[NoteSignature] = [witness.cosign(head, 2_000) for witness in witnesses]
        note = ledger.checkpoint.note
        assert len(policy.check(SignedCheckpoint(head, note.with_signatures(*lines[:3]))).times) == 3
        two = SignedCheckpoint(head, note.with_signatures(*lines[:2]))
        _refused(VerificationError, lambda: policy.check(two))
    return "three of four made the quorum, two did not"


def _sign(ledger: Ledger) -> None:
    assert ledger.checkpoint.checkpoint.size == ledger.size


def _old_store_is_refused(folder: Path) -> str:
    for name in ("ledger.sqlite-wal", "ledger.sqlite-shm"):
        (folder / name).unlink(missing_ok=True)
    shutil.copy(folder / "before.sqlite", folder / "ledger.sqlite")
    _refused(VerificationError, lambda: open_ledger(folder))
    return "refused at the door by the second place; nothing was signed"


def _refused(kind: type[PatronageError], act: Callable[[], object]) -> None:
    try:
        act()
    except kind:
        return
    raise AssertionError(f"expected {kind.__name__}")


SCENARIOS: tuple[Callable[[Path], str], ...] = (
    torn_tail,
    lying_disk,
    restored_backup,
    restored_backup_without_second_place,
    clock_set_back,
    two_operators,
    witness_down,
)
