"""The command `patronage simulate`: from files to a verified ledger, and one clear line when it cannot."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from patronage_protocol.errors import DataError, UsageError
from patronage_protocol.ledger.published import read_published
from patronage_simulations.cli import DEFAULT_TERMS
from patronage_simulations.consortium import Consortium, Plan
from patronage_simulations.engines import run_engine, run_local
from patronage_simulations.plans import Computing, plan_of_files
from patronage_simulations.progress import Progress
from patronage_simulations.scenarios import load_scenario

ROW = {"prompt": "Say it", "chosen": "yes", "rejected": "no"}


def write_rows(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def pairs_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "pairs"
    folder.mkdir()
    for owner in ("ann", "bob"):
        write_rows(folder / f"{owner}.jsonl", *({**ROW, "prompt": f"{owner} {k}"} for k in range(4)))
    return folder


@pytest.fixture
def held_out(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "held-out.jsonl", *({**ROW, "prompt": f"held {k}"} for k in range(4)))


def plan(folder: Path, held_out: Path, **changes: Any) -> Plan:
    options: dict[str, Any] = {
        "name": "orchard",
        "seed": 0,
        "on_bad_row": "stop",
        "on_overlap": "warn",
        "computing": Computing(precision="float32"),
        "progress": Progress(),
    }
    return plan_of_files(folder, held_out, DEFAULT_TERMS, "tiny", **{**options, **changes})


def test_a_folder_of_files_becomes_a_plan(pairs_folder: Path, held_out: Path) -> None:
    made = plan(pairs_folder, held_out)
    assert {owner: len(pairs) for owner, pairs in made.owners.items()} == {"ann": 4, "bob": 4}
    assert len(made.held_out) == 4


def test_held_out_pairs_that_owners_contribute_come_from_a_folder_of_their_own(
    tmp_path: Path, pairs_folder: Path, held_out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (slices := tmp_path / "slices").mkdir()
    own = {**ROW, "prompt": "ann 0"}
    write_rows(slices / "ann.jsonl", own, {**ROW, "prompt": "bob 1"})
    made = plan(pairs_folder, held_out, slices=slices)
    assert {owner: len(pairs) for owner, pairs in made.slices.items()} == {"ann": 2}
    told = capsys.readouterr().err
    assert "warning: 1 held-out pairs are also bob's" in told
    assert "also ann's" not in told, "nobody is scored on its own slice"
    (slices / "ann.jsonl").rename(slices / "dan.jsonl")
    with pytest.raises(DataError, match=r"slices of the owners ann, bob, got one of dan"):
        plan(pairs_folder, held_out, slices=slices)


def test_terms_are_a_file_or_those_of_a_preset(pairs_folder: Path, held_out: Path) -> None:
    made = plan_of_files(
        pairs_folder,
        held_out,
        Path("paper"),
        "tiny",
        name="orchard",
        seed=0,
        on_bad_row="stop",
        on_overlap="warn",
        computing=Computing(precision="float32"),
        progress=Progress(),
    )
    assert made.terms == load_scenario("paper").terms


def test_a_bad_row_stops_the_run_with_its_place(pairs_folder: Path, held_out: Path) -> None:
    write_rows(pairs_folder / "bob.jsonl", ROW, {**ROW, "rejected": "yes"})
    with pytest.raises(DataError, match=r"bob\.jsonl:2.*identical"):
        plan(pairs_folder, held_out)


def test_a_bad_row_can_be_left_out_and_is_told(
    pairs_folder: Path, held_out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(pairs_folder / "bob.jsonl", ROW, {**ROW, "chosen": " "}, {**ROW, "prompt": "x" * 5000})
    assert len(plan(pairs_folder, held_out, on_bad_row="skip").owners["bob"]) == 1
    told = capsys.readouterr().err
    assert "bob.jsonl:2" in told
    assert "bob.jsonl:3" in told, "an over-long prompt is a bad row"


def test_an_empty_file_of_an_owner_is_named(pairs_folder: Path, held_out: Path) -> None:
    (pairs_folder / "bob.jsonl").write_text("")
    with pytest.raises(DataError, match=r"bob\.jsonl"):
        plan(pairs_folder, held_out)


def test_one_owner_alone_is_refused(pairs_folder: Path, held_out: Path) -> None:
    (pairs_folder / "bob.jsonl").unlink()
    with pytest.raises(DataError, match="at least two owners"):
        plan(pairs_folder, held_out)


def test_a_held_out_pair_that_an_owner_has_is_told_or_refused(
    pairs_folder: Path, held_out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    swapped = {"prompt": "held 2", "chosen": "no", "rejected": "yes"}
    write_rows(pairs_folder / "bob.jsonl", ROW, swapped)
    plan(pairs_folder, held_out)
    assert "warning: 1 held-out pairs are also bob's" in capsys.readouterr().err
    with pytest.raises(DataError, match=r"held-out\.jsonl:3.*--on-overlap warn"):
        plan(pairs_folder, held_out, on_overlap="refuse")


def patronage(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from patronage_protocol.cli import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--preset", "tiny", "--base-model", "no/such-model"], "no/such-model"),
        (["--preset", "tiny", "--base-model", "CORRUPT"], "CORRUPT"),
        (["--preset", "nonsense"], "demo"),
        (["--heldout", "held-out.jsonl"], "--owners"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_leaves_nothing(
    tmp_path: Path, arguments: list[str], said: str
) -> None:
    corrupt = tmp_path / "CORRUPT.gguf"
    corrupt.write_bytes(b"GGUF" + bytes(100))
    named = [str(corrupt) if argument == "CORRUPT" else argument for argument in arguments]
    done = patronage("simulate", *named, "--out", str(tmp_path / "run"))
    assert done.returncode in (2, 3)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert said in errors[0]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_failures_are_json_too_when_asked_for(tmp_path: Path) -> None:
    done = patronage("simulate", "--preset", "nonsense", "--out", str(tmp_path / "run"), "--json")
    said = json.loads(done.stdout)
    assert said["schema_version"] == 1
    assert said["error"]["got"] == "'nonsense'"


def test_an_unknown_engine_is_no_engine(tmp_path: Path) -> None:
    assert patronage("simulate", "--engine", "steam", "--out", str(tmp_path / "run")).returncode == 2


@pytest.mark.slow
def test_the_tiny_preset_ranks_its_owners_by_their_known_quality(tmp_path: Path) -> None:
    done = patronage("simulate", "--preset", "tiny", "--json", "--out", str(tmp_path / "run"))
    said = json.loads(done.stdout)
    owners = {owner["owner"]: owner for owner in said["owners"]}
    assert owners["clean"]["share"] > owners["few"]["share"] > 0 > owners["flipped"]["share"]
    assert owners["flipped"]["payout"] == "0"
    assert owners["mimic"]["reason"] == "rejected"
    assert patronage("verify", str(tmp_path / "run" / "ledger")).returncode == 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_simulation_engine_of_flower_gives_the_margins_of_the_local_one(
    trained: Callable[..., Consortium], tmp_path: Path
) -> None:
    def silent(_entry: object, _state: object) -> None:
        pass

    found = []
    for engine in ("local", "ray"):
        consortium = trained({"ann": 1, "bob": 2})
        run_engine(engine, consortium, silent)  # type: ignore[arg-type]
        blobs = read_published(consortium.ledger).blobs
        found.append({digest for digest in blobs if b"\n" in blobs[digest]})
        consortium.folder.rename(tmp_path / engine)
    assert found[0] == found[1]


def test_a_listener_sees_every_entry_once(trained: Callable[..., Consortium]) -> None:
    consortium = trained({"ann": 1, "bob": 2})
    seen: list[str] = []
    run_local(consortium, lambda entry, _state: seen.append(entry.kind))
    assert len(seen) == len(read_published(consortium.ledger).entries)
    assert seen[0] == "open"
    assert seen[-1] == "final"


def test_no_two_of_scenario_and_files_are_taken(tmp_path: Path, pairs_folder: Path) -> None:
    done = patronage(
        "simulate", "--preset", "tiny", "--owners", str(pairs_folder), "--out", str(tmp_path / "run")
    )
    assert done.returncode == UsageError.exit_code
