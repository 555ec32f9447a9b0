# mypy: allow-untyped-calls
"""Weight arithmetic by TIES and DARE, as PEFT's `add_weighted_adapter` does it.

    ties         trim to the largest entries, elect a sign, mean of those that agree   arXiv 2306.01708
    dare_linear  drop entries at random, rescale the rest, add                         arXiv 2311.03099
    dare_ties    drop and rescale, then elect signs

On LoRA these work on A and B by themselves, so that even a density of 1 is not the sum of the dW; with `_svd`
they work on dW, which is then cut to `svd_rank`. PEFT merges inside a skeleton that has the adapted modules
and no others: the base model is not touched.
"""

import warnings
from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from peft import LoraConfig, LoraModel
from torch import nn

from patronage_protocol.errors import UsageError
from patronage_protocol.policy import TokenizedPair
from patronage_server.composition.adapter_set import AdapterSet
from patronage_server.composition.decoding import Mixture
from patronage_server.composition.rules import CoalitionScorer, CompositionRule, weighting_of
from patronage_server.composition.scoring import Progress, stacked_logprobs
from patronage_server.composition.stack import Factors, Stack
from patronage_server.composition.weighting import Weighting, check_coalitions

__all__ = ["COMBINATIONS", "Combination", "PeftMerging"]

Combination: TypeAlias = Literal[
    "ties", "dare_linear", "dare_ties", "ties_svd", "dare_linear_svd", "dare_ties_svd"
]
COMBINATIONS: tuple[Combination, ...] = get_args(Combination)

_MERGED = "merged"


class PeftMerging(CompositionRule):
    """The members' adapters merged into one by PEFT.

    Args:
        adapters: of the n owners.
        combination: of `COMBINATIONS`, PEFT's `combination_type`.
        weights: `sum`, `mean`, `size`, or a function of one's own: PEFT's `weights`.
        density: the part of the entries that is kept, above 0 and at most 1.
        svd_rank: the rank of a result by `_svd`; None is n times the adapters' rank.
        seed: of what DARE drops; a coalition drops the same whatever is merged before it.
        batch_tokens: tokens in a batch, padding included; None is what suits the device.

    Raises:
        UsageError: no such combination or weights, a density out of range, or an `svd_rank` without `_svd`.
    """

    def __init__(
        self,
        adapters: AdapterSet,
        combination: Combination,
        weights: str | Weighting = "sum",
        *,
        density: float = 0.5,
        svd_rank: int | None = None,
        seed: int = 0,
        batch_tokens: int | None = None,
    ) -> None:
        if combination not in COMBINATIONS:
            raise UsageError(
                f"a combination out of {', '.join(COMBINATIONS)}", got=repr(combination), do="choose one"
            )
        by_svd = combination.endswith("_svd")
        if not 0.0 < density <= 1.0 or (svd_rank is not None and (svd_rank < 1 or not by_svd)):
            raise UsageError(
                "a density above 0 and at most 1, and an svd_rank with an _svd combination alone",
                got=f"density {density}, svd_rank {svd_rank}, {combination}",
                do="correct them",
            )
        self.adapters = adapters
        name, self.weighting = weighting_of(weights, adapters)
        self.name = f"{combination}:{name}"
        self.combination, self.density, self.seed = combination, density, seed
        self.svd_rank = (svd_rank or len(adapters) * adapters.lora.rank) if by_svd else None
        self.batch_tokens = batch_tokens
        self._names = [f"owner{number}" for number in range(len(adapters))]
        self._lora = _loaded(adapters, self._names)

    def scorer(self, pairs: Sequence[TokenizedPair]) -> "MergingScorer":
        """A scorer that merges anew for each coalition, and takes a forward pass for each."""
        return MergingScorer(self, pairs)

    def merged(self, members: NDArray[np.bool_]) -> Factors:
        """The one adapter that PEFT makes of a coalition (n,) with at least one member."""
        weights = self.weighting(members[None])[0]
        index = np.flatnonzero(members)
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            torch.manual_seed(int(np.random.SeedSequence([self.seed, *index]).generate_state(1)[0]))
            warnings.filterwarnings("ignore", message="The density", category=UserWarning)
            self._lora.add_weighted_adapter(
                [self._names[i] for i in index],
                [float(weights[i]) for i in index],
                _MERGED,
                combination_type=self.combination,
                svd_rank=self.svd_rank,
                svd_full_matrices=False,
                density=self.density,
            )
        try:
            return {module: self._factors(module) for module in self.adapters.lora.modules()}
        finally:
            self._lora.delete_adapter(_MERGED)

    def mixture(self, members: NDArray[np.bool_]) -> Mixture:
        """One model: the merged one, or the base model of the empty coalition."""
        shown = members if members.any() else self.adapters.everybody()
        return Mixture(Stack.of([self.merged(shown)]), np.full((1, 1), float(members.any())), np.ones(1))

    def _factors(self, module: str) -> tuple[torch.Tensor, torch.Tensor]:
        layer = self._lora.model.get_submodule(module)
        a, b = (getattr(layer, f"lora_{factor}")[_MERGED].weight.detach() for factor in "AB")
        device = self.adapters.base.device
        return a.T.contiguous().to(device), (b.T * layer.scaling[_MERGED]).contiguous().to(device)


