import copy
import math
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from transformers import PrinterCallback
from trl import DPOTrainer

from patronage_client import training
from patronage_client.dpo_trainer import lora_config, trainer_arguments
from patronage_client.training import TrainedAdapter, train_adapter
from patronage_protocol.adapters import cosine, decode, encode, encoded_size, initial, norm
from patronage_protocol.errors import DataError, UnavailableError, UsageError
from patronage_protocol.manifest import DpoTerms, LoraTerms
from patronage_protocol.policy import (
    BaseModel,
    adapted,
    completion_logprobs,
    load_base_model,
    lora_groups,
    tokenize_pairs,
)
from patronage_protocol.policy.base import weights_digest
from patronage_protocol.preferences import PreferencePair, training_order

pytestmark = pytest.mark.usefixtures("one_thread", "no_network")

DPO = DpoTerms(
    beta=0.1,
    learning_rate=3e-3,
    epochs=2,
    batch_size=4,
    gradient_accumulation=1,
    warmup_steps=2,
    schedule="cosine",
    max_grad_norm=1.0,
    max_length=128,
    seed=3,
)


@pytest.fixture(scope="module")
def base() -> BaseModel:
    return load_base_model("tiny", device="cpu")


@pytest.fixture(scope="module")
def lora(base: BaseModel) -> LoraTerms:
    return LoraTerms(
        rank=4, alpha=8.0, init_seed=5, groups=lora_groups(base.model, ["q_proj", "v_proj", "up_proj"])
    )


