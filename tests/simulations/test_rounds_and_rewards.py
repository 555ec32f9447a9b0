"""Two rounds on rewards, from pairs to a verified ledger; the second starts where the first ends."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from patronage_protocol.adapters import decode
from patronage_protocol.canonical import sha256
from patronage_protocol.errors import PatronageError, RemoteProtocolError
from patronage_protocol.evidence import read_evidence
from patronage_protocol.files import read_bytes
from patronage_protocol.policy import candidate_logprobs, load_base_model, shared_base_model, started
from patronage_protocol.rounds import Phase, Round
from patronage_protocol.verify import verify_ledger
from patronage_server.exporting import export_consortium
from patronage_server.follow import last_round
from patronage_server.giving_up import give_up
from patronage_server.home import STORE, OperatorHome
from patronage_server.report import read_report, render
from patronage_server.rewards import RewardError
from patronage_server.run_folder import RunFolder
from patronage_server.starting import exported_lora
from patronage_simulations.consortium import found
from patronage_simulations.engines import SimulatedClock, clock_after, run_engine
from patronage_simulations.plans import Computing, plan_of_scenario
from patronage_simulations.progress import Progress
from patronage_simulations.scenarios import Scenario, load_scenario
from patronage_simulations.simulate import simulate

ROUNDS = 2


def small() -> Scenario:
    """The preset, with less of everything."""
    scenario = load_scenario("tiny-rewards")
    owners = tuple(owner.model_copy(update={"pairs": 8}) for owner in scenario.owners[::2])
    held_out = scenario.held_out.model_copy(update={"pairs_per_skill": 4})
    terms = scenario.terms
    pool = terms.game.pool.model_copy(  # type: ignore[union-attr]
        update={"candidates": 4, "from_base": 2, "max_new_tokens": 8, "min_effective": 1.01}
    )
    dpo = terms.dpo.model_copy(update={"epochs": 1, "batch_size": 4})
    interval = terms.interval.model_copy(update={"replicates": 200})
    changes = {"game": terms.game.model_copy(update={"pool": pool}), "dpo": dpo, "interval": interval}
    return scenario.model_copy(
        update={"owners": owners, "held_out": held_out, "terms": terms.model_copy(update=changes)}
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rounds") / "run"
    simulate(
        plan_of_scenario(small(), Computing()), folder, engine="local", progress=Progress(), rounds=ROUNDS
    )
    return folder


@pytest.fixture(scope="module")
def rounds(run: Path) -> tuple[Round, ...]:
    return verify_ledger(run / "ledger").rounds


def test_every_round_is_final_and_starts_where_the_last_one_ended(rounds: tuple[Round, ...]) -> None:
    assert [state.phase for state in rounds] == [Phase.FINAL] * ROUNDS
    first, second = rounds
    assert first.manifest.start is None
    start = second.manifest.start
    assert start is not None
    assert (start.round, start.adapter) == (1, first.adapter)
    assert start.rank == len(first.players) * first.manifest.lora.rank


def test_the_reports_and_adapters_of_all_rounds_are_there(run: Path, rounds: tuple[Round, ...]) -> None:
    for name, state in zip(("adapter", "adapter-2"), rounds, strict=True):
        assert sha256((run / name / "adapter_model.safetensors").read_bytes()) == state.adapter
    assert b"round 1" in (run / "report-1.html").read_bytes()
    assert b"round 2" in (run / "report.html").read_bytes()
    config = json.loads((run / "adapter-2" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (16, 32.0)


def test_the_evidence_of_rewards_is_what_the_candidates_score(run: Path, rounds: tuple[Round, ...]) -> None:
    ledger = verify_ledger(run / "ledger").ledger
    for state, name in zip(rounds, ("candidates.jsonl", "candidates-2.jsonl"), strict=True):
        assert state.margins is not None
        evidence = read_evidence(ledger.blobs[state.margins], state.manifest)
        listed = (run / "operator" / name).read_bytes()
        assert evidence.header.candidates == sha256(listed)  # type: ignore[union-attr]
        texts = [json.loads(line)["text"] for line in listed.splitlines()[1:]]
        plain = [sum("a" <= letter <= "z" for letter in text) / max(len(text), 1) for text in texts]
        rewards = evidence.pools.rewards  # type: ignore[union-attr]
        np.testing.assert_allclose(rewards[0].reshape(-1), plain, atol=1e-6)


def test_margins_of_the_second_round_are_measured_against_the_first_ones_policy(
    run: Path, rounds: tuple[Round, ...]
) -> None:
    """pi_0 with both adapters of the second round in its exported sum is its start with their sum on top."""
    manifest = rounds[1].manifest
    assert manifest.start is not None
    base = load_base_model("tiny", precision=manifest.base_model.precision, device="cpu")
    policy = started(base, manifest, (run / "adapter" / "adapter_model.safetensors").read_bytes())
    lora = exported_lora(manifest, len(rounds[1].players))
    whole = manifest.model_copy(
        update={"start": manifest.start.model_copy(update={"adapter": rounds[1].adapter, "rank": lora.rank})}
    )
    whole = whole.model_copy(update={"start": whole.start.model_copy(update={"alpha": lora.alpha})})  # type: ignore[union-attr]
    exported = started(base, whole, (run / "adapter-2" / "adapter_model.safetensors").read_bytes())
    tokens = [[(5, 6, 7), (8, 9)]]
    values = [candidate_logprobs(model.model, [(10, 11)], tokens) for model in (base, policy, exported)]
    assert np.abs(values[1] - values[0]).max() > 1e-3, "the start changes the base model"
    assert np.abs(values[2] - values[1]).max() > 1e-4, "the second round changes the start"
    again = candidate_logprobs(base.model, [(10, 11)], tokens)
    np.testing.assert_array_equal(again, values[0], "and the base model is left as it was")


def test_an_export_of_a_later_round_holds_its_start(
    run: Path, rounds: tuple[Round, ...], tmp_path: Path
) -> None:
    opened = RunFolder.open(run)
    found = export_consortium(opened.adapters(), tmp_path / "out", start=opened.start())
    assert sha256((tmp_path / "out" / "adapter_model.safetensors").read_bytes()) == rounds[1].adapter
    assert found.rank == 16
    first = RunFolder.open(run, round_number=1)
    assert first.start() is None
    assert set(first.adapters().adapters) == set(rounds[0].players)


def test_other_bytes_than_the_start_are_refused(run: Path, rounds: tuple[Round, ...]) -> None:
    base = load_base_model("tiny", precision="float32", device="cpu")
    data = (run / "adapter" / "adapter_model.safetensors").read_bytes()
    for wrong in (b"", data[:-4] + b"\0\0\0\0"):
        with pytest.raises(RemoteProtocolError, match="the consortium's adapter of round 1"):
            started(base, rounds[1].manifest, wrong)


def test_an_owner_trains_from_no_other_start(run: Path, rounds: tuple[Round, ...]) -> None:
    """The second adapters are not the first: they are increments over another policy."""
    for player in rounds[0].players:
        first, second = (
            decode(
                read_bytes(OperatorHome.load(run / "operator").adapter(player, number), limit=2**20),
                rounds[0].manifest.lora,
                max_bytes=2**20,
            )
            for number in (1, 2)
        )
        assert any(not np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        ("math:nothing", "no attribute 'nothing'"),
        ("no_such_module:f", "No module named"),
    ],
)
def test_a_reward_that_is_not_there_costs_seconds_and_makes_no_folder(
    tmp_path: Path, function: str, problem: str
) -> None:
    scenario = small()
    game = scenario.terms.game
    objective = game.objectives[0].model_copy(update={"reward": f"python:{function}"})  # type: ignore[union-attr]
    terms = scenario.terms.model_copy(update={"game": game.model_copy(update={"objectives": (objective,)})})
    plan = plan_of_scenario(scenario.model_copy(update={"terms": terms}), Computing())
    with pytest.raises(PatronageError, match=problem):
        simulate(plan, tmp_path / "run", engine="local", progress=Progress())
    assert not (tmp_path / "run").exists()


def test_a_reward_that_fails_at_scoring_leaves_a_round_that_goes_on_or_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    needed = tmp_path / "words.txt"
    needed.write_text("please")
    (tmp_path / "reward_with_a_file.py").write_text(
        "from pathlib import Path\n"
        "def f(prompts, completions):\n"
        f"    word = Path({str(needed)!r}).read_text()\n"
        "    return [float(word in text) + len(text) / 100 for text in completions]\n"
    )
    scenario = small()
    game = scenario.terms.game
    objective = game.objectives[0].model_copy(  # type: ignore[union-attr]
        update={"reward": "python:reward_with_a_file:f"}
    )
    terms = scenario.terms.model_copy(update={"game": game.model_copy(update={"objectives": (objective,)})})
    plan = plan_of_scenario(scenario.model_copy(update={"terms": terms}), Computing())
    base = shared_base_model(plan.base_model, precision=plan.precision, device=plan.device, cache=None)
    consortium = found(tmp_path / "run", plan, base, now=SimulatedClock().now())
    needed.unlink()
    with pytest.raises(RewardError, match=r"FileNotFoundError.* the round waits at scoring: .* --resume"):
        run_engine("local", consortium, Progress())
    waiting = last_round(consortium.operator / STORE)
    assert waiting is not None
    assert waiting.phase is Phase.SCORING
    other = replace(consortium, folder=tmp_path / "given-up")
    shutil.copytree(consortium.folder, other.folder)
    needed.write_text("please")
    run_engine("local", consortium, Progress())
    (state,) = verify_ledger(consortium.ledger).rounds
    assert state.phase is Phase.FINAL
    assert state.shares is not None
    assert give_up(OperatorHome.load(other.operator), clock_after(other)).aborted == "rewards"
    run_engine("local", other, Progress())
    (state,) = verify_ledger(other.ledger).rounds
    assert state.phase is Phase.FINAL
    assert state.settlement is not None
    assert state.settlement.refund == state.manifest.payout.budget
    assert b"Refunded: a reward could not score the answers" in render(read_report(other.ledger))
    with pytest.raises(RemoteProtocolError, match="open §first"):
        give_up(OperatorHome.load(other.operator), clock_after(other))


def test_objectives_without_weights_are_refused_as_the_scenario_is_read(tmp_path: Path) -> None:
    text = Path(load_scenario.__globals__["PRESETS"] / "tiny-rewards.toml").read_text()
    path = tmp_path / "scenario.toml"
    path.write_text(text.replace("weight = 2\n", ""))
    with pytest.raises(PatronageError, match=r"weight: Field required"):
        load_scenario(path)
