import numpy as np
import pytest
import torch

from patronage_protocol.adapters import initial
from patronage_protocol.errors import UsageError
from patronage_protocol.manifest import LoraTerms
from patronage_protocol.policy import BaseModel, TokenizedPair, load_base_model, lora_groups, tokenize_pairs
from patronage_protocol.policy.base import weights_digest
from patronage_protocol.preferences import PreferencePair
from patronage_server.evaluation import score_adapters

BETA = 0.3


@pytest.fixture(scope="module")
def base() -> BaseModel:
    torch.set_num_threads(1)
    return load_base_model("tiny", device="cpu")


@pytest.fixture(scope="module")
def pairs(base: BaseModel) -> tuple[TokenizedPair, ...]:
    texts = [
        PreferencePair(
            prompt=f"Question {i}: ", chosen="right " * (i % 5 + 1), rejected="wrong " * (6 - i % 5)
        )
        for i in range(12)
    ]
    return tokenize_pairs(base, texts, max_length=200)


@pytest.fixture(scope="module")
def lora(base: BaseModel) -> LoraTerms:
    return LoraTerms(rank=3, alpha=6.0, init_seed=0, groups=lora_groups(base.model, ["q_proj", "up_proj"]))


def adapter(lora: LoraTerms, seed: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {name: generator.normal(0, 0.2, shape).astype(np.float32) for name, shape in lora.shapes().items()}


def merged_logprob(
    lora: LoraTerms, tensors: dict[str, np.ndarray], ids: tuple[int, ...], start: int
) -> float:
    """log pi(y | x) with dW added to the weights of a fresh model: the definition."""
    model = load_base_model("tiny", device="cpu").model
    for module in lora.modules():
        a, b = (torch.tensor(tensors[f"base_model.model.{module}.lora_{x}.weight"]) for x in "AB")
        model.get_submodule(module).weight += lora.scaling * b @ a
    with torch.no_grad():
        logprobs = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return float(sum(logprobs[position - 1, ids[position]] for position in range(start, len(ids))))


def test_margins_are_those_of_the_definition(
    base: BaseModel, lora: LoraTerms, pairs: tuple[TokenizedPair, ...]
) -> None:
    adapters = {"zoe": adapter(lora, 1), "adam": adapter(lora, 2)}
    margins = score_adapters(base, adapters, pairs, lora=lora, beta=BETA)
    assert margins.shape == (2, len(pairs))
    nothing = initial(lora)
    for row, tensors in enumerate(adapters.values()):
        for column in (0, 7):
            pair = pairs[column]
            start = len(pair.prompt)
            ratio = [
                merged_logprob(lora, tensors, pair.prompt + y, start)
                - merged_logprob(lora, nothing, pair.prompt + y, start)
                for y in (pair.chosen, pair.rejected)
            ]
            assert margins[row, column] == pytest.approx(BETA * (ratio[0] - ratio[1]), abs=2e-4)
            assert abs(margins[row, column]) > 1e-3


def test_an_untrained_adapter_has_no_margin(
    base: BaseModel, lora: LoraTerms, pairs: tuple[TokenizedPair, ...]
) -> None:
    adapters = {"a": adapter(lora, 1), "nothing": initial(lora), "b": adapter(lora, 2)}
    margins = score_adapters(base, adapters, pairs, lora=lora, beta=BETA)
    assert not margins[1].any()
    assert margins[0].any()


def test_a_margin_does_not_depend_on_who_else_is_scored_and_the_base_is_left_as_it_was(
    base: BaseModel, lora: LoraTerms, pairs: tuple[TokenizedPair, ...]
) -> None:
    first, second = adapter(lora, 1), adapter(lora, 2)
    both = score_adapters(base, {"a": first, "b": second}, pairs, lora=lora, beta=BETA)
    alone = score_adapters(base, {"b": second}, pairs, lora=lora, beta=BETA)
    assert both[1].tobytes() == alone[0].tobytes()
    assert weights_digest(base.model) == base.weights
    assert not any(module._forward_hooks for module in base.model.modules())


def test_swapping_the_completions_turns_the_margin_around(
    base: BaseModel, lora: LoraTerms, pairs: tuple[TokenizedPair, ...]
) -> None:
    swapped = tuple(TokenizedPair(pair.prompt, pair.rejected, pair.chosen) for pair in pairs)
    adapters = {"a": adapter(lora, 1)}
    forwards = score_adapters(base, adapters, pairs, lora=lora, beta=BETA)
    backwards = score_adapters(base, adapters, swapped, lora=lora, beta=BETA)
    np.testing.assert_allclose(backwards, -forwards, atol=1e-4)


def test_an_adapter_that_overflows_is_named(
    base: BaseModel, lora: LoraTerms, pairs: tuple[TokenizedPair, ...]
) -> None:
    huge = {name: np.full(shape, 1e30, dtype=np.float32) for name, shape in lora.shapes().items()}
    with pytest.raises(UsageError, match="the adapter of mallory: expected finite"):
        score_adapters(base, {"alice": adapter(lora, 1), "mallory": huge}, pairs, lora=lora, beta=BETA)


def test_progress_counts_all_passes(
    base: BaseModel, lora: LoraTerms, pairs: tuple[TokenizedPair, ...]
) -> None:
    seen: list[tuple[int, int]] = []
    adapters = {"a": adapter(lora, 1), "b": adapter(lora, 2)}
    score_adapters(base, adapters, pairs, lora=lora, beta=BETA, progress=lambda *done: seen.append(done))
    assert seen[-1] == (3 * len(pairs), 3 * len(pairs))
    assert seen == sorted(set(seen))
