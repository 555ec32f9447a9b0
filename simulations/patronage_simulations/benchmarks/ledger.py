"""How fast the ledger appends, proves and is verified, against floors measured in the same run.

    python -m patronage_simulations.benchmarks.ledger [--entries 1000000] [--folder DIR]

append   one durable transaction, against the same rows in a bare SQLite table (WAL, synchronous=FULL), turn
         by turn
sign     a checkpoint after an append, without and with a second place
verify   `read_published` from cold objects, against hashing the same files once
prove    random proofs in a tree of a million entries, each checked after the clock has stopped; Python's
         garbage collector waits meanwhile, as it does under `timeit`
"""

import argparse
import gc
import hashlib
import os
import random
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from patronage_protocol.keys import PrivateKey
from patronage_protocol.ledger import merkle
from patronage_protocol.ledger.publish import publish
from patronage_protocol.ledger.published import read_published
from patronage_protocol.ledger.store import Ledger

__all__ = ["main"]

KEY = PrivateKey.from_seed(b"\x01" * 32)
ORIGIN = "consortium.example/rounds"
ROW_BYTES = 1024


def append(folder: Path, batch: int, rounds: int = 300) -> str:
    """Time an append of `batch` entries and the same rows in a bare table, alternating."""
    rows = [os.urandom(ROW_BYTES) for _ in range(batch)]
    bare = sqlite3.connect(folder / f"bare-{batch}.sqlite", isolation_level=None)
    bare.execute("PRAGMA journal_mode=WAL")
    bare.execute("PRAGMA synchronous=FULL")
    bare.execute("CREATE TABLE entries (number INTEGER PRIMARY KEY, data BLOB NOT NULL) STRICT")
    floor: list[float] = []
    ours: list[float] = []
    with Ledger.create(folder / f"ledger-{batch}.sqlite", ORIGIN, KEY) as ledger:
        for start in range(0, rounds * batch, batch):
            floor.append(_seconds(lambda start=start: _bare_append(bare, start, rows)))  # type: ignore[misc]
            ours.append(_seconds(lambda: ledger.append(rows)))
    bare.close()
    return (
        f"append {batch:>4} x {ROW_BYTES} B   floor {_us(floor)}   ledger {_us(ours)}   "
        f"ratio {statistics.mean(floor) / statistics.mean(ours):.2f} (mean) "
        f"{statistics.median(floor) / statistics.median(ours):.2f} (median)"
    )


def sign(folder: Path, guard: Path | None, rounds: int = 200) -> str:
    """Time the checkpoint after an append."""
    times: list[float] = []
    name = "with" if guard else "without"
    with Ledger.create(folder / f"sign-{name}.sqlite", ORIGIN, KEY, guard=guard) as ledger:
        for _ in range(rounds):
            ledger.append([bytes(ROW_BYTES)])
            times.append(_seconds(lambda: ledger.checkpoint))
    return f"sign, {name} a second place   {_us(times)}"


def verify(folder: Path, sizes: tuple[int, ...]) -> Iterator[str]:
    """Time `read_published` for growing ledgers."""
    for size in sizes:
        out = folder / f"published-{size}"
        with Ledger.create(folder / f"verify-{size}.sqlite", ORIGIN, KEY) as ledger:
            ledger.append([os.urandom(ROW_BYTES) for _ in range(size)])
            publish(ledger, out)
        floor = min(_cpu_seconds(_hash_files, out) for _ in range(3))
        ours = min(_cpu_seconds(read_published, out) for _ in range(3))
        yield (
            f"verify {size:>6} entries   {ours * 1e3:8.1f} ms   {size / ours:9,.0f} entries/s   "
            f"{ours / size * 1e6:6.2f} us/entry   ratio to hashing the files {floor / ours:.2f}"
        )


def prove(folder: Path, entries: int, proofs: int = 2000) -> Iterator[str]:
    """Time inclusion and consistency proofs in a tree of `entries` entries."""
    random.seed(0)
    step = 50_000
    with Ledger.create(folder / "large.sqlite", ORIGIN, KEY) as ledger:
        began = time.perf_counter()
        for start in range(0, entries, step):
            ledger.append([b"%d" % number for number in range(start, min(start + step, entries))])
        yield f"grow to {entries:,} entries   {time.perf_counter() - began:.1f} s"
    with Ledger.open(folder / "large.sqlite", KEY) as ledger, _without_collector():
        root = ledger.root
        for kind in ("inclusion", "consistency"):
            times: list[float] = []
            for _ in range(proofs):
                number = random.randrange(1, entries)  # noqa: S311 - no secret
                make = ledger.inclusion_proof if kind == "inclusion" else ledger.consistency_proof
                began = time.thread_time()
                proof = make(number)
                times.append(time.thread_time() - began)
                if kind == "inclusion":
                    leaf = merkle.leaf_hash(ledger.entry(number))
                    merkle.verify_inclusion(leaf, number, entries, proof, root)
                else:
                    merkle.verify_consistency(number, ledger.root_at(number), entries, root, proof)
            times.sort()
            yield (
                f"{kind} proofs in {entries:,}   median {times[proofs // 2] * 1e3:.3f} ms   "
                f"99% {times[proofs * 99 // 100] * 1e3:.3f} ms   worst {times[-1] * 1e3:.3f} ms"
            )


@contextmanager
def _without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _bare_append(bare: sqlite3.Connection, start: int, rows: list[bytes]) -> None:
    bare.execute("BEGIN IMMEDIATE")
    bare.executemany("INSERT INTO entries VALUES (?, ?)", enumerate(rows, start))
    bare.execute("COMMIT")


def _hash_files(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _seconds(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def _cpu_seconds(act: Callable[[Path], object], folder: Path) -> float:
    began = time.thread_time()
    act(folder)
    return time.thread_time() - began


def _us(times: list[float]) -> str:
    return f"{statistics.mean(times) * 1e6:7.0f} us mean {statistics.median(times) * 1e6:7.0f} us median"


def main(arguments: list[str] | None = None) -> int:
    """Print one line for every figure."""
    parser = argparse.ArgumentParser(description="Benchmark the ledger.")
    parser.add_argument("--entries", type=int, default=1_000_000, help="size of the tree for proofs")
    parser.add_argument(
        "--folder", type=Path, help="a folder on the disk to measure (default: the temporary one)"
    )
    options = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        for batch in (1, 4, 16, 64):
            _show(append(folder, batch))
        _show(sign(folder, None))
        _show(sign(folder, folder / "second-place"))
        for line in verify(folder, (1_000, 2_500, 5_000, 10_000, 20_000)):
            _show(line)
        for line in prove(folder, options.entries):
            _show(line)
    finally:
        shutil.rmtree(folder)
    return 0


def _show(line: str) -> None:
    print(line, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
