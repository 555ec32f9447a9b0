"""docs/deployment.md as it is written: its commands, copied from the page, on hosts of their own.

Only two things differ from the page: what is installed already is not installed, and the base model is tiny.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from patronage_protocol.errors import UnavailableError
from patronage_simulations.hosts import Hosts

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[2] / "docs" / "deployment.md"
OWNERS = ("ann", "bob")
MODEL = "HuggingFaceTB/SmolLM2-135M"


def commands(title: str) -> list[str]:
    """The commands of the section whose title begins so, without those that install."""
    section = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)
    (text,) = (part for part in section if part.startswith(title))
    code = "".join(f"{line[4:]}\n" for line in text.splitlines() if line.startswith("    "))
    found = code.replace("\\\n", " ").splitlines()
    return [line.replace(MODEL, "tiny") for line in found if "pip install" not in line]


class Machine:
    """One party's host, home folder and shell."""

    def __init__(self, folder: Path, network: list[str], tools: Path) -> None:
        self.folder = folder
        self.folder.mkdir()
        self._network = network
        self._environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "HOME": str(folder)}
        self._background: list[subprocess.Popen[bytes]] = []

    def does(self, command: str, **environment: str) -> str:
        done = subprocess.run(
            [*self._network, "bash", "-ec", command],
            cwd=self.folder,
            env={**self._environment, **environment},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        return done.stdout

    def begins(self, command: str, *, says: str, answers: str = "") -> None:
        """Leave a command running; wait until it says something."""
        log = self.folder / f"{len(list(self.folder.glob('*.log')))}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*self._network, "bash", "-ec", f"exec {command}"],
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
            )
        self._background.append(process)
        assert process.stdin is not None
        process.stdin.write(answers.encode())
        process.stdin.close()
        until = time.monotonic() + 300
        while says not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.2)

    def ends(self) -> None:
        for process in self._background:
            process.terminate()
        for process in self._background:
            process.wait(30)
        self._background.clear()


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[dict[str, Machine]]:
    tools = tmp_path / "tools"
    tools.mkdir()
    shim = tools / "patronage"
    shim.write_text(
        f'#!/bin/sh\nexec {sys.executable} -c "from patronage_protocol.cli import main; main()" "$@"\n'
    )
    shim.chmod(0o755)
    try:
        with Hosts(OWNERS, names=["care.example"]) as hosts:
            found = {name: Machine(tmp_path / name, hosts.networks[name], tools) for name in hosts.networks}
            yield found
            for machine in found.values():
                machine.ends()
    except UnavailableError as error:
        pytest.skip(str(error))


def write_pairs(path: Path, taste: str, count: int) -> None:
    rows = ({"prompt": f"{taste} {k}", "chosen": f" {taste}", "rejected": " not"} for k in range(count))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def join_all(machines: dict[str, Machine]) -> None:
    invitation = (machines["operator"].folder / "operator" / "invitation.json").read_bytes()
    (join,) = commands("4.")
    for name in OWNERS:
        (machines[name].folder / "invitation.json").write_bytes(invitation)
        machines[name].begins(join.replace("ann", name), says="taking part", answers="y\n")


def play(machines: dict[str, Machine]) -> None:
    operator = machines["operator"]
    conduct, verify, receipts = commands("5.")
    paid = operator.does(conduct)
    assert [line.split()[0] for line in paid.splitlines()] == list(OWNERS)
    assert "VERIFIED" in operator.does(verify)
    for name in OWNERS:
        assert "verified; cosigned by ann, bob)" in machines[name].does(receipts.replace("ann", name))
        assert "receipt kept" in machines[name].does(f"patronage owner status {name}")
    assert "phase final" in operator.does("patronage operator status operator")


def test_the_page_takes_three_machines_from_nothing_to_a_paid_round_and_to_a_second_under_new_keys(
    machines: dict[str, Machine],
) -> None:
    operator, ann = machines["operator"], machines["ann"]
    write_pairs(operator.folder / "heldout.jsonl", "kind", 12)
    write_pairs(operator.folder / "development.jsonl", "mild", 4)

    found, serve = commands("1.")
    key = operator.does(found).strip()
    operator.begins(serve, says="owners connect to care.example:8443")

    (make_keys,) = commands("2.")
    for name in OWNERS:
        write_pairs(machines[name].folder / "pairs.jsonl", name, 16)
        machines[name].does(make_keys.replace("ann", name), KEY=key)
        registration = machines[name].folder / name / "registration.json"
        (operator.folder / f"{name}.json").write_bytes(registration.read_bytes())

    for command in commands("3."):
        operator.does(command)
    join_all(machines)
    play(machines)

    for name in OWNERS:
        machines[name].ends()
    change, record, change_own, invite = commands("New keys")
    ann.does(change)
    (operator.folder / "ann").mkdir()
    (operator.folder / "ann" / "key-rotation.json").write_bytes(
        (ann.folder / "ann" / "key-rotation.json").read_bytes()
    )
    operator.does(record)
    assert operator.does(change_own).strip() != key
    operator.does(invite)
    join_all(machines)
    play(machines)
    told = operator.does("patronage verify operator/published")
    assert "ann's key changed at entry" in told
    assert "operator's key changed at entry" in told
