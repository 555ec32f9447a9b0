"""Commands over ledgers: fsck, prove-equivocation, check-equivocation."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from patronage_protocol.console import JsonFlag, print_json
from patronage_protocol.errors import UsageError

if TYPE_CHECKING:
    from patronage_protocol.envelopes import Envelope
    from patronage_protocol.ledger.checkpoints import SignedCheckpoint
    from patronage_protocol.ledger.merkle import NodeSource
    from patronage_protocol.ledger.notes import VerifierKey

__all__ = ["register"]

UNSOUND = 1

Log = Annotated[Path, typer.Option(help="A file with the log's vkey.")]
Head = Annotated[Path, typer.Argument(help="A signed checkpoint, or a published folder.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the root application."""
    app.command()(fsck)
    app.command()(prove_equivocation)
    app.command()(check_equivocation)


def fsck(
    store: Annotated[Path, typer.Argument(help="The operator's ledger.sqlite.")], as_json: JsonFlag = False
) -> None:
    """Read the operator's own store from end to end; nothing is changed.

    Example: patronage fsck operator/ledger.sqlite
    """
    from patronage_protocol.ledger.fsck import fsck as check

    report = check(store)
    if as_json:
        counts = {"entries": report.entries, "heads": report.heads, "signed_heads": report.signed_heads}
        print_json(
            {"sound": not report.problems, **counts, "blobs": report.blobs, "problems": report.problems}
        )
    else:
        for problem in report.problems:
            typer.echo(problem)
        typer.echo(
            f"{report.entries} entries, {report.heads} heads, {report.signed_heads} of them signed, "
            f"{report.blobs} blobs: {'sound' if not report.problems else 'NOT SOUND'}"
        )
    if report.problems:
        raise typer.Exit(UNSOUND)


def prove_equivocation(
    one: Head,
    other: Head,
    log: Log,
    out: Annotated[Path, typer.Option(help="Where to write the proof.")],
) -> None:
    """Turn two heads that a log signed, and that cannot both be true, into one portable file.

    For heads of different sizes, name the published folder behind the larger one.

    Example: patronage prove-equivocation mine/checkpoint theirs/ --log operator.vkey --out fork.proof
    """
    from patronage_protocol.files import write_atomic
    from patronage_protocol.ledger.equivocation import prove_equivocation as prove

    heads = [_head(path) for path in (one, other)]
    larger = max(heads, key=lambda head: head.signed.checkpoint.size)
    key = _vkey(log)
    rotations = _rotations_from(larger.entries, key)
    proof = prove(heads[0].signed, heads[1].signed, key, node=larger.node, rotations=rotations)
    write_atomic(out, proof.encode())
    typer.echo(f"{out}: check it with: patronage check-equivocation {out} --log {log}", err=True)


def check_equivocation(
    proof: Annotated[Path, typer.Argument(help="A file by prove-equivocation.")], log: Log
) -> None:
    """Check that a file proves that a log forked.

    Example: patronage check-equivocation fork.proof --log operator.vkey
    """
    from patronage_protocol.files import read_bytes
    from patronage_protocol.ledger.equivocation import EquivocationProof

    smaller, larger = EquivocationProof.decode(read_bytes(proof, limit=1 << 20)).verify(_vkey(log))
    typer.echo(
        f"PROVEN: {larger.checkpoint.origin} signed heads of {smaller.checkpoint.size} and "
        f"{larger.checkpoint.size} entries of which none continues the other"
    )


def _vkey(path: Path) -> "VerifierKey":
    from patronage_protocol.ledger.trust import read_trust

    logs = read_trust(path).logs
    if len(logs) != 1:
        raise UsageError("one log", got=f"{len(logs)}", do="name a file with the log's vkey", where=str(path))
    return logs[0]


@dataclass(frozen=True)
class _Head:
    """A signed checkpoint, and what lies beside it in a published folder."""

    signed: "SignedCheckpoint"
    entries: tuple[bytes, ...] = ()
    node: "NodeSource | None" = None


def _head(path: Path) -> _Head:
    from patronage_protocol.files import read_bytes
    from patronage_protocol.ledger.checkpoints import SignedCheckpoint
    from patronage_protocol.ledger.merkle import leaf_hash
    from patronage_protocol.ledger.notes import MAX_NOTE_BYTES
    from patronage_protocol.ledger.published import read_published
    from patronage_protocol.ledger.stored_tree import nodes_of_leaves

    if path.is_dir():
        read = read_published(path)
        return _Head(read.signed, read.entries, nodes_of_leaves([leaf_hash(entry) for entry in read.entries]))
    return _Head(SignedCheckpoint.parse(read_bytes(path, limit=MAX_NOTE_BYTES)))


def _rotations_from(entries: "tuple[bytes, ...]", key: "VerifierKey") -> "list[Envelope]":
    """The log's rotations among the entries of a round's ledger, from this key on; others hold none."""
    from patronage_protocol.entries import KeyRotated, decode_entry
    from patronage_protocol.errors import FormatError
    from patronage_protocol.ledger.rotation import Rotation, read_change
    from patronage_protocol.strict import base64_text

    found, current = [], base64_text(key.material)
    for data in entries:
        try:
            entry = decode_entry(data)
        except FormatError:
            continue
        if not isinstance(entry, KeyRotated):
            continue
        change = read_change(entry.statement)
        if isinstance(change, Rotation) and (change.origin, change.old) == (key.name, current):
            found.append(entry.statement)
            current = change.new
    return found
