"""The process that is hurt: does one thing to a prepared folder, and tells what it was acknowledged.

    python -m patronage_simulations.faults.worker append|publish|cosign FOLDER

Every acknowledgement is one line of JSON on standard output, written only when the call has returned. The
file named MARKER, which does not exist, is looked for when the interesting part begins: that is how strace
tells it from the start of the interpreter.
"""

import json
import os
import sys
from pathlib import Path

from patronage_protocol.errors import PatronageError
from patronage_protocol.keys import PrivateKey
from patronage_protocol.ledger.cosignatures import Ed25519Cosigner
from patronage_protocol.ledger.publish import publish
from patronage_protocol.ledger.store import Ledger
from patronage_protocol.ledger.witness import Witness, request_cosignature

__all__ = ["COSIGNER", "KEY", "MARKER", "ORIGIN", "PREPARED", "entry", "open_ledger", "open_witness"]

ORIGIN = "consortium.example/rounds"
KEY = PrivateKey.from_seed(b"\x01" * 32)
COSIGNER = Ed25519Cosigner("owner.example/one", PrivateKey.from_seed(b"\x02" * 32))
MARKER = "/patronage-faults-begin-here"
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


def main() -> int:
    """Do it; 0 when all went well, 3 when an error of the project's own tree ended it."""
    operation, folder = sys.argv[1:]
    Path(MARKER).exists()
    try:
        {"append": _append, "publish": _publish, "cosign": _cosign}[operation](Path(folder))
    except (PatronageError, OSError) as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise  # a storage error must come as one of ours; the pipe for acknowledgements has no name
        os.write(2, f"{error}\n".encode())
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
