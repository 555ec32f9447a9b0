"""What the terms say of training: the base model, the one adapter format, DPO, and what intake admits."""

from typing import Annotated, Literal

from pydantic import Field

from patronage_protocol.canonical import Canonical, Digest, Positive, PositiveReal

__all__ = ["BaseModelTerms", "DpoTerms", "IntakeTerms", "LoraGroup", "LoraTerms", "StartTerms"]


class BaseModelTerms(Canonical):
    """The base model pi_0, by content: two parties with these digests hold the same weights and tokenizer."""

    name: str
    architecture: str
    precision: Literal["bfloat16", "float32"]
    weights: Digest
    tokenizer: Digest

    @property
    def identity(self) -> tuple[str, str, str, str]:
        """All but the name."""
        return self.architecture, self.precision, self.weights, self.tokenizer


class LoraGroup(Canonical):
    """Linear modules of one shape: `module` has one `{}` for the layer, unless `layers` is empty."""

    module: str
    layers: tuple[int, ...]
    in_features: Positive
    out_features: Positive

    def modules(self) -> tuple[str, ...]:
        """The full module paths, in layer order."""
        return tuple(self.module.format(layer) for layer in self.layers) or (self.module,)


class LoraTerms(Canonical):
    """The one adapter format of the round; dW = (alpha / rank) B A for each module."""

    rank: Positive
    alpha: PositiveReal
    init_seed: int
    groups: Annotated[tuple[LoraGroup, ...], Field(min_length=1)]

    @property
    def scaling(self) -> float:
        """alpha / rank, the factor in front of B A."""
        return self.alpha / self.rank

    def modules(self) -> tuple[str, ...]:
        """Every adapted module, sorted by path."""
        return tuple(sorted(module for group in self.groups for module in group.modules()))

    def shapes(self) -> dict[str, tuple[int, int]]:
        """Tensor name to shape, sorted by name: A is (rank, in_features), B is (out_features, rank)."""
        shapes: dict[str, tuple[int, int]] = {}
        for group in self.groups:
            for module in group.modules():
                shapes[f"base_model.model.{module}.lora_A.weight"] = (self.rank, group.in_features)
                shapes[f"base_model.model.{module}.lora_B.weight"] = (group.out_features, self.rank)
        return dict(sorted(shapes.items()))


class StartTerms(Canonical):
    """The policy that a later round starts from and is compared with: pi_0 and the consortium's adapter.

    `adapter` is the digest in the entry `final` of round `round`; its rank and alpha are those of the file.
    """

    round: Positive
    adapter: Digest
    rank: Positive
    alpha: PositiveReal

    def lora(self, terms: LoraTerms) -> LoraTerms:
        """The format of that adapter: the modules of this round, in its own rank."""
        return terms.model_copy(update={"rank": self.rank, "alpha": self.alpha})


class DpoTerms(Canonical):
    """How every owner trains: DPO with the sigmoid loss and AdamW, from the same LoRA initialisation."""

    beta: PositiveReal
    learning_rate: PositiveReal
    epochs: Positive
    batch_size: Positive
    gradient_accumulation: Positive
    warmup_steps: Annotated[int, Field(ge=0)]
    schedule: Literal["constant", "linear", "cosine"]
    max_grad_norm: PositiveReal
    max_length: Positive
    seed: int


class IntakeTerms(Canonical):
    """What an adapter must satisfy to enter the game.

    `max_norm` caps the Frobenius norm of dW over all modules. `copy_cosine`: two adapters whose dW have at
    least this cosine are one contribution, and the earlier commitment keeps the credit.
    """

    max_bytes: Positive
    max_norm: PositiveReal
    copy_cosine: Annotated[float, Field(gt=0, le=1)]
