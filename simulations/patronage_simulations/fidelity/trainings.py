"""The truth that arithmetic is held against: every coalition trained, two ways, and scored.

On the union: one DPO training on all pairs of the coalition, in the order that the pairs decide. One after
another (arXiv 2512.15765, Algorithm 1): each owner starts from the adapter of those before it, and DPO
compares with that adapter's policy. Coalitions share what their sequences begin with, so an order of n owners
costs 2^n - 1 trainings of one owner each.

What is kept of a coalition is the log-ratio of both completions of every held-out pair, shape (M, 2), in
nats; its margin is beta times their difference.
"""

import tempfile
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patronage_client.training import train_adapter
from patronage_protocol.adapters import Tensors
from patronage_protocol.manifest import LoraTerms
from patronage_protocol.policy import (
    BaseModel,
    TokenizedPair,
    adapted,
    completion_logprobs,
    lora_groups,
    tokenize_pairs,
)
from patronage_simulations.fidelity.store import Store, key_of
from patronage_simulations.fidelity.subject import Pairs, Subject, members, pairs_digest

__all__ = ["Trainings"]

Adapter = dict[str, NDArray[np.float32]]
SCORING_TOKENS = 2048
"""A batch of scoring; part of the keys, since it decides the last bits."""


class Trainings:
    """Adapters and log-ratios of one subject, computed once.

    Args:
        subject: what is studied.
        base: the model; it is left as it was.
        store: where results are kept.
        threads: of torch, for training; None leaves them as they are.
        tell: called with one line before work that takes a while.
    """

    def __init__(
        self,
        subject: Subject,
        base: BaseModel,
        store: Store,
        *,
        threads: int | None = None,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.subject, self.base, self.store = subject, base, store
        self._threads, self._tell = threads, tell

    def lora(self, seed: int) -> LoraTerms:
        """The adapter format, with that seed's initial adapter."""
        choice = self.subject.terms.lora
        groups = lora_groups(self.base.model, choice.target_modules)
        return LoraTerms(rank=choice.rank, alpha=choice.alpha, init_seed=seed, groups=groups)

    def union(self, mask: int, seed: int, epochs: int = 0) -> tuple[str, Adapter]:
        """The adapter trained on all pairs of a coalition, with its key."""
        key = self._union_key(mask, seed, epochs)
        label = f"seed {seed}: training {self.label(members(mask))} on the union"
        return key, self._adapter(key, self.subject.pairs_of(mask), seed, epochs, label, mask=mask)

    def sequence(self, order: Sequence[int], seed: int) -> tuple[str, Adapter]:
        """The adapter of owners who trained one after another, with its key."""
        if len(order) == 1:
            return self.union(1 << order[0], seed)
        before, start = self.sequence(order[:-1], seed)
        pairs = self.subject.owners[self.subject.names[order[-1]]]
        key = self._training_key(pairs, seed, 0, before)
        label = f"seed {seed}: training {self.label(order, ' then ')}"
        return key, self._adapter(key, pairs, seed, 0, label, start=start)

    def union_ratios(self, mask: int, seed: int, epochs: int = 0) -> NDArray[np.float64]:
        """Log-ratios (M, 2) of a coalition trained on the union."""
        key = self._union_key(mask, seed, epochs)
        return self.ratios(key, self.lora(seed), lambda: self.union(mask, seed, epochs)[1])

    def sequence_ratios(self, order: Sequence[int], seed: int) -> NDArray[np.float64]:
        """Log-ratios (M, 2) of owners who trained one after another."""
        key, adapter = self.sequence(order, seed)
        return self.ratios(key, self.lora(seed), lambda: adapter)

    def ratios(self, key: str, lora: LoraTerms, adapter: Callable[[], Tensors]) -> NDArray[np.float64]:
        """Log-ratios (M, 2) of an adapter on the held-out pairs, kept under its key."""

        def score() -> NDArray[np.float64]:
            tensors, reference = adapter(), self.reference  # both before there is an adapter in the model
            with adapted(self.base.model, lora) as slot:
                slot.load(tensors)
                return self._logprobs() - reference

        return self.store.array(key_of("ratios", self.held_out_key, key), score)

    def margins(self, ratios: NDArray[np.float64]) -> NDArray[np.float64]:
        """Margins (M,) of log-ratios (M, 2)."""
        return self.subject.terms.dpo.beta * (ratios[:, 0] - ratios[:, 1])

    @cached_property
    def held_out_tokens(self) -> tuple[TokenizedPair, ...]:
        """The held-out pairs as token ids."""
        return tokenize_pairs(self.base, self.subject.held_out, max_length=self.subject.terms.dpo.max_length)

    @cached_property
    def reference(self) -> NDArray[np.float64]:
        """Log-probabilities (M, 2) of the held-out completions under the base model, in nats."""
        return self.store.array(key_of("reference", self.held_out_key), self._logprobs)

    def label(self, owners: Sequence[int], between: str = " + ") -> str:
        """Owners by name."""
        return between.join(self.subject.names[i] for i in owners)

    def _logprobs(self) -> NDArray[np.float64]:
        return completion_logprobs(self.base.model, self.held_out_tokens, batch_tokens=SCORING_TOKENS)

    @cached_property
    def held_out_key(self) -> str:
        """What scores on the held-out pairs depend on, beside the adapter."""
        pairs = pairs_digest(self.subject.held_out)
        return key_of(
            self.base.weights, self.base.tokens, pairs, self.subject.terms.dpo.max_length, SCORING_TOKENS
        )

    def _union_key(self, mask: int, seed: int, epochs: int) -> str:
        return self._training_key(self.subject.pairs_of(mask), seed, epochs, "")

    def _training_key(self, pairs: Pairs, seed: int, epochs: int, start: str) -> str:
        dpo, lora = self.subject.dpo(seed, epochs), self.lora(seed)
        base = [self.base.weights, self.base.tokens]
        return key_of("training", base, pairs_digest(pairs), dpo.digest, lora.digest, start)

    def _adapter(
        self,
        key: str,
        pairs: Pairs,
        seed: int,
        epochs: int,
        label: str,
        *,
        start: Tensors | None = None,
        mask: int = 0,
    ) -> Adapter:
        lora = self.lora(seed)

        def train() -> Tensors:
            self._tell(label)
            with tempfile.TemporaryDirectory() as folder:
                return train_adapter(
                    self.base,
                    pairs,
                    dpo=self.subject.dpo(seed, epochs),
                    lora=lora,
                    workdir=Path(folder),
                    start=start,
                    reference=np.concatenate([self._own_reference(i) for i in members(mask)])
                    if start is None
                    else None,
                    threads=self._threads,
                ).tensors

        return self.store.adapter(key, lora, train)

    def _own_reference(self, owner: int) -> NDArray[np.float64]:
        """Log-probabilities of an owner's completions under the base model: the same in every coalition."""
        pairs = self.subject.owners[self.subject.names[owner]]
        length = self.subject.terms.dpo.max_length

        def score() -> NDArray[np.float64]:
            tokens = tokenize_pairs(self.base, pairs, max_length=length)
            return completion_logprobs(self.base.model, tokens, batch_tokens=SCORING_TOKENS)

        base = [self.base.weights, self.base.tokens]
        return self.store.array(
            key_of("own reference", base, pairs_digest(pairs), length, SCORING_TOKENS), score
        )
