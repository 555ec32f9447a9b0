"""The terms of a round in plain words: what an owner is asked to do, what may happen, what it may earn."""

from collections.abc import Iterator
from datetime import UTC, datetime

from patronage_protocol.currencies import decimal_text
from patronage_protocol.manifest import GameTerms, Manifest, PayoutTerms

__all__ = ["explain", "money"]

POLICIES = {
    "gated": "Owners whose share is above zero beyond doubt divide the budget in proportion to their shares; "
    "the others get nothing.",
    "clipped": "Owners divide the budget in proportion to their shares; a negative share counts as zero.",
    "signed": "Owners divide the budget in proportion to their shares; a negative share PAYS IN, "
    "at most {bond}.",
    "per_unit": "An owner gets {price} for each whole unit of utility, all together at most the budget.",
}


def explain(manifest: Manifest) -> Iterator[str]:
    """The terms, a sentence or two a line, in the order in which things happen."""
    payout, dpo, intake = manifest.payout, manifest.dpo, manifest.intake
    owners = ", ".join(owner.name for owner in manifest.owners)
    operator = manifest.operator.name
    yield f"Round {manifest.round} of {manifest.consortium}, run by {operator}. Owners: {owners}."
    if manifest.start is not None:
        yield (
            f"It starts from the consortium's adapter of round {manifest.start.round}: your adapter comes on "
            "top of it, and you are paid for what yours adds."
        )
    yield (
        f"You train a LoRA adapter of rank {manifest.lora.rank} on {len(manifest.lora.modules())} modules of "
        f"{manifest.base_model.name} with DPO on your own pairs: {dpo.epochs} epochs, batches of "
        f"{dpo.batch_size}, learning rate {dpo.learning_rate:g}, beta {dpo.beta:g}. The pairs stay with you."
    )
    yield (
        "You commit to the adapter before anybody's is seen, and hand it over once all commitments are "
        "closed. The operator and whoever it gives the consortium's adapter to can then use it."
    )
    witness = manifest.witness
    yield (
        f"Nobody is asked for its adapter before {witness.quorum} of the {len(witness.owners)} witnesses "
        f"({', '.join(witness.owners)}) have cosigned the list of commitments; they cosign the end, too. "
        "Your node does so by itself, and refuses a ledger that does not continue what it saw."
    )
    yield (
        f"It is refused if it is larger than {intake.max_bytes:,} bytes, if the norm of its change exceeds "
        f"{intake.max_norm:g}, or if it is a copy of one committed earlier "
        f"(cosine {intake.copy_cosine:g} or more)."
    )
    yield f"{_scoring(manifest)} Your share is your Shapley value."
    declared = "" if payout.minor_unit == "iso-4217" else " (a unit of the operator's own, not of ISO 4217)"
    yield f"The budget is {money(payout.budget, payout)}{declared}. {_policy(payout)}"
    yield (
        f"The budget goes back if fewer than {manifest.min_players} adapters are admitted, if together they "
        "do not help, or if the round cannot tell shares from zero."
    )
    if manifest.dispute.seconds:
        yield (
            f"For {manifest.dispute.seconds} seconds after the payouts you may have up to "
            f"{manifest.dispute.pairs} held-out pairs opened to everybody, each shown to be among those that "
            "were committed to."
        )
    if manifest.development is not None:
        yield (
            f"With the invitation come {manifest.development.pairs} public development pairs, none of them "
            "held out: `patronage owner value --terms invitation.json` measures your pairs on them."
        )
    deadlines = manifest.deadlines
    yield (
        f"Accept until {_moment(deadlines.accept)}, commit until {_moment(deadlines.commit)}, hand over "
        f"until {_moment(deadlines.reveal)} (UTC). Whoever misses one is out of the round and gets nothing."
    )


def money(amount: int, payout: PayoutTerms) -> str:
    """An amount of minor units as people write it; integers all the way."""
    return f"{decimal_text(amount, payout.exponent)} {payout.currency}"


def _scoring(manifest: Manifest) -> str:
    game, held_out = manifest.game, manifest.held_out
    if isinstance(game, GameTerms):
        pairs = manifest.held_out_pairs
        scored = f"Every coalition of owners is scored on {pairs} held-out pairs ({game.utility})."
        if manifest.slices.of:
            given = ", ".join(f"{part.owner} {part.pairs}" for part in manifest.slices.of)
            scored += f" Of these owners contributed: {given}; no owner is scored on its own."
        return scored
    total = sum(objective.weight for objective in game.objectives)
    objectives = ", ".join(
        f"{objective.name} ({100 * objective.weight / total:.3g} %)" for objective in game.objectives
    )
    return (
        f"Every coalition of owners is scored by the reward of its answers to {held_out.prompts} held-out "
        f"prompts, for: {objectives}."
    )


def _policy(payout: PayoutTerms) -> str:
    return POLICIES[payout.policy].format(
        bond=money(payout.bond, payout), price=money(payout.unit_price, payout)
    )


def _moment(unix: int) -> str:
    return f"{datetime.fromtimestamp(unix, UTC):%Y-%m-%d %H:%M:%S}"
