"""Change every byte and every line of what is published, one at a time, and count what is noticed.

    python -m patronage_simulations.mutations [--ledger FOLDER]

A small ledger is published with the cosignatures of four owners and a policy that asks for three; its
receipt and an equivocation proof are checked too. Every change must be refused, or be on the list of those
that cannot matter, with the reason: a signature line of a key that nobody asked about proves nothing and
hides nothing. With `--ledger`, a copy of a published ledger of whole rounds is changed instead, and the judge
is `patronage verify`.
"""

import argparse
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from patronage_protocol.errors import PatronageError
from patronage_protocol.keys import PrivateKey
from patronage_protocol.ledger.checkpoints import Checkpoint
from patronage_protocol.ledger.cosignatures import Ed25519Cosigner
from patronage_protocol.ledger.equivocation import EquivocationProof, prove_equivocation
from patronage_protocol.ledger.publish import publish
from patronage_protocol.ledger.published import read_published
from patronage_protocol.ledger.receipts import Receipt, make_receipt
from patronage_protocol.ledger.store import Ledger
from patronage_protocol.ledger.trust import TrustPolicy, flat_policy
from patronage_protocol.verify import verify_ledger

__all__ = ["Tally", "main", "mutate_all", "mutate_ledger"]

ORIGIN = "consortium.example/rounds"
FLIPS = (0x01, 0x20, 0x80)
KEY = PrivateKey.from_seed(b"\x01" * 32)
OWNERS = [Ed25519Cosigner(f"owner.example/{k}", PrivateKey.from_seed(bytes([k]) * 32)) for k in range(2, 6)]

Check = Callable[[bytes], Checkpoint]
"""Verify a file that holds these bytes, and return the head that was relied on."""


@dataclass
class Tally:
    """How many changes of each kind there were, and which of them went through."""

    tried: Counter[str] = field(default_factory=Counter)
    inert: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def mutate_all(folder: Path, entries: int) -> dict[str, Tally]:
    """Publish in `folder`, change everything there once, and tally by file."""
    with Ledger.create(folder / "ledger.sqlite", ORIGIN, KEY) as ledger:
        ledger.append([f"entry {number}".encode() for number in range(entries)])
        ledger.put_blob(bytes(range(256)))
        head = ledger.checkpoint.checkpoint
        ledger.add_cosignatures(head.size, [owner.cosign(head, 1_700_000_000) for owner in OWNERS])
        publish(ledger, folder / "published")
        policy = flat_policy(ledger.verifier, [owner.verifier for owner in OWNERS], faulty=1)
        fork = Checkpoint(head.origin, head.size - 1, bytes(32)).sign(KEY)
        proof = prove_equivocation(fork, ledger.checkpoint, ledger.verifier, node=ledger.node).encode()
        receipt = make_receipt(ledger, 1).encode()
        verifier = ledger.verifier
    published = folder / "published"
    tallies = {
        path.relative_to(published).as_posix(): _mutate(
            path.read_bytes(), _in_place(path, lambda: _witnessed(published, policy)), head
        )
        for path in sorted(published.rglob("*"))
        if path.is_file()
    }
    tallies["a receipt (.tlog-proof)"] = _mutate(receipt, lambda data: _receipt(data, policy), head)
    tallies["an equivocation proof"] = _mutate(
        proof, lambda data: EquivocationProof.decode(data).verify(verifier)[1].checkpoint, head
    )
    return tallies


def mutate_ledger(ledger: Path, scratch: Path) -> dict[str, Tally]:
    """Change everything in a copy of a published ledger of whole rounds once, and tally by file."""
    copy = shutil.copytree(ledger, scratch / "ledger")
    head = verify_ledger(copy).ledger.signed.checkpoint

    def judge() -> Checkpoint:
        return verify_ledger(copy).ledger.signed.checkpoint

    paths = [path for path in sorted(copy.rglob("*")) if path.is_file()]
    return {
        path.relative_to(copy).as_posix(): _mutate(path.read_bytes(), _in_place(path, judge), head)
        for path in tqdm(paths, unit="file", disable=None)
    }