class MergingScorer(CoalitionScorer):
    """Coalitions merged by PEFT on M pairs; the base model is scored once."""

    def __init__(self, rule: PeftMerging, pairs: Sequence[TokenizedPair]) -> None:
        self.owners, self.passes = len(rule.adapters), 0
        self._rule, self._pairs = rule, pairs
        self._reference: NDArray[np.float64] | None = None

    def logratios(
        self, coalitions: NDArray[np.bool_], progress: Progress | None = None
    ) -> NDArray[np.float64]:
        matrix = check_coalitions(coalitions, self.owners)
        reference = self._reference
        if reference is None:
            reference = self._reference = self._logprobs(self._rule.adapters.members())
        ratios = np.zeros((len(matrix), len(self._pairs), 2))
        for done, (row, members) in enumerate(zip(ratios, matrix, strict=True), start=1):
            if members.any():
                row[...] = self._logprobs(members) - reference
            if progress is not None:
                progress(done, len(matrix))
        return ratios

    def _logprobs(self, members: NDArray[np.bool_]) -> NDArray[np.float64]:
        rule = self._rule
        mixture = rule.mixture(members)
        self.passes += 1
        return np.asarray(
            stacked_logprobs(
                rule.adapters.base.model,
                mixture.stack,
                mixture.rows,
                self._pairs,
                batch_tokens=rule.batch_tokens,
            )[0]
        )


def _loaded(adapters: AdapterSet, names: Sequence[str]) -> LoraModel:
    """PEFT's model over a skeleton, with every owner's adapter in it."""
    lora = adapters.lora
    skeleton, wanted = nn.Module(), set(lora.modules())
    for path, module in adapters.base.model.named_modules():  # in the model's order, which is that of draws
        if path in wanted:
            assert isinstance(module, nn.Linear), "the adapters were checked against the model"
            linear = nn.utils.skip_init(nn.Linear, module.in_features, module.out_features, bias=False)
            _place(skeleton, path, linear)
    config = LoraConfig(r=lora.rank, target_modules=list(lora.modules()), lora_dropout=0.0)
    config.lora_alpha = lora.alpha  # type: ignore[assignment]  # PEFT computes with any number
    model = LoraModel(skeleton, {names[0]: config}, names[0])
    for name in names[1:]:
        model.peft_config[name] = config
        model.inject_adapter(skeleton, name)
    for name, tensors in zip(names, adapters.adapters.values(), strict=True):
        for module in lora.modules():
            layer = model.model.get_submodule(module)
            for factor in "AB":
                values = torch.tensor(tensors[f"base_model.model.{module}.lora_{factor}.weight"])
                getattr(layer, f"lora_{factor}")[name].weight.data = values
    return model


def _place(root: nn.Module, path: str, module: nn.Module) -> None:
    *parents, last = path.split(".")
    for name in parents:
        if name not in root._modules:
            root.add_module(name, nn.Module())
        root = root.get_submodule(name)
    root.add_module(last, module)
