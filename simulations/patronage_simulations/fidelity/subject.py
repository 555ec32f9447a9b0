"""What is studied: owners' pairs, held-out pairs, terms, and the seeds that training is repeated with."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain

from patronage_protocol.canonical import sha256
from patronage_protocol.errors import UsageError
from patronage_protocol.manifest import DpoTerms
from patronage_protocol.preferences import PreferencePair
from patronage_server.terms import RoundTerms

__all__ = ["MOST_OWNERS", "Pairs", "Subject", "members", "pairs_digest"]

Pairs = tuple[PreferencePair, ...]

MOST_OWNERS = 6
"""Every coalition is trained: 63 on the union, and as many in each order."""


@dataclass(frozen=True)
class Subject:
    """One consortium to study.

    Attributes:
        name: of the scenario or the folder.
        owners: pairs by owner, in the order that bitmasks count in: owner i is in S if bit i is set.
        held_out: the pairs on which coalitions are scored.
        terms: how owners train, and how shares become money.
        seeds: of training (order of the pairs, initial adapter); the pairs stay the same.

    Raises:
        UsageError: fewer than two owners or more than can be retrained, or the same seed twice.
    """

    name: str
    owners: Mapping[str, Pairs]
    held_out: Pairs
    terms: RoundTerms
    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        if not 2 <= len(self.owners) <= MOST_OWNERS:
            raise UsageError(
                f"2 to {MOST_OWNERS} owners, of whom every coalition is trained",
                got=str(len(self.owners)),
                do="study a smaller consortium",
            )
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise UsageError("different seeds, one at least", got=str(list(self.seeds)), do="name each once")

    @property
    def names(self) -> tuple[str, ...]:
        """The owners, in the order that bitmasks count in."""
        return tuple(self.owners)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Pairs of each owner."""
        return tuple(len(pairs) for pairs in self.owners.values())

    def pairs_of(self, mask: int) -> Pairs:
        """The union of a coalition's pairs, owner after owner."""
        return tuple(chain.from_iterable(self.owners[self.names[i]] for i in members(mask)))

    def dpo(self, seed: int, epochs: int = 0) -> DpoTerms:
        """The terms of training with that seed; other epochs where they are not 0."""
        dpo = self.terms.dpo
        return dpo.model_copy(update={"seed": seed, "epochs": epochs or dpo.epochs})


def members(mask: int) -> tuple[int, ...]:
    """The owners of a coalition, ascending."""
    return tuple(i for i in range(mask.bit_length()) if mask >> i & 1)


def pairs_digest(pairs: Pairs) -> str:
    """What pairs are, in their order; labels of their source do not count."""
    return sha256(b"\n".join(pair.model_copy(update={"source": ""}).encode() for pair in pairs))
