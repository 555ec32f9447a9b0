"""Commands over ledgers: fsck, prove-equivocation, check-equivocation."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from patronage_protocol.console import JsonFlag, print_json
from patronage_protocol.errors import UsageError

if TYPE_CHECKING:
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
    larger = max(heads, key=lambda head: head[0].checkpoint.size)
    write_atomic(out, prove(heads[0][0], heads[1][0], _vkey(log), node=larger[1]).encode())
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


def _head(path: Path) -> "tuple[SignedCheckpoint, NodeSource | None]":
    from patronage_protocol.files import read_bytes
    from patronage_protocol.ledger.checkpoints import SignedCheckpoint
    from patronage_protocol.ledger.merkle import leaf_hash
    from patronage_protocol.ledger.notes import MAX_NOTE_BYTES
    from patronage_protocol.ledger.published import read_published
    from patronage_protocol.ledger.stored_tree import nodes_of_leaves

    if path.is_dir():
        read = read_published(path)
        return read.signed, nodes_of_leaves([leaf_hash(entry) for entry in read.entries])
    return SignedCheckpoint.parse(read_bytes(path, limit=MAX_NOTE_BYTES)), None
