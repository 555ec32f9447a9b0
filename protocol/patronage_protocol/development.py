"""A round's public development pairs: a small set that everybody may measure on, named by its content.

The manifest has the SHA-256 of the pairs' canonical lines, so `sha256sum development.jsonl` shows it for the
file that an operator hands out; a file of another spelling with the same pairs is as good. None of the pairs
is held out: an owner that fits itself to them is not scored on them.
"""

from collections.abc import Sequence

from patronage_protocol.canonical import sha256
from patronage_protocol.errors import DataError
from patronage_protocol.manifest import DevelopmentTerms
from patronage_protocol.pair_files import pair_lines
from patronage_protocol.preferences import PreferencePair

__all__ = ["DEVELOPMENT", "check_development", "development_terms"]

DEVELOPMENT = "development.jsonl"
"""The name of the file beside the invitation."""


def development_terms(pairs: Sequence[PreferencePair]) -> DevelopmentTerms:
    """What a manifest says of these pairs."""
    return DevelopmentTerms(content=sha256(pair_lines(pairs)), pairs=len(pairs))


def check_development(terms: DevelopmentTerms, pairs: Sequence[PreferencePair], *, where: str) -> None:
    """Refuse pairs that are not those of the manifest, in their order.

    Raises:
        DataError: they are others.
    """
    found = development_terms(pairs)
    if found != terms:
        raise DataError(
            f"the {terms.pairs} development pairs of the manifest, {terms.content}",
            got=f"{found.pairs} pairs, {found.content}",
            do="ask the operator for the file of this round, or name other pairs with --validation",
            where=where,
        )