def some_pairs(owner: str, count: int = 14) -> list[PreferencePair]:
    return [
        PreferencePair(
            prompt=f"{owner} asks {'again ' * (i % 3)}{i}: ",
            chosen="please " * (i % 4 + 1),
            rejected="no" * (i % 5 + 1),
        )
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def trained(base: BaseModel, lora: LoraTerms, tmp_path_factory: pytest.TempPathFactory) -> TrainedAdapter:
    folder = tmp_path_factory.mktemp("reference")
    return train_adapter(base, some_pairs("alice"), dpo=DPO, lora=lora, workdir=folder)


def test_training_raises_the_margin_of_its_pairs(
    base: BaseModel, lora: LoraTerms, trained: TrainedAdapter
) -> None:
    pairs = tokenize_pairs(base, some_pairs("alice"), max_length=DPO.max_length)
    before = completion_logprobs(base.model, pairs)
    with adapted(base.model, lora) as slot:
        slot.load(trained.tensors)
        after = completion_logprobs(base.model, pairs)
    margins = DPO.beta * ((after - before)[:, 0] - (after - before)[:, 1])
    assert (margins > 0).mean() > 0.9
    assert trained.statistics.pairs == 14
    assert trained.statistics.steps == 8
    assert 0 < trained.statistics.final_loss < math.log(2)


def test_the_adapter_is_in_the_format_of_the_round(lora: LoraTerms, trained: TrainedAdapter) -> None:
    data = encode(trained.tensors)
    assert len(data) == encoded_size(lora)
    assert list(decode(data, lora, max_bytes=len(data))) == list(trained.tensors)
    assert norm(trained.tensors, lora) > 0


def test_the_same_inputs_give_the_same_bytes_also_after_another_owner(
    base: BaseModel, lora: LoraTerms, trained: TrainedAdapter, tmp_path: Path
) -> None:
    other = train_adapter(base, some_pairs("bob"), dpo=DPO, lora=lora, workdir=tmp_path)
    again = train_adapter(base, some_pairs("alice"), dpo=DPO, lora=lora, workdir=tmp_path)
    assert again.digest == trained.digest
    assert other.digest != trained.digest
    assert abs(cosine(other.tensors, trained.tensors, lora)) < 0.999


def test_the_initial_adapter_and_known_log_probabilities_change_nothing(
    base: BaseModel, lora: LoraTerms, trained: TrainedAdapter, tmp_path: Path
) -> None:
    pairs = some_pairs("alice")
    known = completion_logprobs(base.model, tokenize_pairs(base, pairs, max_length=DPO.max_length))
    told = train_adapter(
        base, pairs, dpo=DPO, lora=lora, workdir=tmp_path, start=initial(lora), reference=known
    )
    # Which rows share a batch changes their last bits.
    assert cosine(told.tensors, trained.tensors, lora) > 1 - 1e-6


def test_training_from_an_adapter_compares_with_that_adapter(
    base: BaseModel, lora: LoraTerms, trained: TrainedAdapter, tmp_path: Path
) -> None:
    one_step = DPO.model_copy(update={"epochs": 1, "batch_size": 14, "warmup_steps": 0})
    further = train_adapter(
        base, some_pairs("bob"), dpo=one_step, lora=lora, workdir=tmp_path, start=trained.tensors
    )
    assert further.statistics.steps == 1
    assert further.statistics.final_loss == pytest.approx(math.log(2), abs=1e-5)
    assert 0.9 < cosine(further.tensors, trained.tensors, lora) < 1 - 1e-6


def test_snapshots_are_the_adapter_after_every_step(
    base: BaseModel, lora: LoraTerms, trained: TrainedAdapter, tmp_path: Path
) -> None:
    seen: dict[int, bytes] = {}
    train_adapter(
        base,
        some_pairs("alice"),
        dpo=DPO,
        lora=lora,
        workdir=tmp_path,
        snapshot=lambda step, tensors: seen.update({step: encode(tensors)}),
    )
    assert list(seen) == list(range(1, 9))
    assert len(set(seen.values())) == 8
    assert seen[8] == encode(trained.tensors)


def test_the_order_of_the_pairs_in_the_file_does_not_matter(
    base: BaseModel, lora: LoraTerms, trained: TrainedAdapter, tmp_path: Path
) -> None:
    shuffled = train_adapter(base, some_pairs("alice")[::-1], dpo=DPO, lora=lora, workdir=tmp_path)
    assert shuffled.digest == trained.digest


def test_the_base_model_and_the_random_state_are_left_as_they_were(
    base: BaseModel, lora: LoraTerms, tmp_path: Path
) -> None:
    fresh = load_base_model("tiny", device="cpu")
    config, names = (
        copy.deepcopy(fresh.model.config.to_dict()),
        [name for name, _ in fresh.model.named_modules()],
    )
    attributes = set(vars(fresh.model))
    states = random.getstate(), legacy_state(), torch.get_rng_state()
    torch.set_num_threads(1)
    train_adapter(fresh, some_pairs("alice"), dpo=DPO, lora=lora, workdir=tmp_path, threads=2)
    assert weights_digest(fresh.model) == fresh.weights == base.weights
    assert fresh.model.config.to_dict() == config
    assert [name for name, _ in fresh.model.named_modules()] == names
    assert set(vars(fresh.model)) == attributes
    assert not fresh.model.training
    assert not any(parameter.requires_grad for parameter in fresh.model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in fresh.model.modules())
    assert random.getstate() == states[0]
    assert legacy_state() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])
    assert torch.get_num_threads() == 1


def test_nothing_is_left_in_the_work_folder(base: BaseModel, lora: LoraTerms, tmp_path: Path) -> None:
    train_adapter(base, some_pairs("alice"), dpo=DPO, lora=lora, workdir=tmp_path, checkpoint_seconds=0)
    assert list(tmp_path.iterdir()) == []


def legacy_state() -> bytes:
    return np.random.get_state()[1].tobytes()  # noqa: NPY002 (what trainers seed)


class PoweredOffError(BaseException):
    """The machine goes down in the middle."""


