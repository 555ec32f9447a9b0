"""The judge of the fault cases sees what it should, and a few cases of each kind keep the promises.

All of them: python -m patronage_simulations.faults
"""

import json
import shutil
from pathlib import Path

import pytest

from patronage_protocol.ledger.checkpoints import Checkpoint
from patronage_simulations.faults.cases import Lab, judge, prepare
from patronage_simulations.faults.scenarios import SCENARIOS
from patronage_simulations.faults.worker import KEY, ORIGIN, PREPARED


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults") / "prepared"
    prepare(folder)
    return folder


@pytest.fixture
def folder(prepared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared, tmp_path / "folder"))


def test_a_sound_folder_is_judged_sound(folder: Path) -> None:
    outcome = judge(folder, json.dumps({"size": PREPARED}))
    assert (outcome.lost, outcome.forked, outcome.stuck, outcome.unclear) == (False, False, False, False)


def test_an_acknowledged_entry_that_is_missing_is_judged_lost(folder: Path) -> None:
    assert judge(folder, json.dumps({"size": PREPARED + 1})).lost


@pytest.mark.parametrize("size", [PREPARED, PREPARED + 1])
def test_a_head_given_out_that_the_ledger_does_not_continue_is_judged_a_fork(folder: Path, size: int) -> None:
    note = Checkpoint(ORIGIN, size, bytes(32)).sign(KEY).encode().decode()
    assert judge(folder, json.dumps({"note": note})).forked


def test_a_store_that_does_not_open_is_judged_stuck(folder: Path) -> None:
    (folder / "ledger.sqlite").write_bytes(b"torn")
    assert judge(folder, "").stuck


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_a_scenario_ends_as_promised(scenario: object, folder: Path) -> None:
    assert callable(scenario)
    assert scenario(folder)


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize(
    ("operation", "call", "fault"),
    [
        ("append", "fdatasync", "error=EIO"),
        ("append", "pwrite64", "error=ENOSPC"),
        ("publish", "rename", "signal=SIGKILL"),
        ("cosign", "fdatasync", "signal=SIGKILL"),
    ],
)
def test_a_hurt_call_costs_nothing_that_was_acknowledged(
    prepared: Path, tmp_path: Path, operation: str, call: str, fault: str
) -> None:
    with Lab(prepared, tmp_path) as lab:
        found = lab.instances(operation)[call]
        assert found
        for instance in (found[0], found[-1]):
            outcome = lab.run_case(operation, call, f"{fault}:when={instance}")
            flags = (outcome.lost, outcome.forked, outcome.stuck, outcome.unclear)
            assert flags == (False, False, False, False)


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_a_worker_that_is_killed_at_once_has_acknowledged_nothing(prepared: Path, tmp_path: Path) -> None:
    with Lab(prepared, tmp_path) as lab:
        assert lab.run_case("append", "openat", "signal=SIGKILL:when=1").acknowledged == 0
        assert lab.run_case("append", "write", "error=EIO:when=9999").acknowledged == 4
