"""Generation from composed models, against definitions that run every model by itself and keep no cache."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from patronage_protocol.errors import DataError, UsageError
from patronage_protocol.policy import load_base_model
from patronage_protocol.policy.base import weights_digest
from patronage_protocol.policy.tokenising import prompt_tokens
from patronage_protocol.preferences import ChatMessage
from patronage_server.composition import AdapterSet, Decoding, PolicyArithmetic, WeightArithmetic
from patronage_server.composition.decoding import mixed_logprobs

PROMPT = "What is a cooperative?"
GREEDY = Decoding(max_new_tokens=12)
SAMPLED = Decoding(max_new_tokens=12, temperature=0.8, samples=3, seed=5)


def model_with(adapters: AdapterSet, *owners: str) -> torch.nn.Module:
    model = load_base_model("tiny", device="cpu", precision="float32").model
    for owner in owners:
        for module in adapters.lora.modules():
            a, b = (
                torch.tensor(adapters.adapters[owner][f"base_model.model.{module}.lora_{x}.weight"])
                for x in "AB"
            )
            model.get_submodule(module).weight += adapters.lora.scaling * b @ a
    return model


def next_logprobs(model: torch.nn.Module, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].double().log_softmax(-1)


@pytest.mark.parametrize("rule", [PolicyArithmetic, WeightArithmetic])
@pytest.mark.parametrize("decoding", [GREEDY, SAMPLED])
def test_with_a_cache_and_without_the_same_tokens_come_out(
    adapters: AdapterSet, rule: type, decoding: Decoding
) -> None:
    model = rule(adapters).coalition(adapters.members("ann", "cyd"))
    with_cache = model.generate(PROMPT, decoding)
    without = model.generate(PROMPT, Decoding(**{**vars(decoding), "cache": False}))
    assert [g.tokens for g in with_cache] == [g.tokens for g in without]
    assert [g.logprob for g in with_cache] == pytest.approx([g.logprob for g in without], abs=1e-3)


def test_policy_arithmetic_takes_the_best_token_of_the_product_of_separate_models(
    adapters: AdapterSet,
) -> None:
    generation = PolicyArithmetic(adapters).coalition(adapters.members("ann", "cyd")).generate(PROMPT, GREEDY)
    models = [model_with(adapters), model_with(adapters, "ann"), model_with(adapters, "cyd")]
    ids, total = list(prompt_tokens(adapters.base, PROMPT)), 0.0
    for token in generation[0].tokens:
        base, ann, cyd = (next_logprobs(model, ids) for model in models)
        product = (ann + cyd - base).log_softmax(-1)
        assert float(product.max() - product[token]) < 1e-4
        total += float(product[token])
        ids.append(token)
    assert generation[0].logprob == pytest.approx(total, abs=1e-3)


@pytest.mark.parametrize("decoding", [GREEDY, SAMPLED])
def test_policy_arithmetic_of_one_owner_is_that_owners_model(
    adapters: AdapterSet, decoding: Decoding
) -> None:
    members = adapters.members("bob")
    product = PolicyArithmetic(adapters).coalition(members).generate(PROMPT, decoding)
    merged = WeightArithmetic(adapters).coalition(members).generate(PROMPT, decoding)
    assert [g.tokens for g in product] == [g.tokens for g in merged]
    model, ids = model_with(adapters, "bob"), list(prompt_tokens(adapters.base, PROMPT))
    logprobs = next_logprobs(model, ids)
    first = PolicyArithmetic(adapters).coalition(members).generate(PROMPT, Decoding(max_new_tokens=1))[0]
    assert first.tokens[0] == int(logprobs.argmax())
    assert first.logprob == pytest.approx(float(logprobs.max()), abs=1e-4)


def test_nobody_together_is_the_base_model(adapters: AdapterSet) -> None:
    nobody = adapters.members()
    texts = {
        rule(adapters).coalition(nobody).generate(PROMPT, GREEDY)[0].tokens
        for rule in (PolicyArithmetic, WeightArithmetic)
    }
    ids = list(prompt_tokens(adapters.base, PROMPT))
    assert {int(next_logprobs(model_with(adapters), ids).argmax())} == {tokens[0] for tokens in texts}
    assert len(texts) == 1


def test_a_seed_gives_the_same_samples_and_a_sample_does_not_depend_on_how_many_there_are(
    adapters: AdapterSet,
) -> None:
    model = PolicyArithmetic(adapters).coalition(adapters.everybody())
    three = model.generate(PROMPT, SAMPLED)
    assert three == model.generate(PROMPT, SAMPLED)
    one = model.generate(PROMPT, Decoding(**{**vars(SAMPLED), "samples": 1}))
    assert one[0].tokens == three[0].tokens
    assert len({g.tokens for g in three}) == 3
    other = model.generate(PROMPT, Decoding(**{**vars(SAMPLED), "seed": 6}))
    assert {g.tokens for g in other}.isdisjoint(g.tokens for g in three)


def test_samples_follow_the_mixed_probabilities(adapters: AdapterSet) -> None:
    """Of 400 first tokens at temperature one, every likely token appears about as often as it should."""
    model = PolicyArithmetic(adapters).coalition(adapters.members("ann", "bob"))
    draws = model.generate(PROMPT, Decoding(max_new_tokens=1, temperature=1.0, samples=400, seed=1))
    ids = list(prompt_tokens(adapters.base, PROMPT))
    base, ann, bob = (next_logprobs(model_with(adapters, *who), ids) for who in ((), ("ann",), ("bob",)))
    expected = (ann + bob - base).softmax(-1).numpy()
    counts = np.bincount([g.tokens[0] for g in draws], minlength=len(expected))
    deviation = (counts - 400 * expected) / np.sqrt(400 * expected * (1 - expected))
    assert np.abs(deviation[expected > 0.01]).max() < 4


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    logits=st.lists(st.lists(st.floats(-20, 20), min_size=5, max_size=5), min_size=2, max_size=4),
    shifts=st.lists(st.floats(-50, 50), min_size=4, max_size=4),
    weights=st.lists(st.floats(-2, 2), min_size=4, max_size=4),
)
def test_mixed_log_probabilities_sum_to_one_and_ignore_what_is_added_to_all_logits_of_a_model(
    logits: list[list[float]], shifts: list[float], weights: list[float]
) -> None:
    count = len(logits)
    values, mixing = torch.tensor(logits, dtype=torch.float64), torch.tensor(weights[:count]).double()
    mixed = mixed_logprobs(values, mixing)
    assert float(mixed.exp().sum()) == pytest.approx(1.0)
    shifted = values + torch.tensor(shifts[:count], dtype=torch.float64)[:, None]
    torch.testing.assert_close(mixed_logprobs(shifted, mixing), mixed, atol=1e-8, rtol=1e-8)
    one = mixed_logprobs(values[:1], torch.ones(1).double())
    torch.testing.assert_close(one, values[:1].log_softmax(-1)[0])


def test_generation_ends_with_the_end_of_text(adapters: AdapterSet) -> None:
    model = WeightArithmetic(adapters).coalition(adapters.members())
    config = adapters.base.model.generation_config
    before = config.eos_token_id
    first = model.generate(PROMPT, GREEDY)[0].tokens
    try:
        config.eos_token_id = [first[3]]
        stopped = model.generate(PROMPT, GREEDY)[0]
    finally:
        config.eos_token_id = before
    assert stopped.finished
    assert stopped.tokens == first[: first.index(first[3]) + 1]


def test_messages_go_through_the_chat_template(adapters: AdapterSet) -> None:
    messages = (ChatMessage(role="user", content=PROMPT),)
    tokens = prompt_tokens(adapters.base, messages)
    assert adapters.base.tokenizer.decode(tokens).endswith("<|im_start|>assistant\n")
    model = WeightArithmetic(adapters).coalition(adapters.everybody())
    assert model.generate(messages, GREEDY) != model.generate(PROMPT, GREEDY)


def test_the_base_model_is_left_as_it_was(adapters: AdapterSet) -> None:
    PolicyArithmetic(adapters).coalition(adapters.everybody()).generate(PROMPT, SAMPLED)
    assert weights_digest(adapters.base.model) == adapters.base.weights
    assert not any(
        hooks
        for module in adapters.base.model.modules()
        for hooks in (module._forward_hooks, module._forward_pre_hooks)
    )


def test_what_cannot_be_generated_is_refused(adapters: AdapterSet) -> None:
    model = PolicyArithmetic(adapters).coalition(adapters.everybody())
    with pytest.raises(UsageError, match="at most 4096 tokens together"):
        model.generate(PROMPT, Decoding(max_new_tokens=5000))
    with pytest.raises(UsageError, match="expected a prompt, got an empty one"):
        model.generate("")
    for wrong in ({"max_new_tokens": 0}, {"samples": 0}, {"seed": -1}, {"temperature": -1.0}):
        with pytest.raises(UsageError):
            Decoding(**wrong)
    with pytest.raises(UsageError, match="one sample at temperature 0"):
        Decoding(samples=2)
    template, adapters.base.tokenizer.chat_template = adapters.base.tokenizer.chat_template, None
    try:
        with pytest.raises(DataError, match="chat template"):
            model.generate((ChatMessage(role="user", content=PROMPT),))
    finally:
        adapters.base.tokenizer.chat_template = template
