"""Answers drawn from a tiny model, against its exact distribution, and pools against exact expectations."""

from itertools import product

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from patronage_protocol.adapters import Tensors
from patronage_protocol.errors import UsageError
from patronage_protocol.manifest import LoraTerms, PoolTerms
from patronage_protocol.policy import BaseModel, adapted, candidate_logprobs, lora_groups
from patronage_protocol.preferences import PreferencePair
from patronage_protocol.valuation.pools import value_pools
from patronage_server.candidates import Candidates, draw_candidates, score_candidates, with_distinct_prompts
from patronage_server.rewards import Reward
from patronage_server.sampling import Order, sample

WORDS = ("<pad>", "<end>", "a", "b", "c")
END = 1
LENGTH = 3


@pytest.fixture(scope="module")
def base() -> BaseModel:
    """A model of five words, so that all its answers of at most three can be listed."""
    backend = Tokenizer(
        models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="<pad>")
    )
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>", pad_token="<pad>")
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=16,
        eos_token_id=END,
        pad_token_id=0,
        bos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = LlamaForCausalLM(config).eval().requires_grad_(False)
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.6)
    return BaseModel(model, tokenizer, "five words", "float32", "0a" * 32, "0b" * 32)


@pytest.fixture(scope="module")
def lora(base: BaseModel) -> LoraTerms:
    return LoraTerms(rank=2, alpha=4.0, init_seed=0, groups=lora_groups(base.model, ["q_proj", "v_proj"]))


@pytest.fixture(scope="module")
def adapters(lora: LoraTerms) -> dict[str, Tensors]:
    random = np.random.default_rng(3)
    return {
        owner: {
            name: (0.4 * random.normal(size=shape)).astype(np.float32)
            for name, shape in lora.shapes().items()
        }
        for owner in ("ann", "bob")
    }


def pair(prompt: str) -> PreferencePair:
    return PreferencePair(prompt=prompt, chosen=" a", rejected=" b")


def answers() -> tuple[tuple[int, ...], ...]:
    """All answers: up to three words, ended, or three without an end."""
    words = range(len(WORDS))
    return tuple(
        answer
        for length in range(1, LENGTH + 1)
        for answer in product(words, repeat=length)
        if END not in answer[:-1] and (answer[-1] == END or length == LENGTH)
    )


def distribution(base: BaseModel, prompt: tuple[int, ...]) -> NDArray[np.float64]:
    """pi(y | x) of all answers, one number each."""
    return np.exp(candidate_logprobs(base.model, [prompt], [answers()])[0])


def test_all_answers_together_have_probability_one(base: BaseModel) -> None:
    assert len(answers()) == 1 + 4 + 16 * 5
    assert distribution(base, (2, 3, 4)).sum() == pytest.approx(1.0, abs=1e-5)


def test_answers_come_as_often_as_their_probability_says(base: BaseModel) -> None:
    prompt, number = (2, 4), 4000
    drawn = sample(
        base, [Order(prompt, k) for k in range(number)], max_new_tokens=LENGTH, seed=1, batch_rows=500
    )
    listed = {answer: place for place, answer in enumerate(answers())}
    counts = np.bincount([listed[answer] for answer in drawn], minlength=len(listed))
    expected = number * distribution(base, prompt)
    z = (counts - expected) / np.sqrt(expected + 1)
    assert np.abs(z).max() < 4
    assert float((z**2).mean()) < 1.3


def test_an_answer_does_not_depend_on_its_batch(base: BaseModel) -> None:
    orders = [Order((2, 3, 4)[: 1 + k % 3], k) for k in range(20)]
    together = sample(base, orders, max_new_tokens=LENGTH, seed=4, batch_rows=20)
    alone = sample(base, orders, max_new_tokens=LENGTH, seed=4, batch_rows=1)
    assert together == alone
    assert together != sample(base, orders, max_new_tokens=LENGTH, seed=5, batch_rows=20)


