"""One case: a prepared folder, a worker that is hurt at one system call, a judgement over what is left.

Judged are the promises of the ledger: nothing that was acknowledged is lost; no head was given out that the
ledger does not continue; the next start recovers by itself, and goes on appending, publishing and being
cosigned.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from patronage_protocol.errors import PatronageError
from patronage_protocol.ledger.checkpoints import SignedCheckpoint
from patronage_protocol.ledger.fsck import fsck
from patronage_protocol.ledger.publish import publish
from patronage_protocol.ledger.published import read_published
from patronage_protocol.ledger.store import Ledger
from patronage_protocol.ledger.witness import Witness, request_cosignature
from patronage_simulations.faults import worker
from patronage_simulations.faults.worker import COSIGNER, KEY, ORIGIN, PREPARED, entry

__all__ = ["CALLS", "FAULTS", "OPERATIONS", "Lab", "Outcome", "judge", "prepare"]

OPERATIONS = ("append", "publish", "cosign")
CALLS = ("write", "pwrite64", "fsync", "fdatasync", "rename", "openat", "close")
FAULTS = ("error=EIO", "error=ENOSPC", "signal=SIGKILL")

_CALL = re.compile(r"^(?:\[pid +\d+\] |\d+ +)?(\w+)\(")


@dataclass(frozen=True)
class Outcome:
    """What came of one case; every flag but `acknowledged` should be False."""

    acknowledged: int
    lost: bool = False
    forked: bool = False
    stuck: bool = False
    unclear: bool = False
    detail: str = ""


def prepare(folder: Path) -> None:
    """A ledger with a second place, a published folder, and a witness that has cosigned."""
    (folder / "second").mkdir(parents=True)
    path, guard = folder / "ledger.sqlite", folder / "second" / "head"
    with Ledger.create(path, ORIGIN, KEY, guard=guard) as ledger:
        ledger.append([entry(number) for number in range(PREPARED)])
        publish(ledger, folder / "published")
        with Witness.create(folder / "witness.sqlite", COSIGNER, [ledger.verifier]) as witness:
            witness.cosign(request_cosignature(ledger, 0), time=1_000)


class Lab:
    """Where cases are run: a worker that waits for them, and a scratch folder. Use it as a context manager.

    Args:
        prepared: the folder to begin each case with; it is copied.
        scratch: where to work.
    """

    def __init__(self, prepared: Path, scratch: Path) -> None:
        self._prepared, self._folder, self._log = prepared, scratch / "folder", scratch / "strace.log"
        self._out, self._err = scratch / "out", scratch / "err"
        command = [sys.executable, "-m", worker.__name__]
        self._worker = subprocess.Popen(  # noqa: S603 - the command is ours
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._worker.communicate()

    def instances(self, operation: str) -> dict[str, range]:
        """For every system call, the numbers of its instances in an operation that is left in peace."""
        self._run(operation, f"trace={','.join(CALLS)}")
        lines = self._log.read_text(errors="replace").splitlines()
        total = Counter(match[1] for line in lines if (match := _CALL.match(line)))
        return {call: range(1, total[call] + 1) for call in CALLS}

    def run_case(self, operation: str, call: str, inject: str) -> Outcome:
        """Hurt one instance of one system call, then judge.

        Args:
            operation: what the worker does.
            call: the system call.
            inject: fault and instance in strace's words, such as "error=EIO:when=7".
        """
        self._run(operation, f"trace={call}", f"inject={call}:{inject}")
        told, errors = self._out.read_text(), self._err.read_text()
        return judge(self._folder, told, crashed="Traceback" in errors, detail=errors.strip()[-300:])

    def _run(self, operation: str, *expressions: str) -> None:
        """One child of the worker, from its first step under strace."""
        shutil.rmtree(self._folder, ignore_errors=True)
        shutil.copytree(self._prepared, self._folder)
        child = int(self._ask([operation, *map(str, (self._folder, self._out, self._err))]))
        options = [word for text in expressions for word in ("-e", text)]
        with subprocess.Popen(  # noqa: S603 - the command is ours
            ["strace", "-f", "-o", str(self._log), *options, "-p", str(child)],  # noqa: S607
            stderr=subprocess.PIPE,
            text=True,
        ) as strace:
            assert strace.stderr is not None
            attached = strace.stderr.readline()
            os.kill(child, signal.SIGCONT)
            assert "attached" in attached, attached
            strace.communicate(timeout=60)
        assert self._worker.stdout is not None
        self._worker.stdout.readline()

    def _ask(self, request: list[str]) -> str:
        assert self._worker.stdin is not None
        assert self._worker.stdout is not None
        self._worker.stdin.write(json.dumps(request) + "\n")
        self._worker.stdin.flush()
        return self._worker.stdout.readline()


def judge(folder: Path, acknowledgements: str, *, crashed: bool = False, detail: str = "") -> Outcome:
    """Open everything again as after a restart, and hold it against what was acknowledged and given out."""
    told = [json.loads(line) for line in acknowledgements.splitlines() if line.endswith("}")]
    given_out = [
        SignedCheckpoint.parse(str(text).encode())
        for line in told
        for text in (line.get("note"), line.get("cosigned"))
        if text
    ]
    given_out += [
        SignedCheckpoint.parse((folder / name).read_bytes())
        for name in ("second/head", "published/checkpoint")
    ]
    sizes = [PREPARED, *(line["size"] for line in told if "size" in line)]
    try:
        with worker.open_ledger(folder) as ledger:
            lost = ledger.size < max(sizes) or list(ledger.entries()) != [
                entry(k) for k in range(ledger.size)
            ]
            forked = any(not _continues(ledger, signed) for signed in given_out)
            forked = forked or _forgot(folder, ledger, given_out)
            _go_on(folder, ledger)
        report = fsck(folder / "ledger.sqlite")
    except PatronageError as error:
        return Outcome(len(told), stuck=True, unclear=crashed, detail=str(error))
    stuck = bool(report.problems)
    return Outcome(len(told), lost, forked, stuck, crashed, detail)


def _continues(ledger: Ledger, signed: SignedCheckpoint) -> bool:
    head = signed.checkpoint
    return head.size <= ledger.size and ledger.root_at(head.size) == head.root


def _forgot(folder: Path, ledger: Ledger, given_out: list[SignedCheckpoint]) -> bool:
    """Whether the witness no longer knows a head that it cosigned."""
    with worker.open_witness(folder, ledger) as witness:
        seen = witness.last(ORIGIN)
    cosigned = [s.checkpoint.size for s in given_out if s.note.signature_by(COSIGNER.verifier) is not None]
    return seen is None or seen.checkpoint.size < max(cosigned, default=0)


def _go_on(folder: Path, ledger: Ledger) -> None:
    ledger.append([entry(ledger.size)])
    with worker.open_witness(folder, ledger) as witness:
        seen = witness.last(ORIGIN)
        line = witness.cosign(request_cosignature(ledger, seen.checkpoint.size if seen else 0), time=9_000)
    ledger.add_cosignatures(ledger.size, [line])
    publish(ledger, folder / "published")
    read = read_published(folder / "published")
    read.authenticate(ledger.verifier)
