"""What the terms say of held-out pairs: the operator's, and slices that owners contributed.

Pairs are numbered through: the operator's come first, then slice after slice. An owner is not scored on its
own slice, so nothing in it moves the owner's share. It moves the shares of the others; how far is bounded by
the cap on a slice (docs/rounds.md).
"""

from typing import Annotated, Self

from pydantic import Field, model_validator

from patronage_protocol.canonical import Canonical, Digest, Name, Positive

__all__ = ["MOST_PERCENT", "HeldOutTerms", "SliceTerms", "SlicesTerms"]

MOST_PERCENT = 50
"""No cap is higher: beyond, one owner would decide what the others are scored on."""


class HeldOutTerms(Canonical):
    """Preference pairs on which coalitions are scored, committed to by a salted Merkle root."""

    root: Digest
    pairs: Positive
    prompts: Positive


class SliceTerms(HeldOutTerms):
    """Held-out pairs that `owner` contributed, under a root of its own, and is not scored on."""

    owner: Name


class SlicesTerms(Canonical):
    """Who contributed held-out pairs, and how much one slice may weigh.

    Args:
        most_percent: of all held-out pairs, in any one slice; 0 where nobody may contribute.
        of: the slices, sorted by owner, at most one an owner.
    """

    most_percent: Annotated[int, Field(ge=0, le=MOST_PERCENT)] = 0
    of: tuple[SliceTerms, ...] = ()

    @model_validator(mode="after")
    def _one_an_owner(self) -> Self:
        owners = [part.owner for part in self.of]
        if owners != sorted(set(owners)):
            raise ValueError("the slices are not of distinct owners in sorted order")
        return self

    def problem(self, held_out: HeldOutTerms) -> str | None:
        """Why these slices cannot stand beside the operator's pairs, or None."""
        total = held_out.pairs + sum(part.pairs for part in self.of)
        if self.of and held_out.prompts < 2:
            return "slices need two prompts of the operator's own beside them, so that everybody is scored"
        for part in self.of:
            if 100 * part.pairs > self.most_percent * total:
                return (
                    f"the slice of {part.owner} is {part.pairs} of {total} held-out pairs, and a slice is at "
                    f"most {self.most_percent} % of them (most_percent)"
                )
        return None
