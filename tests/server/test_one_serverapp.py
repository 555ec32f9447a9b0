"""Of the ServerApps that SuperLink starts one after another, one is left."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from patronage_server import one_serverapp, superlink
from patronage_server.network import Network, NetworkConfig

Start = Callable[[], "subprocess.Popen[bytes]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a program that says it is there and sleeps, as SuperLink starts a ServerApp."""
    program = tmp_path / "program"
    program.write_text('#!/bin/sh\necho "$1"\nexec sleep 60\n')
    program.chmod(0o755)
    started: list[subprocess.Popen[bytes]] = []

    def begin() -> subprocess.Popen[bytes]:
        command = [
            sys.executable,
            "-I",
            "-S",
            one_serverapp.__file__,
            str(tmp_path / "lock"),
            str(program),
            "up",
        ]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def test_the_one_before_is_ended_when_the_next_is_started(start: Start) -> None:
    first = start()
    assert first.poll() is None
    second = start()
    assert first.wait(10) == -signal.SIGKILL
    third = start()
    assert second.wait(10) == -signal.SIGKILL
    assert third.poll() is None


def test_nobody_is_ended_for_the_number_of_one_that_has_ended(start: Start, tmp_path: Path) -> None:
    first = start()
    first.kill()
    first.wait()
    bystander = subprocess.Popen(["sleep", "60"])
    (tmp_path / "lock").write_text(str(bystander.pid))
    try:
        assert start().poll() is None
        time.sleep(0.2)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_superlink_finds_it_by_the_name_that_it_starts(tmp_path: Path) -> None:
    config = NetworkConfig(name="operator", consortium="care", address="127.0.0.1:8443", superlink_port=9092)
    network = Network(tmp_path, config)
    network.flower.mkdir()
    superlink._write_starter(network)
    first = superlink._environment(network)["PATH"].split(os.pathsep)[0]
    environment = {**os.environ, "PATH": first}
    done = subprocess.run(["flwr-serverapp", "--help"], env=environment, capture_output=True, check=True)
    assert b"--runtime-api-address" in done.stdout
