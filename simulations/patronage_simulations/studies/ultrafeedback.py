"""UltraFeedback as a consortium: one owner for each source of its prompts, and held-out prompts of all.

    python -m patronage_simulations.studies.ultrafeedback --out ultrafeedback/
    patronage simulate --owners ultrafeedback/owners --heldout ultrafeedback/heldout.jsonl --terms paper ...

Reads `allenai/ultrafeedback_binarized_cleaned` (split train_prefs), or another data set with the columns of
TRL's preference format and `source`, from the local cache of `datasets`; `hf download --repo-type dataset`
puts it there. Held-out are the prompts whose SHA-256 comes first, as many of every source; no owner has them.
Cui et al. 2023, arXiv 2310.01377.
"""

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path

from patronage_protocol.errors import DataError
from patronage_protocol.files import whole_folder
from patronage_protocol.pair_files import write_pairs
from patronage_protocol.preferences import PreferencePair, pair_from_row

__all__ = ["SOURCES", "main", "split", "write"]

DATASET, SPLIT = "allenai/ultrafeedback_binarized_cleaned", "train_prefs"
SOURCES = ("evol_instruct", "flan", "sharegpt", "ultrachat")
"""What the names of the four largest sources begin with: flan_v2_cot and its like are one."""

Pairs = tuple[PreferencePair, ...]


def split(
    rows: Iterable[Mapping[str, object]], *, sources: Sequence[str], held_out: int
) -> tuple[dict[str, Pairs], Pairs]:
    """Owners' pairs by source, and held-out pairs of `held_out` prompts, in equal parts of every source.

    Rows that are no usable pair are left out; so are other sources.

    Raises:
        DataError: a source has not more prompts than are to be held out.
    """
    found: dict[str, list[PreferencePair]] = {source: [] for source in sources}
    for row in rows:
        source = next((name for name in sources if str(row.get("source", "")).startswith(name)), None)
        if source is None:
            continue
        try:
            pair = pair_from_row(row)
        except DataError:
            continue
        found[source].append(pair.model_copy(update={"source": source}))
    owners: dict[str, Pairs] = {}
    scored: list[PreferencePair] = []
    for number, (source, pairs) in enumerate(found.items()):
        count = held_out // len(sources) + (number < held_out % len(sources))
        prompts = sorted({pair.prompt_digest for pair in pairs})
        if len(prompts) <= count:
            raise DataError(
                f"more than {count} prompts of the source {source}",
                got=str(len(prompts)),
                do="hold out fewer, or name other sources",
            )
        kept = set(prompts[:count])
        owners[source] = tuple(pair for pair in pairs if pair.prompt_digest not in kept)
        # One pair a prompt: the intervals would cluster more anyway.
        first = {pair.prompt_digest: pair for pair in reversed(pairs) if pair.prompt_digest in kept}
        scored.extend(first[digest] for digest in sorted(first))
    taken = {pair.prompt_digest for pair in scored}
    without = {
        source: tuple(pair for pair in pairs if pair.prompt_digest not in taken)
        for source, pairs in owners.items()
    }
    return without, tuple(scored)


def write(owners: Mapping[str, Pairs], held_out: Pairs, out: Path) -> None:
    """Write `out/owners/SOURCE.jsonl` and `out/heldout.jsonl`.

    Raises:
        UsageError: `out` is there already, with something in it.
    """
    with whole_folder(out) as folder:
        (folder / "owners").mkdir()
        for source, pairs in owners.items():
            write_pairs(folder / "owners" / f"{source}.jsonl", pairs)
        write_pairs(folder / "heldout.jsonl", held_out)


def main(arguments: list[str] | None = None) -> None:
    """Split the data set of the local cache and say how many pairs each owner has."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", maxsplit=1)[0])
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--dataset", default=DATASET)
    parser.add_argument("--split", default=SPLIT)
    parser.add_argument("--sources", nargs="+", default=SOURCES, help="what the names of sources begin with")
    parser.add_argument("--held-out", type=int, default=128, help="prompts")
    options = parser.parse_args(arguments)
    from datasets import load_dataset  # type: ignore[import-untyped]  # noqa: PLC0415 - seconds

    rows = load_dataset(options.dataset, split=options.split)
    owners, held_out = split(rows, sources=options.sources, held_out=options.held_out)
    write(owners, held_out, options.out)
    counts = chain(((name, len(pairs)) for name, pairs in owners.items()), [("held out", len(held_out))])
    for name, count in counts:
        sys.stdout.write(f"{name:15} {count:6} pairs\n")


if __name__ == "__main__":
    main()
