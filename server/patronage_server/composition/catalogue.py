"""The composition rules by name, as an option or a scenario spells them: RULE or RULE:WEIGHTS.

    policy, policy-tokens        policy arithmetic, normalised over sequences or over tokens
    weights                      weight arithmetic, exact
    ties, dare_linear, dare_ties and the same with _svd      weight arithmetic through PEFT

WEIGHTS is sum (what is meant without it), mean or size.
"""

from patronage_protocol.errors import UsageError
from patronage_server.composition.adapter_set import AdapterSet
from patronage_server.composition.merging import COMBINATIONS, PeftMerging
from patronage_server.composition.policies import PolicyArithmetic
from patronage_server.composition.rules import CompositionRule
from patronage_server.composition.weights import WeightArithmetic

__all__ = ["RULES", "rule_named"]

RULES = ("policy", "policy-tokens", "weights", *COMBINATIONS)


def rule_named(name: str, adapters: AdapterSet, *, batch_tokens: int | None = None) -> CompositionRule:
    """The rule of that name over these adapters.

    Raises:
        UsageError: no such rule or weights, or `size` and the sizes are not known.
    """
    kind, _, weights = name.partition(":")
    weights = weights or "sum"
    if kind == "policy":
        return PolicyArithmetic(adapters, weights, batch_tokens=batch_tokens)
    if kind == "policy-tokens":
        return PolicyArithmetic(adapters, weights, normalise="token", batch_tokens=batch_tokens)
    if kind == "weights":
        return WeightArithmetic(adapters, weights, batch_tokens=batch_tokens)
    for combination in COMBINATIONS:
        if kind == combination:
            return PeftMerging(adapters, combination, weights, batch_tokens=batch_tokens)
    raise UsageError(f"a composition rule out of {', '.join(RULES)}", got=repr(kind), do="choose one of them")
