"""The development pairs that an operator publishes with a round, apart from what the round is scored on."""

from collections.abc import Sequence

from patronage_protocol.development import development_terms
from patronage_protocol.errors import UsageError
from patronage_protocol.manifest import DevelopmentTerms
from patronage_protocol.pair_files import read_pairs
from patronage_protocol.preferences import PreferencePair, overlap
from patronage_server.home import OperatorHome

__all__ = ["apart", "published_development"]


def published_development(home: OperatorHome, held_out: Sequence[PreferencePair]) -> DevelopmentTerms | None:
    """What the next manifest says of the development pairs in the operator's folder; None without any.

    Raises:
        DataError, UnavailableError: the file cannot be used.
        UsageError: they share prompts with the held-out pairs.
    """
    if not home.development.exists():
        return None
    pairs = read_pairs(home.development).pairs
    apart(pairs, held_out, "development pairs", "the held-out pairs, on which rounds are scored")
    return development_terms(pairs)


def apart(pairs: Sequence[PreferencePair], others: Sequence[PreferencePair], what: str, theirs: str) -> None:
    """Refuse pairs that share prompts with others.

    Raises:
        UsageError: some do; names the first.
    """
    shared = overlap(pairs, others).prompts
    if shared:
        raise UsageError(
            f"{what} that share no prompt with {theirs}",
            got=f"{len(shared)} of {len(pairs)} that do (the first is number {shared[0] + 1})",
            do="take them out, or name other public pairs",
        )
