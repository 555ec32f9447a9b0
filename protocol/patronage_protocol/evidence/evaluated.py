"""What the blob of an `evaluate` entry is: margins, of owners or of coalitions, or candidate pools."""

from typing import TypeAlias

from patronage_protocol.evidence.coalitions import CoalitionEvidence
from patronage_protocol.evidence.margins import MarginEvidence
from patronage_protocol.evidence.pools import PoolEvidence
from patronage_protocol.manifest import GameTerms, Manifest

__all__ = ["Evidence", "declared", "read_evidence"]

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
        clusters = evidence.header.clusters
        return common | {
            "pairs": (len(clusters), held_out.pairs),
            "prompts": (1 + max(clusters), held_out.prompts),
        }
    assert not isinstance(game, GameTerms), "evidence was read by the terms"
    header = evidence.header
    return common | {
        "prompts": (header.prompts, held_out.prompts),
        "candidates": (header.size, game.pool.candidates),
        "candidates from the base model": (header.from_base, game.pool.from_base),
        "objectives": (header.objectives, tuple(objective.name for objective in game.objectives)),
    }