def _in_place(path: Path, judge: Callable[[], Checkpoint]) -> Check:
    def check(data: bytes) -> Checkpoint:
        good = path.read_bytes()
        path.write_bytes(data)
        try:
            return judge()
        finally:
            path.write_bytes(good)

    return check


def _witnessed(published: Path, policy: TrustPolicy) -> Checkpoint:
    read = read_published(published)
    policy.check(read.signed)
    return read.signed.checkpoint


def _receipt(data: bytes, policy: TrustPolicy) -> Checkpoint:
    receipt = Receipt.parse(data)
    receipt.verify(policy)
    return receipt.signed.checkpoint


def _mutate(good: bytes, check: Check, head: Checkpoint) -> Tally:
    tally = Tally()
    assert check(good) == head
    for kind, what, data in _changes(good):
        tally.tried[kind] += 1
        try:
            relied_on = check(data)
        except PatronageError:
            continue
        lines = _signature_lines(good)
        if (
            relied_on == head
            and lines
            and _signature_lines(data) != lines
            and _text(data, head.origin) == _text(good, head.origin)
        ):
            tally.inert.append(f"{kind}: {what}")
        else:
            tally.wrong.append(f"{kind}: {what}")
    return tally


def _changes(good: bytes) -> Iterator[tuple[str, str, bytes]]:
    for place, byte in enumerate(good):
        for flip in FLIPS:
            yield (
                "bytes flipped",
                f"byte {place} ^ {flip:#x}",
                good[:place] + bytes([byte ^ flip]) + good[place + 1 :],
            )
        yield "bytes dropped", f"byte {place}", good[:place] + good[place + 1 :]
        yield "bytes doubled", f"byte {place}", good[: place + 1] + good[place:]
    lines = good.splitlines(keepends=True)
    for number in range(len(lines)):
        before, line, after = lines[:number], lines[number], lines[number + 1 :]
        for kind, changed in (
            ("lines dropped", [*before, *after]),
            ("lines doubled", [*before, line, line, *after]),
            ("lines swapped", [*before, *after[:1], line, *after[1:]]),
        ):
            data = b"".join(changed)
            if data != good:
                yield kind, f"line {number}", data


def _signature_lines(data: bytes) -> list[bytes]:
    return [line for line in data.split(b"\n") if line.startswith("\u2014 ".encode())]


def _text(data: bytes, origin: str) -> list[bytes]:
    """Every line but those of cosigners."""
    own = f"\u2014 {origin} ".encode()
    lines = data.split(b"\n")
    return sorted(line for line in lines if line.startswith(own) or line not in _signature_lines(data))


def main(arguments: list[str] | None = None) -> int:
    """Print the table; 0 if nothing went through that could matter."""
    parser = argparse.ArgumentParser(description="Change every byte and line of a published ledger.")
    parser.add_argument(
        "--ledger", type=Path, help="a published ledger of whole rounds (default: a small one)"
    )
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        if options.ledger:
            tallies = mutate_ledger(options.ledger, Path(folder))
        else:
            tallies = mutate_all(Path(folder), entries=5)
    kinds = (
        "bytes flipped",
        "bytes dropped",
        "bytes doubled",
        "lines dropped",
        "lines doubled",
        "lines swapped",
    )
    print(f"{'file':<40}", *(f"{kind:>13}" for kind in kinds), f"{'inert':>6} {'WRONG':>6}")  # noqa: T201
    for name, tally in tallies.items():
        counts = (f"{tally.tried[kind]:>13}" for kind in kinds)
        shown = name if len(name) <= 40 else f"{name[:37]}..."
        print(f"{shown:<40}", *counts, f"{len(tally.inert):>6} {len(tally.wrong):>6}")  # noqa: T201
    wrong = [f"{name}: {what}" for name, tally in tallies.items() for what in tally.wrong]
    print("inert: changes of cosignature lines beyond the quorum, which the rest still makes up")  # noqa: T201
    for line in wrong:
        print(f"WRONG {line}", file=sys.stderr)  # noqa: T201
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
