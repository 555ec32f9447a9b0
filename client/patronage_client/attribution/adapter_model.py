# mypy: allow-untyped-calls
"""The policy pi_theta = base model + LoRA as a function of a flat vector theta, with DPO losses of pairs.

    u_i = beta ((log pi(y+|x) - log pi_0(y+|x)) - (log pi(y-|x) - log pi_0(y-|x)))
    l_i = -log sigmoid(u_i)            g_i = -beta sigmoid(-u_i) grad[log pi(y+|x) - log pi(y-|x)]

Source: Rafailov et al. 2023, arXiv 2305.18290, equation 7. theta lists the matrices in the order of
`LoraTerms.shapes`, each by rows. Hessian-vector products differentiate twice, through plain ("math")
attention, because the fused kernels cannot.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import logsigmoid

from patronage_client.attribution.recorder import lora_modules
from patronage_client.dpo_trainer import lora_config
from patronage_client.training import skeleton, start_from
from patronage_protocol.adapters import initial
from patronage_protocol.manifest import LoraTerms
from patronage_protocol.policy import BaseModel, TokenizedPair, completion_logprobs, tokenize_pairs
from patronage_protocol.policy.quiet import quiet_transformers
from patronage_protocol.policy.scoring import (
    default_batch_tokens,
    pair_batch,
    sequence_logprobs,
    shares_prompts,
)
from patronage_protocol.preferences import PreferencePair

__all__ = ["AdapterModel", "TokenizedPairs", "tokenized"]


@dataclass(frozen=True)
class TokenizedPairs:
    """Token ids of n pairs and log pi_0 of their completions, shape (n, 2), in nats."""

    tokens: tuple[TokenizedPair, ...]
    reference: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.tokens)

    def take(self, indices: Sequence[int]) -> "TokenizedPairs":
        """Some of them, in this order."""
        return TokenizedPairs(tuple(self.tokens[i] for i in indices), self.reference[list(indices)])

    def portions(self, batch_tokens: int) -> Iterator["TokenizedPairs"]:
        """All of them in batches of at most so many tokens with padding, in their order."""
        batch: list[int] = []
        widest = 0
        for index, pair in enumerate(self.tokens):
            width = len(pair.prompt) + len(pair.chosen) + len(pair.rejected)
            if batch and (len(batch) + 1) * max(widest, width) > batch_tokens:
                yield self.take(batch)
                batch, widest = [], 0
            batch.append(index)
            widest = max(widest, width)
        if batch:
            yield self.take(batch)


def tokenized(
    base: BaseModel,
    pairs: Sequence[PreferencePair],
    *,
    max_length: int,
    progress: Callable[[int, int], None] | None = None,
) -> TokenizedPairs:
    """Pairs as the model sees them, with their log-probabilities under the base model.

    Raises:
        DataError: a pair that does not fit the length.
        UnavailableError, UsageError: as `completion_logprobs`.
    """
    tokens = tokenize_pairs(base, pairs, max_length=max_length)
    return TokenizedPairs(tokens, completion_logprobs(base.model, tokens, progress=progress))


class AdapterModel:
    """The base model with a LoRA adapter of its own; the base model itself is shared and left as it was.

    Attributes:
        model: the PEFT model, in training mode.
        size: p, the number of trained parameters.

    Args:
        base: the base model.
        lora: the terms of the adapter.
        beta: of DPO.
        model: a PEFT model of these terms that is there already; None makes one.
    """

    def __init__(
        self, base: BaseModel, lora: LoraTerms, *, beta: float, model: PeftModel | None = None
    ) -> None:
        self.model = _adapted(base, lora) if model is None else model
        self.beta = beta
        self._lora = lora
        self._modules = lora_modules(self.model)
        self._parameters = [module.weight for module in self._modules.values()]
        self._share = shares_prompts(base.model)
        self._portion = default_batch_tokens(base.device)
        self.size = sum(parameter.numel() for parameter in self._parameters)
        self.model.train()

    @property
    def parameters(self) -> list[Tensor]:
        """The LoRA matrices, in the order of theta."""
        return list(self._parameters)

    def accumulated_gradient(self) -> Tensor:
        """What backward passes have added up in `.grad`, shape (p,)."""
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._parameters]
        return self._flat(gradients).clone()

    @property
    def has_dropout(self) -> bool:
        """Whether two forward passes in training mode differ."""
        config = self.model.get_base_model().config
        modules = (m.p > 0 for m in self.model.modules() if isinstance(m, nn.Dropout))
        return any(modules) or float(getattr(config, "attention_dropout", 0.0) or 0.0) > 0

    @property
    def theta(self) -> Tensor:
        """A copy of the flat parameters, shape (p,)."""
        return self._flat(self._parameters).detach().clone()

    def load(self, theta: Tensor) -> None:
        """Set the parameters from a flat vector."""
        with torch.no_grad():
            for parameter, piece in zip(self._parameters, self._split(theta), strict=True):
                parameter.copy_(piece)

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """The adapter as a round takes it."""
        names = self._lora.shapes()
        values = (parameter.detach().float().cpu().numpy().copy() for parameter in self._parameters)
        return dict(zip(names, values, strict=True))

    def rows(self, count: int) -> list[int]:
        """For each row of a batch of `count` pairs, the pair that it belongs to; for the recorder."""
        return list(range(count)) if self._share else [row // 2 for row in range(2 * count)]

    def losses(self, pairs: TokenizedPairs) -> Tensor:
        """The loss of every pair of one batch, shape (n,), float64, in nats; can be differentiated."""
        return -logsigmoid(self.margins(pairs))

    def margins(self, pairs: TokenizedPairs) -> Tensor:
        """u_i of every pair of one batch, shape (n,), float64; can be differentiated."""
        batch = pair_batch(pairs.tokens, share=self._share)
        values = sequence_logprobs(cast("Any", self.model), batch)
        ratios = values - torch.from_numpy(pairs.reference).flatten().to(values)
        return self.beta * (ratios[0::2] - ratios[1::2])

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Without dropout."""
        self.model.eval()
        try:
            yield
        finally:
            self.model.train()

    def mean_loss(self, pairs: TokenizedPairs) -> float:
        """The mean loss without dropout, in nats."""
        with self.evaluating(), torch.no_grad():
            total = sum(float(self.losses(part).sum()) for part in pairs.portions(self._portion))
        return total / len(pairs)

    def mean_gradient(self, pairs: TokenizedPairs) -> tuple[float, Tensor]:
        """The mean loss without dropout, in nats, and its gradient, shape (p,)."""
        total, gradient = 0.0, torch.zeros_like(self.theta)
        with self.evaluating():
            for part in pairs.portions(self._portion):
                loss = self.losses(part).sum() / len(pairs)
                gradient += self._flat(torch.autograd.grad(loss, self._parameters))
                total += float(loss.detach())
        return total, gradient

    def weighted_gradient(self, pairs: TokenizedPairs, weights: Tensor) -> Tensor:
        """The gradient of sum_i w_i l_i of one batch, in training mode, shape (p,)."""
        losses = self.losses(pairs)
        return self._flat(torch.autograd.grad((weights.to(losses) * losses).sum(), self._parameters))

    def mean_curvature(self, pairs: TokenizedPairs, direction: Tensor) -> Tensor:
        """H v for the Hessian H of the mean loss without dropout, shape (p,)."""
        product = torch.zeros_like(direction)
        with self.evaluating():
            for part in pairs.portions(self._portion):
                _, one = self.weighted_curvature(part, torch.full((len(part),), 1 / len(pairs)), direction)
                product += one
        return product

    def weighted_curvature(
        self, pairs: TokenizedPairs, weights: Tensor, direction: Tensor
    ) -> tuple[Tensor, Tensor]:
        """For L(theta, w) = sum_i w_i l_i of one batch: the products <grad l_i, v> and H v.

        Both are derivatives of <grad_theta L, v>, by w and by theta, and come from one double backward pass.

        Returns:
            Shapes (n,) and (p,).
        """
        with sdpa_kernel(SDPBackend.MATH):
            losses = self.losses(pairs)
            scale = weights.to(losses).detach().requires_grad_()
            first = torch.autograd.grad((scale * losses).sum(), self._parameters, create_graph=True)
            slope = torch.stack(
                [(g * d).sum() for g, d in zip(first, self._split(direction), strict=True)]
            ).sum()
            by_weight, *second = torch.autograd.grad(
                slope, [scale, *self._parameters], materialize_grads=True
            )
        return by_weight.detach(), self._flat(second).detach()

    def loss_at(self, pairs: TokenizedPairs, theta: Tensor) -> float:
        """The mean loss without dropout at other parameters; the own ones are put back."""
        with self.at(theta):
            return self.mean_loss(pairs)

    @contextmanager
    def at(self, theta: Tensor) -> Iterator[None]:
        """Other parameters while the context lasts."""
        before = self.theta
        self.load(theta)
        try:
            yield
        finally:
            self.load(before)

    def _flat(self, tensors: Sequence[Tensor]) -> Tensor:
        return torch.cat([tensor.flatten() for tensor in tensors])

    def _split(self, vector: Tensor) -> list[Tensor]:
        pieces = vector.split([parameter.numel() for parameter in self._parameters])
        return [piece.view_as(p) for piece, p in zip(pieces, self._parameters, strict=True)]


def _adapted(base: BaseModel, lora: LoraTerms) -> PeftModel:
    """A PEFT model around the tensors of the base model, with the adapter that every owner starts from."""
    with quiet_transformers(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        model = cast("PeftModel", get_peft_model(skeleton(base.model), lora_config(lora)))
    start_from(model, initial(lora))
    return model
