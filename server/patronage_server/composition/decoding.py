# mypy: allow-untyped-calls
"""Generation from a composed model, token by token: greedy, or sampled with a seed.

Every rule comes down to m models that differ in their stack coefficients alone, and a mixing of their
normalised log-probabilities at each token,

    log pi_S(y_t | y_<t) = sum_m w_m log pi_m(y_t | y_<t) - log Z(y_<t),

which is Dekoninck et al., arXiv 2311.14479, theorem 1. Merged weights are one model with w = 1. Policy
arithmetic is the base model and each member alone; they are rows of one batch over one base model, each with
its keys and values in one cache. The product over whole sequences, which is what sequential DPO gives, has no
such normaliser Z at every token: it cannot be sampled token by token, and this approximates it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from patronage_protocol.errors import UsageError
from patronage_protocol.policy import BaseModel, end_tokens
from patronage_server.composition.stack import Stack, stacked

__all__ = ["Decoding", "Generation", "Mixture", "generate", "mixed_logprobs"]


@dataclass(frozen=True)
class Decoding:
    """How completions are drawn.

    Attributes:
        max_new_tokens: at most so many tokens a completion.
        temperature: 0 takes the most probable token; otherwise log-probabilities are divided by it.
        samples: completions of one prompt; each has a stream of draws of its own.
        seed: of the draws.
        cache: keep keys and values between tokens; without it the same, more slowly.

    Raises:
        UsageError: no room for a token, a negative temperature, or several samples of the one greedy
            completion.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    samples: int = 1
    seed: int = 0
    cache: bool = True

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.samples < 1 or self.seed < 0:
            raise UsageError(
                "at least one new token and one sample, and a seed that is not negative",
                got=repr(self),
                do="correct the decoding",
            )
        if not 0.0 <= self.temperature < float("inf"):
            raise UsageError("a temperature of 0 or above", got=f"{self.temperature}", do="0 is greedy")
        if self.samples > 1 and self.temperature == 0.0:
            raise UsageError(
                "one sample at temperature 0, where all are alike",
                got=f"{self.samples}",
                do="raise the temperature",
            )


@dataclass(frozen=True)
class Generation:
    """One completion.

    Attributes:
        tokens: its token ids, the end-of-text token included where there is one.
        text: without special tokens.
        logprob: sum over tokens of log pi_S, in nats, whatever the temperature.
        finished: whether it ended by itself.
    """

    tokens: tuple[int, ...]
    text: str
    logprob: float
    finished: bool


@dataclass(frozen=True, eq=False)
class Mixture:
    """m models over one base: rows (m, n) of stack coefficients, and the mixing (m,) of log-probabilities."""

    stack: Stack
    rows: NDArray[np.float64]
    mixing: NDArray[np.float64]


def generate(
    base: BaseModel,
    mixture: Mixture,
    prompt: Sequence[int],
    decoding: Decoding,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Generation, ...]:
    """Completions of one prompt.

    Args:
        base: the base model; it is left as it was.
        mixture: what is mixed.
        prompt: its token ids.
        decoding: how; the result depends on nothing else.
        progress: called with (tokens done, tokens at most).

    Raises:
        UsageError: an empty prompt, or one that with the completion is longer than the model can read.
    """
    _check_length(base, len(prompt), decoding)
    samples = [_Sample(decoding.seed, number) for number in range(decoding.samples)]
    ends = end_tokens(base)
    with torch.inference_mode(), stacked(base.model, mixture.stack) as slot:
        slot.use(np.repeat(mixture.rows, decoding.samples, axis=0))
        models = _Models(base.model, mixture, prompt, decoding)
        for done in range(1, decoding.max_new_tokens + 1):
            logprobs = models.next_logprobs()
            for sample, row in zip(samples, logprobs, strict=True):
                if not sample.finished:
                    sample.take(row, decoding.temperature, ends)
            if progress is not None:
                progress(done, decoding.max_new_tokens)
            if all(sample.finished for sample in samples):
                break
            models.append([sample.tokens[-1] for sample in samples])
    return tuple(sample.generation(base) for sample in samples)