@pytest.mark.parametrize("steps", [1, 3, 7])
def test_an_interrupted_owner_goes_on_and_gets_the_same_bytes(
    base: BaseModel, lora: LoraTerms, trained: TrainedAdapter, tmp_path: Path, steps: int
) -> None:
    seen: list[int] = []

    def power_off(done: int, total: int) -> None:
        seen.append(done)
        if done == steps + 1:
            raise PoweredOffError

    def train(**options: object) -> TrainedAdapter:
        return train_adapter(
            base, some_pairs("alice"), dpo=DPO, lora=lora, workdir=tmp_path, checkpoint_seconds=0, **options
        )  # type: ignore[arg-type]

    with pytest.raises(PoweredOffError):
        train(progress=power_off)
    (folder,) = tmp_path.iterdir()
    unfinished = folder / f"checkpoint-{steps + 1}"
    unfinished.mkdir()
    (unfinished / "trainer_state.json").write_bytes(b"{")
    rest: list[int] = []
    resumed = train(progress=lambda done, total: rest.append(done))
    assert rest == list(range(steps + 1, 9))
    assert encode(resumed.tensors) == encode(trained.tensors)
    assert resumed.statistics.steps == trained.statistics.steps
    assert resumed.statistics.final_loss == trained.statistics.final_loss


