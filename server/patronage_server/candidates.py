"""Candidate pools of a round: drawn, scored once by every reward and once under each of the n + 2 models.

The candidates of a prompt are drawn from pi_0, the first ones, and from the model of all players, whose dW is
the sum of theirs. Both densities of every candidate are known, so both kinds are taken as draws from the
mixture (patronage_protocol.valuation.pools). The texts stay with the operator, in candidates.jsonl:

    line 1     {"salt": ...}, an HMAC by the held-out secret: the file's digest tells nothing of a prompt
    line 2...  {"prompt": 0, "number": 0, "text": ..., "tokens": [...]}   RFC 8785, prompt after prompt
"""

import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patronage_protocol.adapters import Tensors
from patronage_protocol.canonical import canonical_bytes
from patronage_protocol.errors import UsageError
from patronage_protocol.manifest import LoraTerms, PoolTerms
from patronage_protocol.policy import AdapterSlot, BaseModel, adapted, candidate_logprobs, prompt_tokens
from patronage_protocol.preferences import PreferencePair
from patronage_protocol.valuation.pools import CandidatePools
from patronage_server.export import concatenate
from patronage_server.rewards import Reward, score
from patronage_server.sampling import Order, sample

__all__ = ["Candidates", "draw_candidates", "score_candidates", "with_distinct_prompts"]

_SALT_DOMAIN = b"patronage candidates salt v1"

Progress = Callable[[str], Callable[[int, int], None]]
"""Gives, for what is being done, a function of (steps done, steps in all)."""


@dataclass(frozen=True)
class Candidates:
    """K candidates for each of M prompts.

    Attributes:
        pairs: M held-out pairs with distinct prompts, whose prompts these are.
        prompts: their token ids.
        tokens: (M, K) token ids of the candidates, none empty.
        texts: (M, K) the same as text, without the tokens that end them.
    """

    pairs: tuple[PreferencePair, ...]
    prompts: tuple[tuple[int, ...], ...]
    tokens: tuple[tuple[tuple[int, ...], ...], ...]
    texts: tuple[tuple[str, ...], ...]

    def encode(self, secret: bytes) -> bytes:
        """The operator's file, salted with its held-out secret."""
        salt = hmac.digest(secret, _SALT_DOMAIN, "sha256").hex()
        lines: list[object] = [{"schema_version": 1, "salt": salt}]
        lines += [
            {"prompt": prompt, "number": number, "text": text, "tokens": list(tokens)}
            for prompt, pool in enumerate(zip(self.texts, self.tokens, strict=True))
            for number, (text, tokens) in enumerate(zip(*pool, strict=True))
        ]
        return b"".join(canonical_bytes(line) + b"\n" for line in lines)


def with_distinct_prompts(pairs: Sequence[PreferencePair]) -> tuple[PreferencePair, ...]:
    """The first pair of every prompt, in order."""
    seen: dict[str, PreferencePair] = {}
    for pair in pairs:
        seen.setdefault(pair.prompt_digest, pair)
    return tuple(seen.values())


def draw_candidates(
    base: BaseModel,
    adapters: Sequence[Tensors],
    pairs: Sequence[PreferencePair],
    *,
    lora: LoraTerms,
    terms: PoolTerms,
    progress: Progress | None = None,
) -> Candidates:
    """Candidates for the prompts of `pairs`, which are distinct: some of pi_0, the others of everybody.

    Raises:
        UsageError: no prompts, or prompts and answers too long for the model.
        DataError: a prompt of messages, and the model has no chat template.
        UnavailableError: the device has not enough memory.
    """
    if not pairs:
        raise UsageError("at least one held-out prompt", got="an empty pool", do="hold out more pairs")
    prompts = tuple(prompt_tokens(base, pair.prompt) for pair in pairs)
    drawn: list[list[tuple[int, ...]]] = [[] for _ in prompts]
    with adapted(base.model, lora) as slot:
        for label, numbers in (
            ("answers of the base model", range(terms.from_base)),
            ("answers of everybody", range(terms.from_base, terms.candidates)),
        ):
            orders = [Order(prompt, number) for prompt in prompts for number in numbers]
            answers = sample(
                base,
                orders,
                max_new_tokens=terms.max_new_tokens,
                seed=terms.seed,
                progress=progress and progress(label),
            )
            for place, answer in enumerate(answers):
                drawn[place // len(numbers)].append(answer)
            _load_everybody(slot, adapters, lora)
    texts = tuple(tuple(_text(base, answer) for answer in pool) for pool in drawn)
    return Candidates(tuple(pairs), prompts, tuple(map(tuple, drawn)), texts)


def score_candidates(
    base: BaseModel,
    adapters: Mapping[str, Tensors],
    candidates: Candidates,
    rewards: Sequence[Reward],
    *,
    lora: LoraTerms,
    terms: PoolTerms,
    progress: Progress | None = None,
) -> CandidatePools:
    """Every candidate under the base model, each adapter and all of them together, and by every reward.

    Raises:
        UsageError: a reward fails, or a model gives no finite log-probability; says which.
        UnavailableError: the device has not enough memory.
    """
    scores = np.stack([_scored(reward, candidates) for reward in rewards])

    def logprobs(label: str) -> NDArray[np.float64]:
        try:
            return candidate_logprobs(
                base.model, candidates.prompts, candidates.tokens, progress=progress and progress(label)
            )
        except UsageError as error:
            raise UsageError(error.expected, got=error.got, do=error.do, where=label) from error

    with adapted(base.model, lora) as slot:
        reference = logprobs("the base model")
        ratios = []
        for owner, tensors in adapters.items():
            slot.load(tensors)
            ratios.append(logprobs(f"the adapter of {owner}") - reference)
        _load_everybody(slot, list(adapters.values()), lora)
        proposal = logprobs("everybody") - reference
    return CandidatePools(np.stack(ratios), proposal, terms.from_base, scores)


def _load_everybody(slot: AdapterSlot, adapters: Sequence[Tensors], lora: LoraTerms) -> None:
    slot.load(concatenate(adapters, lora=lora))


def _scored(reward: Reward, candidates: Candidates) -> NDArray[np.float64]:
    size = len(candidates.texts[0])
    prompts = [pair.prompt for pair in candidates.pairs for _ in range(size)]
    texts = [text for pool in candidates.texts for text in pool]
    return score(reward, prompts, texts).reshape(len(candidates.pairs), size)


def _text(base: BaseModel, answer: Sequence[int]) -> str:
    return str(base.tokenizer.decode(list(answer), skip_special_tokens=True))
