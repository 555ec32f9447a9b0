"""The process that is hurt: does one thing to a prepared folder, and tells what it was acknowledged.

    python -m patronage_simulations.faults.worker

reads requests, one JSON array [operation, folder, file for acknowledgements, file for errors] a line. For
each it forks a child that stops before its first step, so that strace can take hold of it, and prints its
number; when the child has ended, an empty line. A start of the interpreter would cost more than the case.

Every acknowledgement is one line of JSON, written only when the call has returned.
"""

import json
import os
import signal
import sys
import traceback
from pathlib import Path

from patronage_protocol.errors import PatronageError
from patronage_protocol.keys import PrivateKey
from patronage_protocol.ledger.cosignatures import Ed25519Cosigner
from patronage_protocol.ledger.publish import publish
from patronage_protocol.ledger.store import Ledger
from patronage_protocol.ledger.witness import Witness, request_cosignature

__all__ = ["COSIGNER", "KEY", "ORIGIN", "PREPARED", "entry", "open_ledger", "open_witness"]

ORIGIN = "consortium.example/rounds"
KEY = PrivateKey.from_seed(b"\x01" * 32)
COSIGNER = Ed25519Cosigner("owner.example/one", PrivateKey.from_seed(b"\x02" * 32))
PREPARED = 254
"""Entries in the prepared ledger: two fewer than a tile, so that what follows fills it."""


def entry(number: int) -> bytes:
    """The entry that the plan has at this place."""
    return f"entry {number} ".encode() * 8


def open_ledger(folder: Path) -> Ledger:
    """The ledger of a prepared folder, with its second place."""
    return Ledger.open(folder / "ledger.sqlite", KEY, guard=folder / "second" / "head")


def open_witness(folder: Path, ledger: Ledger) -> Witness:
    """The witness of a prepared folder."""
    return Witness.open(folder / "witness.sqlite", COSIGNER, [ledger.verifier])


def _append(folder: Path) -> None:
    with open_ledger(folder) as ledger:
        for _ in range(2):
            head = ledger.append([entry(ledger.size), entry(ledger.size + 1)])
            _acknowledge(size=head.size)
            _acknowledge(note=ledger.checkpoint.encode().decode())


def _publish(folder: Path) -> None:
    with open_ledger(folder) as ledger:
        ledger.append([entry(ledger.size + k) for k in range(3)])
        ledger.put_blob(b"a blob of this publication")
        _acknowledge(size=ledger.size)
        publish(ledger, folder / "published")
        _acknowledge(published=ledger.size)


def _cosign(folder: Path) -> None:
    with open_ledger(folder) as ledger, open_witness(folder, ledger) as witness:
        for time in (2_000, 3_000):
            seen = witness.last(ORIGIN)
            request = request_cosignature(ledger, seen.checkpoint.size if seen else 0)
            line = witness.cosign(request, time=time)
            ledger.add_cosignatures(request.signed.checkpoint.size, [line])
            _acknowledge(cosigned=request.signed.note.with_signatures(line).encode().decode())
            ledger.append([entry(ledger.size)])
            _acknowledge(size=ledger.size)


def _acknowledge(**what: int | str) -> None:
    os.write(1, json.dumps(what).encode() + b"\n")


def _hurt(operation: str, folder: Path, out: str, err: str) -> int:
    """In the child: 0 when all went well, 3 when an error of the project's own tree ended it."""
    for descriptor, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    os.kill(os.getpid(), signal.SIGSTOP)
    try:
        {"append": _append, "publish": _publish, "cosign": _cosign}[operation](folder)
    except (PatronageError, OSError) as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise  # a storage error must come as one of ours; the file of acknowledgements has no name
        os.write(2, f"{error}\n".encode())
        return 3
    return 0


def main() -> None:
    """Serve requests until standard input ends."""
    for line in sys.stdin:
        operation, folder, out, err = json.loads(line)
        child = os.fork()
        if child == 0:
            try:
                os._exit(_hurt(operation, Path(folder), out, err))
            except BaseException:  # noqa: BLE001 - told to the judge, whatever it is
                os.write(2, traceback.format_exc().encode())
                os._exit(1)
        os.waitpid(child, os.WUNTRACED)
        print(child, flush=True)  # noqa: T201
        os.waitpid(child, 0)
        print(flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