def test_no_checkpoint_asks_the_hub_about_the_base_model(
    base: BaseModel, lora: LoraTerms, trained: TrainedAdapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PEFT would, at the second one, and warn that it got no answer."""
    monkeypatch.setattr(base.model, "name_or_path", "somebody/base")
    named = train_adapter(
        base, some_pairs("alice"), dpo=DPO, lora=lora, workdir=tmp_path, checkpoint_seconds=0
    )
    assert encode(named.tensors) == encode(trained.tensors)
    assert base.model.name_or_path == "somebody/base"


def test_a_checkpoint_of_another_training_is_not_taken_up(
    base: BaseModel, lora: LoraTerms, trained: TrainedAdapter, tmp_path: Path
) -> None:
    def power_off(done: int, total: int) -> None:
        if done == 4:
            raise PoweredOffError

    with pytest.raises(PoweredOffError):
        train_adapter(
            base,
            some_pairs("bob"),
            dpo=DPO,
            lora=lora,
            workdir=tmp_path,
            checkpoint_seconds=0,
            progress=power_off,
        )
    again = train_adapter(base, some_pairs("alice"), dpo=DPO, lora=lora, workdir=tmp_path)
    assert again.digest == trained.digest


class PlainTrainer(DPOTrainer):
    """TRL's own, but for the report that it sends."""

    def _send_telemetry(self) -> None:
        pass


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("share", [True, False], ids=["shared prompts", "one row a completion"])
def test_the_adapter_is_the_one_that_trl_trains(
    base: BaseModel, lora: LoraTerms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: bool
) -> None:
    pairs = some_pairs("alice")
    dpo = DPO.model_copy(update={"gradient_accumulation": 2, "batch_size": 3})
    monkeypatch.setattr(training, "shares_prompts", lambda _: share)
    ours = train_adapter(base, pairs, dpo=dpo, lora=lora, workdir=tmp_path)
    arguments = trainer_arguments(base, dpo, tmp_path, save_memory=False)
    ordered = [pairs[index] for index in training_order(pairs, seed=dpo.seed)]
    columns = {name: [getattr(pair, name) for pair in ordered] for name in ("prompt", "chosen", "rejected")}
    trainer = PlainTrainer(
        model=load_base_model("tiny", device="cpu").model,
        args=replace(arguments, remove_unused_columns=True),
        train_dataset=Dataset.from_dict(columns),
        processing_class=base.tokenizer,
        peft_config=lora_config(lora),
    )
    trainer.remove_callback(PrinterCallback)
    start = {name: torch.tensor(value) for name, value in initial(lora).items()}
    set_peft_model_state_dict(trainer.model, start)
    trainer.train()
    theirs = {name: value.numpy() for name, value in get_peft_model_state_dict(trainer.model).items()}
    assert ours.statistics.steps == trainer.state.global_step == 6
    assert cosine(ours.tensors, theirs, lora) > 0.9999
    for name, value in theirs.items():
        np.testing.assert_allclose(ours.tensors[name], value, atol=2e-4)


def test_a_bfloat16_base_trains_float32_adapters(
    lora: LoraTerms, trained: TrainedAdapter, tmp_path: Path
) -> None:
    half = load_base_model("tiny", precision="bfloat16", device="cpu")
    result = train_adapter(half, some_pairs("alice"), dpo=DPO, lora=lora, workdir=tmp_path)
    assert all(tensor.dtype == np.float32 for tensor in result.tensors.values())
    values = next(iter(result.tensors.values())).ravel()
    rounded = torch.tensor(values).bfloat16().float().numpy()
    assert not np.array_equal(values, rounded)
    assert cosine(result.tensors, trained.tensors, lora) > 0.9
    assert weights_digest(half.model) == half.weights


def test_saving_memory_changes_the_result_by_rounding_only(
    base: BaseModel, lora: LoraTerms, trained: TrainedAdapter, tmp_path: Path
) -> None:
    result = train_adapter(base, some_pairs("alice"), dpo=DPO, lora=lora, workdir=tmp_path, save_memory=True)
    assert cosine(result.tensors, trained.tensors, lora) > 0.9999


def test_no_pairs_are_refused(base: BaseModel, lora: LoraTerms, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least one preference pair"):
        train_adapter(base, [], dpo=DPO, lora=lora, workdir=tmp_path)


def test_a_pair_that_is_too_long_is_refused_by_its_number(
    base: BaseModel, lora: LoraTerms, tmp_path: Path
) -> None:
    pairs = [*some_pairs("alice", 2), PreferencePair(prompt="x" * 200, chosen="a", rejected="b")]
    with pytest.raises(DataError, match="pair 3: "):
        train_adapter(base, pairs, dpo=DPO, lora=lora, workdir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_is_not_finite_stops_the_training(
    base: BaseModel, lora: LoraTerms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overflowing(terms: LoraTerms) -> dict[str, np.ndarray]:
        return {name: np.full(shape, 1e30, dtype=np.float32) for name, shape in terms.shapes().items()}

    monkeypatch.setattr(training, "initial", overflowing)
    with pytest.raises(UsageError, match="training: expected a finite loss, got nan at step 1"):
        train_adapter(base, some_pairs("alice"), dpo=DPO, lora=lora, workdir=tmp_path)
    assert weights_digest(base.model) == base.weights


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore"),
            "Tried to allocate 2 GiB.; set",
        ),
        (OSError(28, os.strerror(28)), "room for checkpoints .*No space left"),
    ],
)
def test_a_lack_of_room_is_one_clear_line(
    base: BaseModel, lora: LoraTerms, tmp_path: Path, error: Exception, line: str
) -> None:
    def fail(done: int, total: int) -> None:
        raise error

    with pytest.raises(UnavailableError, match=line) as caught:
        train_adapter(base, some_pairs("alice"), dpo=DPO, lora=lora, workdir=tmp_path, progress=fail)
    assert "\n" not in str(caught.value)


def test_training_is_silent_and_writes_only_in_its_folder(tmp_path: Path) -> None:
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    script = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from patronage_client.training import train_adapter
from patronage_protocol.manifest import DpoTerms, LoraTerms
from patronage_protocol.policy import load_base_model, lora_groups
from patronage_protocol.preferences import PreferencePair, training_order
base = load_base_model("tiny", device="cpu")
lora = LoraTerms(rank=4, alpha=8.0, init_seed=5, groups=lora_groups(base.model, ["q_proj"]))
dpo = DpoTerms(beta=0.1, learning_rate=1e-3, epochs=1, batch_size=2, gradient_accumulation=1, warmup_steps=0,
    schedule="linear", max_grad_norm=1.0, max_length=64, seed=0)
pairs = [PreferencePair(prompt=f"{i}: ", chosen="yes", rejected="no") for i in range(4)]
train_adapter(base, pairs, dpo=dpo, lora=lora, workdir=Path(sys.argv[1]), checkpoint_seconds=0)
"""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "XDG_", "TMP"))}
    run = subprocess.run(
        [sys.executable, "-c", script, str(work)],
        capture_output=True,
        text=True,
        check=True,
        cwd=home,
        env={**kept, "HOME": str(home), "TMPDIR": str(home)},
    )
    assert run.stdout == ""
    assert run.stderr == ""
    assert list(home.rglob("*")) == []
