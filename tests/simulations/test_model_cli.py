"""`patronage chat` and `patronage export` on the folder of a finished round."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from patronage_protocol.adapters import decode
from patronage_protocol.cli import application, main
from patronage_protocol.errors import (
    FormatError,
    LocalProtocolError,
    UnavailableError,
    UsageError,
    VerificationError,
)
from patronage_protocol.policy import load_base_model
from patronage_server.composition import AdapterSet
from patronage_server.exporting import export_consortium
from patronage_server.merged_weights import export_merged
from patronage_server.run_folder import RunFolder
from patronage_simulations.consortium import Consortium
from patronage_simulations.engines import run_engine
from patronage_simulations.progress import Progress

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

IDS = torch.arange(5, 40)[None]


@pytest.fixture
def run(trained: Callable[..., Consortium]) -> Path:
    consortium = trained({"ann": 1, "bob": 2, "cyd": 3})
    run_engine("local", consortium, Progress())
    return consortium.folder


def patronage(*arguments: object, stdin: str | None = None) -> str:
    result = CliRunner().invoke(application(), [str(part) for part in arguments], input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def summed(run: Path, *owners: str) -> torch.Tensor:
    opened = RunFolder.open(run)
    lora, model = opened.state.manifest.lora, load_base_model("tiny", device="cpu", precision="float32").model
    for owner in owners:
        data = (run / "operator" / "adapters" / f"{owner}.safetensors").read_bytes()
        tensors = decode(data, lora, max_bytes=len(data))
        for module in lora.modules():
            a, b = (torch.tensor(tensors[f"base_model.model.{module}.lora_{x}.weight"]) for x in "AB")
            model.get_submodule(module).weight += lora.scaling * b @ a
    return logits(model)


def test_chat_answers_with_base_and_consortium_by_either_rule(run: Path) -> None:
    seen = {}
    for rule in ("policy", "weights"):
        found = json.loads(
            patronage("chat", run, "Hello", "Bye", "--rule", rule, "--max-new-tokens", 8, "--json")
        )
        assert (found["rule"], found["owners"], found["round"]) == (f"{rule}:sum", ["ann", "bob", "cyd"], 1)
        assert [answer["prompt"] for answer in found["answers"]] == ["Hello", "Bye"]
        for answer in found["answers"]:
            assert len(answer["base"][0]["tokens"]) <= 8
            assert answer["base"][0]["tokens"] != answer["consortium"][0]["tokens"]
        seen[rule] = found["answers"]
    assert seen["policy"][0]["base"][0]["tokens"] == seen["weights"][0]["base"][0]["tokens"]


def test_chat_reads_stdin_and_prints_two_columns(run: Path) -> None:
    text = patronage("chat", run, "--max-new-tokens", 4, stdin="Hello\nthere\n")
    assert text.startswith("> Hello\nthere\n\nbase ")
    assert "| consortium" in text


def test_chat_without_a_prompt_or_a_run_says_so(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a prompt as argument or on stdin"):
        patronage("chat", run, stdin="")
    with pytest.raises(UnavailableError, match="the folder of a run"):
        patronage("chat", tmp_path, "Hello")
    with pytest.raises(UsageError, match="round 7 with players, got 1 rounds"):
        patronage("chat", run, "Hello", "--round", 7)
    with pytest.raises(UsageError, match="a composition rule out of"):
        patronage("chat", run, "Hello", "--rule", "median")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("chat", "RUN", "Hello"), (3, "the folder of a run")),
        (("chat", "RUN", "Hello", "--temperature", "nan"), (2, "a temperature")),
        (("export", "RUN", "--out", "OUT"), (3, "the folder of a run")),
    ],
)
def test_failures_of_chat_and_export_are_json_for_scripts(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    problem: tuple[int, str],
) -> None:
    places = {"RUN": str(tmp_path), "OUT": str(tmp_path / "out")}
    monkeypatch.setattr(sys, "argv", ["patronage", *(places.get(word, word) for word in words), "--json"])
    with pytest.raises(SystemExit) as ended:
        main()
    code, expected = problem
    assert ended.value.code == code
    found = json.loads(capsys.readouterr().out)
    assert found["schema_version"] == 1
    assert expected in found["error"]["expected"]
    assert found["error"]["do"]


def test_a_changed_adapter_another_model_and_a_changed_ledger_are_noticed(run: Path) -> None:
    file = run / "operator" / "adapters" / "bob.safetensors"
    before = file.read_bytes()
    file.write_bytes((run / "operator" / "adapters" / "ann.safetensors").read_bytes())
    with pytest.raises(UnavailableError, match="the adapter that bob revealed"):
        patronage("chat", run, "Hello")
    file.write_bytes(before)
    settings = run / "operator" / "operator.toml"
    other = load_base_model("tiny", device="cpu", precision="float32")
    other.model.model.layers[0].mlp.up_proj.weight += 0.1
    other.model.save_pretrained(run / "other")
    other.tokenizer.save_pretrained(run / "other")
    text = settings.read_text()
    settings.write_text(text.replace('"tiny"', json.dumps(str(run / "other"))))
    with pytest.raises(LocalProtocolError, match="the base model of the round"):
        patronage("chat", run, "Hello")
    settings.write_text(text)
    checkpoint = run / "ledger" / "checkpoint"
    checkpoint.write_text(checkpoint.read_text().replace("\n", "\n ", 1))
    with pytest.raises((VerificationError, FormatError)):
        patronage("chat", run, "Hello")


def test_the_exported_adapter_is_the_sum_and_peft_loads_it(run: Path, tmp_path: Path) -> None:
    found = json.loads(patronage("export", run, "--out", tmp_path / "sum", "--json"))
    assert (found["rank"], found["energy"], found["owners"]) == (24, 1.0, ["ann", "bob", "cyd"])
    model = PeftModel.from_pretrained(load_base_model("tiny", device="cpu").model, tmp_path / "sum").eval()
    torch.testing.assert_close(logits(model), summed(run, "ann", "bob", "cyd"), rtol=1e-4, atol=1e-4)


def test_merged_weights_are_the_sum_for_the_owners_that_were_named(run: Path, tmp_path: Path) -> None:
    text = patronage(
        "export", run, "--out", tmp_path / "out", "--as", "merged", "--owner", "ann", "--owner", "cyd"
    )
    assert text.startswith("merged model of ann, cyd, rank 16")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    torch.testing.assert_close(logits(model), summed(run, "ann", "cyd"), rtol=1e-4, atol=1e-4)
    assert (
        load_base_model(tmp_path / "out", device="cpu").tokens == load_base_model("tiny", device="cpu").tokens
    )
    with pytest.raises(UsageError, match="no folder"):
        patronage("export", run, "--out", tmp_path / "out", "--as", "merged")


def test_a_smaller_rank_keeps_the_energy_that_it_says(run: Path, tmp_path: Path) -> None:
    found = json.loads(patronage("export", run, "--out", tmp_path / "cut", "--rank", 10, "--json"))
    adapters = RunFolder.open(run).adapters()
    kept, whole = 0.0, 0.0
    tensors = decode_peft(tmp_path / "cut")
    scaling = adapters.lora.scaling
    for module in adapters.lora.modules():
        a, b = (f"base_model.model.{module}.lora_{factor}.weight" for factor in "AB")
        full = scaling * sum(
            one[b].astype(float) @ one[a].astype(float) for one in adapters.adapters.values()
        )
        cut = scaling * tensors[b].astype(float) @ tensors[a].astype(float)
        sigma = np.linalg.svd(full, compute_uv=False)
        assert np.linalg.norm(full - cut) == pytest.approx(np.sqrt((sigma[10:] ** 2).sum()), rel=1e-3)
        kept, whole = kept + (sigma[:10] ** 2).sum(), whole + (sigma**2).sum()
    assert found["energy"] == pytest.approx(kept / whole, rel=1e-4)
    assert found["worst"] <= found["energy"] < 1
    assert found["rank"] == 10
    for rank in (0, 24, 30):
        with pytest.raises(UsageError, match="a rank from 1 to 23"):
            export_consortium(adapters, tmp_path / "no", rank=rank)


def test_rounding_to_the_models_precision_is_reported_and_the_model_is_left_as_it_was(
    run: Path, tmp_path: Path
) -> None:
    adapters = RunFolder.open(run).adapters()
    bfloat = load_base_model("tiny", device="cpu", precision="bfloat16")
    before = {name: weight.clone() for name, weight in bfloat.model.named_parameters()}
    whole = AdapterSet(bfloat, adapters.lora, adapters.adapters)
    found = export_consortium(whole, tmp_path / "rounded", merged=True)
    assert found.rounding is not None
    assert 1e-5 < found.rounding < 1
    assert "rounding changed" in found.as_text()
    assert all(torch.equal(before[name], weight) for name, weight in bfloat.model.named_parameters())
    exact = export_merged(adapters.base, adapters.adapters["ann"], adapters.lora, tmp_path / "exact")
    assert exact < 1e-9


def decode_peft(folder: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(folder / "adapter_model.safetensors")
