"""What the blob of an `evaluate` entry is: margins, of owners or of coalitions, or candidate pools."""

from typing import TypeAlias

from patronage_protocol.evidence.coalitions import CoalitionEvidence
from patronage_protocol.evidence.margins import EvidenceHeader, MarginEvidence, SliceColumns
from patronage_protocol.evidence.pools import PoolEvidence
from patronage_protocol.manifest import GameTerms, Manifest

__all__ = ["Evidence", "declared", "read_evidence", "slice_columns"]

Evidence: TypeAlias = MarginEvidence | PoolEvidence


def read_evidence(data: bytes, manifest: Manifest) -> Evidence:
    """The evidence of a round of these terms.

    Raises:
        FormatError: it is not the evidence that the manifest's game asks for.
    """
    if isinstance(manifest.game, GameTerms):
        merged = manifest.game.composition == "merged"
        return CoalitionEvidence.decode(data) if merged else MarginEvidence.decode(data)
    return PoolEvidence.decode(data)


def declared(evidence: Evidence, manifest: Manifest) -> dict[str, tuple[object, object]]:
    """What the evidence says and what the manifest demands, by the name of the matter."""
    held_out, game = manifest.held_out, manifest.game
    common: dict[str, tuple[object, object]] = {"scale_bits": (evidence.header.scale_bits, game.scale_bits)}
    if isinstance(evidence, MarginEvidence):
        return common | _pairs(evidence.header, manifest)
    assert not isinstance(game, GameTerms), "evidence was read by the terms"
    header = evidence.header
    return common | {
        "prompts": (header.prompts, held_out.prompts),
        "candidates": (header.size, game.pool.candidates),
        "candidates from the base model": (header.from_base, game.pool.from_base),
        "objectives": (header.objectives, tuple(objective.name for objective in game.objectives)),
    }


def slice_columns(manifest: Manifest) -> tuple[SliceColumns, ...]:
    """Where owners' slices are among the held-out pairs: after the operator's, in the manifest's order."""
    columns, first = [], manifest.held_out.pairs
    for part in manifest.slices.of:
        columns.append(SliceColumns(owner=part.owner, first=first, pairs=part.pairs))
        first += part.pairs
    return tuple(columns)


def _pairs(header: EvidenceHeader, manifest: Manifest) -> dict[str, tuple[object, object]]:
    """Pairs and prompts, in all and of every slice."""
    sets = manifest.held_out_sets
    matters: dict[str, tuple[object, object]] = {
        "pairs": (len(header.clusters), manifest.held_out_pairs),
        "prompts": (1 + max(header.clusters), sum(part.prompts for part in sets)),
        "slices": (_in_short(header.slices), _in_short(slice_columns(manifest))),
    }
    for part, terms in zip(header.slices, manifest.slices.of, strict=False):
        found = len(set(header.clusters[part.columns]))
        matters[f"prompts of the slice of {terms.owner}"] = (found, terms.prompts)
    return matters


def _in_short(slices: tuple[SliceColumns, ...]) -> tuple[tuple[str, int, int], ...]:
    return tuple((part.owner, part.first, part.pairs) for part in slices)
