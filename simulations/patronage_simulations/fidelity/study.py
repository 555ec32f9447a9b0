"""The whole study, in the order of what its results are worth; every result is kept as soon as it is there.

First every coalition on the union, for all seeds; then the rules, which are evaluations without training;
then the sequences; then longer training. Killed at any time, it goes on from the last result when the same
command is given again.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial

import numpy as np
from numpy.typing import NDArray

from patronage_protocol.adapters import Tensors, initial
from patronage_protocol.errors import UsageError
from patronage_protocol.valuation import all_coalitions
from patronage_server.composition import WEIGHTINGS, AdapterSet, CompositionRule
from patronage_server.composition.catalogue import RULES as COMPOSITIONS
from patronage_server.composition.catalogue import rule_named
from patronage_simulations.fidelity.extent import Extent
from patronage_simulations.fidelity.factors import added
from patronage_simulations.fidelity.margins import Order, SeedMargins, StudyMargins
from patronage_simulations.fidelity.store import NotMeasuredError, key_of
from patronage_simulations.fidelity.subject import members
from patronage_simulations.fidelity.trainings import SCORING_TOKENS, Trainings

__all__ = ["check_rules", "measure"]

Tell = Callable[[str], None]


def check_rules(names: Sequence[str]) -> None:
    """Refuse names of rules that there are not, before hours of training.

    Raises:
        UsageError: one of them.
    """
    for name in names:
        kind, _, weights = name.partition(":")
        if kind not in COMPOSITIONS or weights not in {"", *WEIGHTINGS}:
            raise UsageError(
                f"rules out of {', '.join(COMPOSITIONS)}, with :{', :'.join(WEIGHTINGS)} or nothing",
                got=repr(name),
                do="name some of them",
            )


def measure(trainings: Trainings, extent: Extent, *, tell: Tell = lambda _: None) -> StudyMargins:
    """Train and score everything that is not in the store yet; leave it out where the store computes nothing.

    Raises:
        UsageError: a rule that there is not.
        NotMeasuredError: the store computes nothing, and a coalition on the union is not there.
    """
    check_rules(extent.rules)
    subject = trainings.subject
    n = len(subject.names)
    unions = {seed: _union(trainings, seed, 0, tell) for seed in subject.seeds}
    composed: dict[int, dict[str, NDArray[np.float64]]] = {seed: {} for seed in subject.seeds}
    sequences: dict[int, dict[Order, NDArray[np.float64]]] = {seed: {} for seed in subject.seeds}
    longer = {}
    if "rules" in extent.stages:
        composed = {seed: dict(_composed(trainings, seed, extent.rules, tell)) for seed in subject.seeds}
    if "sequences" in extent.stages:
        for seed in subject.seeds[: extent.sequence_seeds]:
            for order in (tuple(range(n)), tuple(reversed(range(n)))):
                with suppress(NotMeasuredError):
                    sequences[seed][order] = _sequence(trainings, order, seed, tell)
    if "longer" in extent.stages and extent.epochs:
        with suppress(NotMeasuredError):
            union = _union(trainings, subject.seeds[0], extent.epochs, tell)
            longer[extent.epochs] = SeedMargins(union)
    return StudyMargins(
        owners=subject.names,
        sizes=subject.sizes,
        clusters=_clusters(trainings),
        scale_bits=subject.terms.game.scale_bits,
        budget=subject.terms.payout.budget,
        seeds={seed: SeedMargins(unions[seed], composed[seed], sequences[seed]) for seed in subject.seeds},
        longer=longer,
    )


def _union(trainings: Trainings, seed: int, epochs: int, tell: Tell) -> NDArray[np.float64]:
    """Margins (2^n, M); single owners and the grand coalition come first, for they carry most rules."""
    n = len(trainings.subject.names)
    masks = sorted(range(1, 1 << n), key=lambda mask: (mask.bit_count() > 1, mask != (1 << n) - 1, mask))
    margins = np.zeros((1 << n, len(trainings.subject.held_out)))
    for done, mask in enumerate(masks, start=1):
        margins[mask] = trainings.margins(trainings.union_ratios(mask, seed, epochs))
        tell(f"seed {seed}: {done} of {len(masks)} coalitions on the union")
    return margins


def _sequence(trainings: Trainings, order: Order, seed: int, tell: Tell) -> NDArray[np.float64]:
    """Margins (2^n, M) of every coalition, its owners in this order."""
    margins = np.zeros((1 << len(order), len(trainings.subject.held_out)))
    for mask in range(1, len(margins)):
        owners = [i for i in order if mask >> i & 1]
        margins[mask] = trainings.margins(trainings.sequence_ratios(owners, seed))
        tell(f"seed {seed}: {mask} of {len(margins) - 1} coalitions in sequence")
    return margins


def _composed(
    trainings: Trainings, seed: int, rules: Sequence[str], tell: Tell
) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Margins (2^n, M) of every rule that needs more forward passes than those of single owners."""
    subject = trainings.subject
    n = len(subject.names)
    solo = [trainings.union(1 << i, seed) for i in range(n)]
    adapters = AdapterSet(
        trainings.base,
        trainings.lora(seed),
        {name: adapter for name, (_, adapter) in zip(subject.names, solo, strict=True)},
        sizes=dict(zip(subject.names, subject.sizes, strict=True)),
    )
    with suppress(NotMeasuredError):
        yield "factors:sum", _added(trainings, seed, solo)
        tell(f"seed {seed}: factors:sum")
    for rule in (rule_named(name, adapters, batch_tokens=SCORING_TOKENS) for name in rules):
        key = key_of("rule", rule.name, trainings.held_out_key, [key for key, _ in solo], subject.sizes)
        margins = np.zeros((1 << n, len(subject.held_out)))
        with suppress(NotMeasuredError):
            margins[1:] = trainings.store.array(key, partial(_scored, trainings, rule))
            tell(f"seed {seed}: {rule.name}")
            yield rule.name, margins


def _added(trainings: Trainings, seed: int, solo: Sequence[tuple[str, Tensors]]) -> NDArray[np.float64]:
    """Margins (2^n, M) of the sums of LoRA factors; a single owner is what it was."""
    lora = trainings.lora(seed)
    start = initial(lora)
    margins = np.zeros((1 << len(solo), len(trainings.subject.held_out)))
    for mask in range(1, len(margins)):
        chosen = [solo[i] for i in members(mask)]
        if len(chosen) == 1:
            margins[mask] = trainings.margins(trainings.union_ratios(mask, seed))
            continue
        key = key_of("factors:sum", [key for key, _ in chosen])
        merged = added(start, [adapter for _, adapter in chosen])
        margins[mask] = trainings.margins(trainings.ratios(key, lora, lambda: merged))  # noqa: B023
    return margins


def _scored(trainings: Trainings, rule: CompositionRule) -> NDArray[np.float64]:
    coalitions = all_coalitions(len(trainings.subject.names))[1:]
    return rule.scorer(trainings.held_out_tokens).margins(coalitions, trainings.subject.terms.dpo.beta)


def _clusters(trainings: Trainings) -> NDArray[np.int64]:
    """The number of each held-out pair's prompt."""
    numbers: dict[str, int] = {}
    digests = [pair.prompt_digest for pair in trainings.subject.held_out]
    return np.array([numbers.setdefault(digest, len(numbers)) for digest in digests], dtype=np.int64)
