"""Composition: from the adapters of a coalition of owners to one language model that scores and generates.

    adapter_set   the owners' adapters over one base model, checked before any work
    weighting     coefficients of the owners of a coalition: sum, mean, size
    rules         what every rule offers
    policies      policy arithmetic: log-probabilities are added
    weights       weight arithmetic: the dW are added, exactly, by rank concatenation
    merging       weight arithmetic: TIES and DARE, through PEFT
    catalogue     the rules by name
    stack         adapters side by side in one model, a coefficient for each owner and row
    scoring       many rows of coefficients on many pairs
    decoding      generation, token by token

docs/composition.md has the equations and what each rule costs.
"""

from patronage_server.composition.adapter_set import AdapterSet
from patronage_server.composition.decoding import Decoding, Generation
from patronage_server.composition.policies import PolicyArithmetic
from patronage_server.composition.rules import CoalitionModel, CoalitionScorer, CompositionRule
from patronage_server.composition.weighting import WEIGHTINGS, Weighting, weighting
from patronage_server.composition.weights import WeightArithmetic

__all__ = [
    "WEIGHTINGS",
    "AdapterSet",
    "CoalitionModel",
    "CoalitionScorer",
    "CompositionRule",
    "Decoding",
    "Generation",
    "PolicyArithmetic",
    "WeightArithmetic",
    "Weighting",
    "weighting",
]