def test_a_prompt_that_leaves_no_room_is_refused_before_anything_is_drawn(base: BaseModel) -> None:
    with pytest.raises(UsageError, match=r"within the 16 positions of five words, got 17 tokens"):
        sample(base, [Order((2,) * 14, 0)], max_new_tokens=LENGTH, seed=0)


def test_candidates_that_share_a_row_score_as_they_do_alone(base: BaseModel) -> None:
    pools = [answers()[:7], answers()[20:27]]
    prompts = [(2, 3), (4,)]
    together = candidate_logprobs(base.model, prompts, pools)
    for prompt, pool, row in zip(prompts, pools, together, strict=True):
        for answer, value in zip(pool, row, strict=True):
            assert candidate_logprobs(base.model, [prompt], [[answer]])[0, 0] == pytest.approx(
                value, abs=1e-4
            )


def test_values_of_coalitions_are_the_expected_rewards_of_their_policies(
    base: BaseModel, lora: LoraTerms, adapters: dict[str, Tensors]
) -> None:
    """E_{pi_S}[r] by listing all answers, pi_S being pi_0 prod (pi_i / pi_0), against one pool."""
    pairs = (pair("a b"), pair("c"))
    terms = PoolTerms(candidates=1000, from_base=500, max_new_tokens=LENGTH, seed=2, min_effective=2.0)
    reward = Reward(
        "letters", "0c" * 32, lambda _prompts, texts: [text.count("a") - 0.5 * len(text) for text in texts]
    )
    candidates = draw_candidates(base, list(adapters.values()), pairs, lora=lora, terms=terms)
    pools = score_candidates(base, adapters, candidates, [reward], lora=lora, terms=terms)
    found = value_pools(pools)
    exact = np.zeros(4)
    texts = [base.tokenizer.decode(list(answer), skip_special_tokens=True) for answer in answers()]
    rewards = np.array(reward.call([""] * len(texts), texts))
    for prompt in candidates.prompts:
        plain = distribution(base, prompt)
        ratios = {}
        for owner, tensors in adapters.items():
            with adapted(base.model, lora) as slot:
                slot.load(tensors)
                ratios[owner] = distribution(base, prompt) / plain
        for mask in range(4):
            policy = plain.copy()
            for place, owner in enumerate(adapters):
                if mask >> place & 1:
                    policy *= ratios[owner]
            exact[mask] += float(policy @ rewards / policy.sum()) / len(pairs)
    assert np.ptp(exact) > 0.9, "the adapters change something"
    np.testing.assert_allclose(found.values[:, 0] + found.base[0], exact, atol=0.1)
    assert found.effective.min() > 300


def test_candidates_follow_from_the_seed_and_are_listed_with_their_salt(
    base: BaseModel, lora: LoraTerms, adapters: dict[str, Tensors]
) -> None:
    terms = PoolTerms(candidates=4, from_base=3, max_new_tokens=LENGTH, seed=2, min_effective=2.0)

    def draw() -> Candidates:
        return draw_candidates(base, list(adapters.values()), (pair("a b"),), lora=lora, terms=terms)

    first, again = draw(), draw()
    assert first.encode(b"s" * 32) == again.encode(b"s" * 32)
    assert first.encode(b"s" * 32) != first.encode(b"t" * 32)
    assert [len(pool) for pool in first.tokens] == [4]
    plain = sample(base, [Order(first.prompts[0], k) for k in range(3)], max_new_tokens=LENGTH, seed=2)
    assert list(first.tokens[0][:3]) == plain, "the first ones are the base model's"


def test_an_empty_pool_is_refused(base: BaseModel, lora: LoraTerms, adapters: dict[str, Tensors]) -> None:
    terms = PoolTerms(candidates=4, from_base=3, max_new_tokens=LENGTH, seed=2, min_effective=2.0)
    with pytest.raises(UsageError, match="an empty pool"):
        draw_candidates(base, list(adapters.values()), (), lora=lora, terms=terms)


def test_a_prompt_counts_once_however_many_pairs_it_has() -> None:
    pairs = (pair("a"), pair("b"), pair("a"))
    assert with_distinct_prompts(pairs) == (pairs[0], pairs[1])
