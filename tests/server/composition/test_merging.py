"""TIES and DARE are PEFT's own: the same margins as a real PeftModel merged with add_weighted_adapter."""

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel

from patronage_protocol.errors import UsageError
from patronage_protocol.policy import TokenizedPair, completion_logprobs, load_base_model
from patronage_server.composition import AdapterSet, Decoding, WeightArithmetic
from patronage_server.composition.catalogue import RULES, rule_named
from patronage_server.composition.merging import COMBINATIONS, Combination, PeftMerging
from patronage_server.export import export_adapter

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

BETA = 0.3


@pytest.fixture(scope="module")
def folders(adapters: AdapterSet, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each owner's adapter as a PEFT folder."""
    root = tmp_path_factory.mktemp("adapters")
    for owner, tensors in adapters.adapters.items():
        export_adapter([tensors], lora=adapters.lora, base_model="tiny", out=root / owner)
    return {owner: root / owner for owner in adapters.adapters}


def merged_by_peft(
    folders: dict[str, Path], owners: list[str], combination: Combination, seed: int, svd_rank: int | None
) -> torch.nn.Module:
    model = load_base_model("tiny", device="cpu", precision="float32").model
    loaded = PeftModel.from_pretrained(model, folders[owners[0]], adapter_name=owners[0])
    for owner in owners[1:]:
        loaded.load_adapter(folders[owner], adapter_name=owner)
    torch.manual_seed(seed)
    loaded.add_weighted_adapter(
        owners, [1.0] * len(owners), "merged", combination_type=combination, density=0.5, svd_rank=svd_rank
    )
    loaded.set_adapter("merged")
    return loaded.eval()


@pytest.mark.parametrize("combination", ["ties", "ties_svd"])
def test_ties_is_pefts_own(
    adapters: AdapterSet,
    pairs: tuple[TokenizedPair, ...],
    folders: dict[str, Path],
    combination: Combination,
) -> None:
    owners = ["ann", "bob", "dan"]
    rule = PeftMerging(adapters, combination)
    margins = rule.coalition(adapters.members(*owners)).margins(pairs, BETA)
    model = merged_by_peft(folders, owners, combination, 0, rule.svd_rank)
    ratios = completion_logprobs(model.base_model.model, pairs) - completion_logprobs(
        adapters.base.model, pairs
    )
    np.testing.assert_allclose(margins, BETA * (ratios[:, 0] - ratios[:, 1]), atol=2e-4)
    assert np.abs(margins).max() > 0.02


@pytest.mark.parametrize("combination", ["dare_linear", "dare_ties"])
def test_dare_is_pefts_own_with_the_same_draws(
    adapters: AdapterSet, folders: dict[str, Path], combination: Combination
) -> None:
    owners, members = ["bob", "cyd"], adapters.members("bob", "cyd")
    rule = PeftMerging(adapters, combination, seed=3)
    factors = rule.merged(members)
    seed = int(np.random.SeedSequence([3, 1, 2]).generate_state(1)[0])
    model = merged_by_peft(folders, owners, combination, seed, None)
    for module in adapters.lora.modules():
        layer = model.base_model.model.get_submodule(module)
        torch.testing.assert_close(factors[module][0].T, layer.lora_A["merged"].weight.data)
        torch.testing.assert_close(factors[module][1].T, layer.lora_B["merged"].weight.data)


def test_dare_on_updates_that_keeps_everything_is_the_exact_sum(
    adapters: AdapterSet, pairs: tuple[TokenizedPair, ...]
) -> None:
    members = adapters.members("ann", "cyd")
    exact = WeightArithmetic(adapters).coalition(members).margins(pairs, BETA)
    merged = PeftMerging(adapters, "dare_linear_svd", density=1.0).coalition(members).margins(pairs, BETA)
    np.testing.assert_allclose(merged, exact, atol=1e-3)


def test_what_dare_drops_follows_from_seed_and_coalition_alone(
    adapters: AdapterSet, pairs: tuple[TokenizedPair, ...]
) -> None:
    two, three = adapters.members("ann", "bob"), adapters.members("ann", "bob", "cyd")
    rule = PeftMerging(adapters, "dare_linear", seed=1)
    state = torch.random.get_rng_state()
    forwards = rule.scorer(pairs[:3]).margins(np.stack([two, three]), BETA)
    backwards = rule.scorer(pairs[:3]).margins(np.stack([three, two]), BETA)
    np.testing.assert_array_equal(forwards, backwards[::-1])
    assert torch.equal(state, torch.random.get_rng_state())
    other = PeftMerging(adapters, "dare_linear", seed=2).coalition(two).margins(pairs[:3], BETA)
    assert np.abs(other - forwards[0]).max() > 1e-3


def test_nobody_merged_is_the_base_model(adapters: AdapterSet, pairs: tuple[TokenizedPair, ...]) -> None:
    rule = PeftMerging(adapters, "ties")
    assert not rule.coalition(adapters.members()).margins(pairs, BETA).any()
    decoding = Decoding(max_new_tokens=5)
    nobody = rule.coalition(adapters.members()).generate("Hello", decoding)
    assert nobody == WeightArithmetic(adapters).coalition(adapters.members()).generate("Hello", decoding)
    assert nobody != rule.coalition(adapters.everybody()).generate("Hello", decoding)


@pytest.mark.parametrize("name", [*RULES, "weights:mean", "policy:size", "ties:mean"])
def test_every_rule_has_a_name_by_which_it_is_found(
    adapters: AdapterSet, pairs: tuple[TokenizedPair, ...], name: str
) -> None:
    rule = rule_named(name, adapters)
    assert rule.name == (name if ":" in name else f"{name}:sum")
    assert rule.coalition(adapters.members("ann")).margins(pairs[:2], BETA).shape == (2,)


def test_wrong_combinations_densities_and_names_are_refused(adapters: AdapterSet) -> None:
    assert "ties" in COMBINATIONS
    with pytest.raises(UsageError, match="a combination out of"):
        PeftMerging(adapters, "cat")  # type: ignore[arg-type]
    for density in (0.0, 1.5):
        with pytest.raises(UsageError, match="density"):
            PeftMerging(adapters, "ties", density=density)
    with pytest.raises(UsageError, match="svd_rank"):
        PeftMerging(adapters, "ties", svd_rank=4)
    for name in ("median", "weights:median", "weights:"):
        if name == "weights:":
            assert rule_named(name, adapters).name == "weights:sum"
            continue
        with pytest.raises(UsageError, match="out of"):
            rule_named(name, adapters)