def mixed_logprobs(logits: Tensor, mixing: Tensor) -> Tensor:
    """log pi_S (..., vocabulary), normalised, from the logits (m, ..., vocabulary) of m models."""
    mixed: Tensor = torch.tensordot(mixing, logits.log_softmax(dim=-1), dims=1)
    return mixed.log_softmax(dim=-1)


class _Models:
    """The m models, each `samples` times, as rows of one batch; model 0 first."""

    def __init__(
        self, model: PreTrainedModel, mixture: Mixture, prompt: Sequence[int], decoding: Decoding
    ) -> None:
        self._model, self._samples = model, decoding.samples
        self._rows = len(mixture.rows) * decoding.samples
        self._mixing = torch.as_tensor(mixture.mixing, dtype=torch.float64, device=model.device)
        self._keep = decoding.cache
        self._cache: Any = None
        self._tokens = torch.tensor([list(prompt)], device=model.device).repeat(self._rows, 1)

    def next_logprobs(self) -> NDArray[np.float64]:
        """log pi_S of the next token, (samples, vocabulary)."""
        found = self._forward()
        logits = found.logits[:, -1].double().view(-1, self._samples, found.logits.shape[-1])
        if self._keep:
            self._cache = found.past_key_values
        return np.asarray(mixed_logprobs(logits, self._mixing).cpu().numpy())

    def append(self, tokens: Sequence[int]) -> None:
        """Go on with one token for each sample."""
        column = torch.tensor(tokens, device=self._tokens.device).repeat(self._rows // self._samples)[:, None]
        self._tokens = column if self._keep else torch.cat([self._tokens, column], dim=1)

    def _forward(self) -> Any:
        def only_last(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            return (inputs[0][:, -1:], *inputs[1:])

        handle = self._model.get_output_embeddings().register_forward_pre_hook(only_last)
        try:
            return self._model(input_ids=self._tokens, past_key_values=self._cache, use_cache=self._keep)
        finally:
            handle.remove()


class _Sample:
    """A completion as it grows, and its stream of draws."""

    def __init__(self, seed: int, number: int) -> None:
        self._draws = np.random.PCG64(np.random.SeedSequence([seed, number]))
        self.tokens: list[int] = []
        self.logprob = 0.0
        self.finished = False

    def take(self, logprobs: NDArray[np.float64], temperature: float, ends: frozenset[int]) -> None:
        """Choose the next token from (vocabulary,) log-probabilities."""
        token = int(logprobs.argmax()) if temperature == 0.0 else self._draw(logprobs / temperature)
        self.tokens.append(token)
        self.logprob += float(logprobs[token])
        self.finished = token in ends

    def generation(self, base: BaseModel) -> Generation:
        text = str(base.tokenizer.decode(self.tokens, skip_special_tokens=True))
        return Generation(tuple(self.tokens), text, self.logprob, self.finished)

    def _draw(self, scaled: NDArray[np.float64]) -> int:
        """By inversion, from the upper 53 bits of a draw; of impossible tokens none."""
        uniform = float(self._draws.random_raw() >> 11) * 2.0**-53
        steps = np.cumsum(np.exp(scaled - scaled.max()))
        return int(np.searchsorted(steps, uniform * steps[-1], side="right"))


def _check_length(base: BaseModel, prompt: int, decoding: Decoding) -> None:
    most = getattr(base.model.config.get_text_config(), "max_position_embeddings", None)
    if not prompt:
        raise UsageError("a prompt", got="an empty one", do="ask something")
    if most is not None and prompt + decoding.max_new_tokens > most:
        raise UsageError(
            f"a prompt and completion of at most {most} tokens together, as {base.name} can read",
            got=f"{prompt} tokens and up to {decoding.max_new_tokens} new ones",
            do="shorten the prompt, or allow fewer new tokens",
        )
