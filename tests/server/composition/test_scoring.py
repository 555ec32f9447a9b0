"""Coalition margins by every rule, against models to whose weights the dW were added one by one."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from patronage_protocol.errors import LocalProtocolError, UsageError
from patronage_protocol.manifest import LoraTerms
from patronage_protocol.policy import (
    BaseModel,
    TokenizedPair,
    completion_logprobs,
    load_base_model,
    lora_groups,
)
from patronage_protocol.policy.base import weights_digest
from patronage_protocol.valuation import all_coalitions
from patronage_protocol.valuation.composition import check_composition
from patronage_server.composition import AdapterSet, PolicyArithmetic, WeightArithmetic, weighting
from patronage_server.evaluation import score_adapters

BETA = 0.3


def model_with(adapters: AdapterSet, coefficients: np.ndarray) -> torch.nn.Module:
    """A fresh model to whose weights sum_i c_i dW_i is added: the definition."""
    model = load_base_model("tiny", device="cpu", precision="float32").model
    lora = adapters.lora
    for tensors, coefficient in zip(adapters.adapters.values(), coefficients, strict=True):
        for module in lora.modules():
            a, b = (torch.tensor(tensors[f"base_model.model.{module}.lora_{x}.weight"]) for x in "AB")
            model.get_submodule(module).weight += coefficient * lora.scaling * b @ a
    return model


def defined_margins(
    adapters: AdapterSet, coefficients: np.ndarray, pairs: tuple[TokenizedPair, ...]
) -> np.ndarray:
    ratios = completion_logprobs(model_with(adapters, coefficients), pairs) - completion_logprobs(
        adapters.base.model, pairs
    )
    return BETA * (ratios[:, 0] - ratios[:, 1])


@pytest.mark.parametrize(
    ("weights", "expected"),
    [("sum", [1, 1, 0, 1]), ("mean", [1 / 3, 1 / 3, 0, 1 / 3]), ("size", [10 / 45, 30 / 45, 0, 5 / 45])],
)
def test_merged_weights_score_as_a_model_with_the_weighted_sum_of_the_updates(
    adapters: AdapterSet, pairs: tuple[TokenizedPair, ...], weights: str, expected: list[float]
) -> None:
    members = adapters.members("ann", "bob", "dan")
    margins = WeightArithmetic(adapters, weights).coalition(members).margins(pairs, BETA)
    wanted = defined_margins(adapters, np.array(expected), pairs)
    np.testing.assert_allclose(margins, wanted, atol=2e-4)
    assert np.abs(wanted).max() > 0.05


@pytest.mark.parametrize("batch_tokens", [None, 64, 100_000])
def test_a_coalitions_margins_do_not_depend_on_what_shares_its_batch(
    adapters: AdapterSet, pairs: tuple[TokenizedPair, ...], batch_tokens: int | None
) -> None:
    coalitions = all_coalitions(4)
    together = WeightArithmetic(adapters, batch_tokens=batch_tokens).scorer(pairs).margins(coalitions, BETA)
    rule = WeightArithmetic(adapters, batch_tokens=64)
    alone = np.stack([rule.coalition(members).margins(pairs, BETA) for members in coalitions])
    np.testing.assert_allclose(together, alone, atol=1e-4)
    assert not together[0].any()
    assert len(np.unique(together.round(3), axis=0)) == len(coalitions)


def test_single_owners_have_the_margins_of_the_round_under_every_rule(
    adapters: AdapterSet, pairs: tuple[TokenizedPair, ...]
) -> None:
    expected = score_adapters(adapters.base, adapters.adapters, pairs, lora=adapters.lora, beta=BETA)
    singles = np.eye(4, dtype=np.bool_)
    for rule in (
        WeightArithmetic(adapters),
        PolicyArithmetic(adapters),
        PolicyArithmetic(adapters, normalise="token"),
    ):
        np.testing.assert_allclose(rule.scorer(pairs).margins(singles, BETA), expected, atol=1e-4)


@pytest.mark.parametrize("weights", ["sum", "mean", "size"])
def test_policies_compose_as_the_additive_game_of_the_margins(
    adapters: AdapterSet, pairs: tuple[TokenizedPair, ...], weights: str
) -> None:
    scorer = PolicyArithmetic(adapters, weights).scorer(pairs)
    sizes = np.array(list(adapters.sizes.values())) if weights == "size" else None
    rows = score_adapters(adapters.base, adapters.adapters, pairs, lora=adapters.lora, beta=BETA)
    expected = check_composition(rows, weights, sizes).margins(all_coalitions(4))
    np.testing.assert_allclose(scorer.margins(all_coalitions(4), BETA), expected, atol=1e-4)
    assert scorer.passes == 5


def test_a_policy_scorer_runs_an_owner_when_it_is_first_needed_and_never_again(
    adapters: AdapterSet, pairs: tuple[TokenizedPair, ...]
) -> None:
    scorer = PolicyArithmetic(adapters).scorer(pairs)
    first = scorer.margins(adapters.members("bob")[None], BETA)
    assert scorer.passes == 2
    again = scorer.margins(np.stack([adapters.members("bob"), adapters.members("bob", "dan")]), BETA)
    assert scorer.passes == 3
    np.testing.assert_array_equal(first[0], again[0])


def test_normalised_tokens_score_as_the_definition_says(
    adapters: AdapterSet, pairs: tuple[TokenizedPair, ...]
) -> None:
    """log pi_S token by token from the logits of separate models, with numbers of its own."""
    coefficients = np.array([0.5, 0.5, 0.0, 0.5])
    rule = PolicyArithmetic(adapters, lambda coalitions: 0.5 * coalitions, normalise="token", batch_tokens=64)
    ratios = rule.coalition(adapters.members("ann", "bob", "dan")).logratios(pairs)
    models = [model_with(adapters, row) for row in np.concatenate([np.zeros((1, 4)), np.eye(4)])]
    mixing = [1 - coefficients.sum(), *coefficients]
    for number in (0, 7):
        pair = pairs[number]
        for column, completion in enumerate((pair.chosen, pair.rejected)):
            ids = torch.tensor([pair.prompt + completion])
            with torch.no_grad():
                logprobs = [model(input_ids=ids).logits[0].double().log_softmax(-1) for model in models]
            mixed = sum(w * part for w, part in zip(mixing, logprobs, strict=True)).log_softmax(-1)
            places = torch.arange(len(pair.prompt) - 1, ids.shape[1] - 1)
            wanted = (mixed - logprobs[0])[places, ids[0, places + 1]].sum()
            assert ratios[number, column] == pytest.approx(float(wanted), abs=1e-3)


def test_normalising_tokens_differs_from_the_product_over_sequences(
    adapters: AdapterSet, pairs: tuple[TokenizedPair, ...]
) -> None:
    members = adapters.everybody()
    tokens = PolicyArithmetic(adapters, normalise="token").coalition(members).margins(pairs, BETA)
    sequences = PolicyArithmetic(adapters).coalition(members).margins(pairs, BETA)
    assert np.abs(tokens - sequences).max() > 0.01


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_an_owner_without_an_update_changes_no_coalition(
    adapters: AdapterSet, pairs: tuple[TokenizedPair, ...], data: st.DataObject
) -> None:
    """The null player of the game is null in every rule with weights that add up."""
    members = np.array([*data.draw(st.lists(st.booleans(), min_size=3, max_size=3)), False])
    nothing = {name: np.zeros_like(tensor) for name, tensor in adapters.adapters["dan"].items()}
    tensors = {**dict(list(adapters.adapters.items())[:3]), "nobody": nothing}
    padded = AdapterSet(adapters.base, adapters.lora, tensors)
    both = np.stack([members, members | np.array([False, False, False, True])])
    for rule in (WeightArithmetic(padded), PolicyArithmetic(padded)):
        without, with_nobody = rule.scorer(pairs[:3]).margins(both, BETA)
        np.testing.assert_allclose(with_nobody, without, atol=1e-5)


def test_the_base_model_is_left_as_it_was(adapters: AdapterSet, pairs: tuple[TokenizedPair, ...]) -> None:
    for rule in (WeightArithmetic(adapters), PolicyArithmetic(adapters, normalise="token")):
        rule.scorer(pairs).margins(all_coalitions(4), BETA)
    assert weights_digest(adapters.base.model) == adapters.base.weights
    assert not any(module._forward_hooks for module in adapters.base.model.modules())


def test_progress_counts_to_the_end(adapters: AdapterSet, pairs: tuple[TokenizedPair, ...]) -> None:
    for rule in (
        WeightArithmetic(adapters, batch_tokens=64),
        PolicyArithmetic(adapters),
        PolicyArithmetic(adapters, normalise="token"),
    ):
        seen: list[tuple[int, int]] = []
        rule.scorer(pairs).margins(all_coalitions(4), BETA, lambda *step, seen=seen: seen.append(step))
        assert seen[-1][0] == seen[-1][1]
        assert seen == sorted(set(seen))


def test_adapters_of_another_rank_are_refused_before_any_work(
    base: BaseModel, lora: LoraTerms, random_adapter: Callable[..., dict[str, np.ndarray]]
) -> None:
    other = lora.model_copy(update={"rank": 4})
    with pytest.raises(UsageError, match=r"the adapter of bob: expected .*lora_A\.weight of shape \(3, 64\)"):
        AdapterSet(base, lora, {"ann": random_adapter(lora, 0), "bob": random_adapter(other, 1)})


def test_adapters_of_other_target_modules_are_refused(
    base: BaseModel, lora: LoraTerms, random_adapter: Callable[..., dict[str, np.ndarray]]
) -> None:
    fewer = lora.model_copy(update={"groups": lora_groups(base.model, ["q_proj"])})
    with pytest.raises(UsageError, match=r"got none named .*layers\.0\.mlp\.up_proj"):
        AdapterSet(base, lora, {"ann": random_adapter(fewer, 0)})
    with pytest.raises(UsageError, match=r"got one more, .*layers\.0\.mlp\.up_proj"):
        AdapterSet(base, fewer, {"ann": random_adapter(lora, 0)})


def test_a_base_model_of_another_shape_is_refused(
    base: BaseModel, lora: LoraTerms, random_adapter: Callable[..., dict[str, np.ndarray]]
) -> None:
    group = lora.groups[0].model_copy(update={"in_features": 65})
    other = lora.model_copy(update={"groups": (group, *lora.groups[1:])})
    with pytest.raises(UsageError, match="with 65 inputs"):
        AdapterSet(base, other, {"ann": random_adapter(other, 0)})
    missing = lora.groups[0].model_copy(update={"module": "model.layers.{}.nowhere"})
    other = lora.model_copy(update={"groups": (missing,)})
    with pytest.raises(UsageError, match="got none of that name"):
        AdapterSet(base, other, {"ann": random_adapter(other, 0)})


def test_an_adapter_that_was_trained_on_another_base_model_is_refused(adapters: AdapterSet) -> None:
    elsewhere = adapters.base.terms().model_copy(update={"weights": "0d" * 32, "name": "other"})
    with pytest.raises(LocalProtocolError, match="the base model of the round, other, with weights 0d0d"):
        AdapterSet(adapters.base, adapters.lora, adapters.adapters, trained_on={"ann": elsewhere})


def test_nothing_to_compose_a_broken_adapter_and_wrong_sizes_are_refused(adapters: AdapterSet) -> None:
    base, lora = adapters.base, adapters.lora
    with pytest.raises(UsageError, match="at least one adapter"):
        AdapterSet(base, lora, {})
    broken = {name: tensor.copy() for name, tensor in adapters.adapters["ann"].items()}
    next(iter(broken.values()))[0, 0] = np.nan
    with pytest.raises(UsageError, match="the adapter of eve: expected finite values"):
        AdapterSet(base, lora, {"eve": broken})
    for sizes in ({"ann": 3}, dict.fromkeys(adapters.owners, 0), {}):
        with pytest.raises(UsageError, match="training pairs for each"):
            AdapterSet(base, lora, adapters.adapters, sizes=sizes)


def test_wrong_weights_normalisations_and_coalitions_are_refused(
    adapters: AdapterSet, pairs: tuple[TokenizedPair, ...]
) -> None:
    with pytest.raises(UsageError, match="weights out of sum, mean, size"):
        WeightArithmetic(adapters, "median")
    without = AdapterSet(adapters.base, adapters.lora, adapters.adapters)
    with pytest.raises(UsageError, match="training pairs of each owner"):
        weighting("size", without)
    with pytest.raises(UsageError, match="normalise sequence or token"):
        PolicyArithmetic(adapters, normalise="word")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="boolean matrix with 4 columns"):
        WeightArithmetic(adapters).scorer(pairs).margins(np.ones((1, 3), dtype=np.bool_), BETA)
    with pytest.raises(UsageError, match="boolean matrix with 4 columns"):
        PolicyArithmetic(adapters).coalition(np.ones(4))
    with pytest.raises(UsageError, match="owners out of ann, bob"):
        adapters.members("ann", "zoe")
