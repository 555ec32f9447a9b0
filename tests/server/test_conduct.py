"""Following a run: a ServerApp that is gone is given up, and one that does not come up is told."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest

from patronage_protocol.key_files import KeyFile
from patronage_server import conduct
from patronage_server.control import Control, RunReport
from patronage_server.home import OperatorConfig, OperatorHome


@dataclass
class Scripted:
    """A SuperLink whose run is in these states, one a look; it has finished once it was stopped."""

    states: list[str]
    stopped: bool = field(default=False)

    def run(self, number: int) -> RunReport:
        status = "finished" if self.stopped else self.states.pop(0)
        outcome = {"finished": "stopped" if self.stopped else "completed"}.get(status, "")
        return RunReport(number, status, outcome, "", 0, 0)

    def stop_run(self, number: int) -> None:
        self.stopped = True


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conduct, "POLL_SECONDS", 0.0)


def follow(superlink: Scripted, tmp_path: Path) -> tuple[RunReport, list[str]]:
    said: list[str] = []
    home = OperatorHome(tmp_path, OperatorConfig(base_model="tiny"), KeyFile(tmp_path / "key.pem"))
    follower = conduct._Follower(home, cast("Control", superlink), 7, said.append)
    return follower.until_finished(), said


def test_a_run_that_nobody_drives_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conduct, "START_SECONDS", 0.0)
    superlink = Scripted(["running"] * 50)
    report, _ = follow(superlink, tmp_path)
    assert report.outcome == "stopped"
    assert len(superlink.states) == 50 - conduct.IDLE_POLLS


def test_a_run_that_may_still_come_up_is_left_alone(tmp_path: Path) -> None:
    report, said = follow(Scripted(["starting"] * 20 + ["running"] * 20 + ["finished"]), tmp_path)
    assert (report.outcome, said) == ("completed", [])


def test_a_run_that_does_not_come_up_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conduct, "SLOW_SECONDS", 0.0)
    _, said = follow(Scripted(["starting"] * 20 + ["finished"]), tmp_path)
    (line,) = said
    assert "run 7 is still starting" in line
    assert "is this machine very busy?" in line
