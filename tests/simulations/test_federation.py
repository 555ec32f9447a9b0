"""Rounds over SuperLink and SuperNodes as separate processes, with TLS and node authentication."""

import os
import random
import signal
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from patronage_protocol.preferences import PreferencePair
from patronage_protocol.rounds import Phase, Standing
from patronage_protocol.verify import verify_ledger
from patronage_simulations.federation import Federation

pytestmark = pytest.mark.slow

NOUNS = ("tea", "sun", "rain", "book", "road", "lamp", "tree", "fish", "bird", "song")
TASTES = {"ann": ("kind", "rude"), "bob": ("short", "long"), "cid": ("warm", "cold")}
TERMS = """
min_players = 2
[seconds]
accept = {accept}
commit = {commit}
reveal = {reveal}
[lora]
rank = 2
alpha = 4.0
target_modules = ["q_proj", "v_proj"]
[dpo]
beta = 0.1
learning_rate = 5e-3
epochs = 1
batch_size = 8
gradient_accumulation = 1
warmup_steps = 0
schedule = "constant"
max_grad_norm = 1.0
max_length = 64
seed = 0
[intake]
max_bytes = 1000000
max_norm = 100.0
copy_cosine = 0.99
[game]
composition = "sum"
utility = "sigmoid"
scale_bits = 20
[interval]
level = 0.9
replicates = 200
seed = 0
[payout]
policy = "clipped"
currency = "EUR"
exponent = 2
budget = 10000
max_detectable_percent = 100000
"""
DAWDLE = """
import pathlib, time
import patronage_client.training as training
train = training.train_adapter
def slowly(*arguments, **options):
    pathlib.Path({marker!r}).touch()
    time.sleep(600)
training.train_adapter = slowly
"""
WRONG_ADAPTER = """
from patronage_client.owner import Owner
reveal = Owner.reveal
def other(self, request):
    opening, adapter = reveal(self, request)
    return opening, adapter[:-1] + bytes([adapter[-1] ^ 1])
Owner.reveal = other
"""
NEVER_REVEALS = """
from patronage_client.owner import Owner
from patronage_protocol.errors import UnavailableError
def silent(self, request):
    raise UnavailableError("an adapter to reveal", got="second thoughts", do="nothing is sent")
Owner.reveal = silent
"""


DIES_AFTER_EVALUATION = """
import os, pathlib, signal, sqlite3, threading, time
def watch():
    while True:
        time.sleep(0.005)
        try:
            ledger = sqlite3.connect("file:{ledger}?mode=ro", uri=True)
            query = "SELECT count(*) FROM entries WHERE cast(data AS text) LIKE '%\\"kind\\":\\"evaluate\\"%'"
            found = ledger.execute(query).fetchone()[0]
            ledger.close()
        except sqlite3.Error:
            continue
        if found and not os.path.exists({killed!r}):
            pathlib.Path({killed!r}).touch()
            os.kill(os.getpid(), signal.SIGKILL)
if b"flwr-serverapp" in pathlib.Path("/proc/self/cmdline").read_bytes():
    threading.Thread(target=watch, daemon=True).start()
"""


def pairs(taste: str, count: int, seed: int) -> list[PreferencePair]:
    good, bad = TASTES[taste]
    draw = random.Random(seed)
    return [
        PreferencePair(
            prompt=f"{draw.choice(NOUNS)} {draw.choice(NOUNS)}",
            chosen=f" {good} {draw.choice(NOUNS)}",
            rejected=f" {bad} {draw.choice(NOUNS)}",
        )
        for _ in range(count)
    ]


@pytest.fixture
def federation(tmp_path: Path) -> Callable[..., Federation]:
    def found(accept: int = 900, commit: int = 900, reveal: int = 900, **options: object) -> Federation:
        terms = tmp_path / "terms.toml"
        terms.write_text(TERMS.format(accept=accept, commit=commit, reveal=reveal))
        return Federation(
            tmp_path / "run",
            owners={name: pairs(name, 24, seed) for seed, name in enumerate(TASTES)},
            held_out=[pair for name in TASTES for pair in pairs(name, 12, 99)],
            terms=terms,
            **options,  # type: ignore[arg-type]
        )

    return found


def finish(running: Federation, seconds: float = 900.0) -> None:
    assert running.processes["round"].wait(seconds) == 0, running.log("round")


def test_a_plain_round_ends_with_verified_receipts(federation: Callable[..., Federation]) -> None:
    with federation() as running:
        running.invite()
        for owner in running.owners:
            running.join(owner)
        running.round()
        finish(running)
        (state,) = verify_ledger(running.published).rounds
        assert state.phase is Phase.FINAL
        assert state.players == ("ann", "bob", "cid")
        assert state.settlement is not None
        assert sum(one.amount for one in state.settlement.payments) == 10_000
        amounts = {one.owner: str(one.amount) for one in state.settlement.payments}
        for owner in running.owners:
            (receipt,) = running.command("owner", "receipts", running.home(owner), "--json")["receipts"]
            assert receipt["amount"] == amounts[owner]
        found = running.command("operator", "status", running.operator, "--json")
        assert found["round"]["phase"] == "final"
        assert [owner["node"] for owner in found["owners"]] == ["online"] * 3


def test_a_killed_operator_goes_on_where_it_stood(
    federation: Callable[..., Federation], tmp_path: Path
) -> None:
    """SuperLink dies between commit and reveal, the ServerApp after evaluation; nobody is paid twice."""
    killed, ledger = tmp_path / "killed", tmp_path / "run" / "operator" / "ledger.sqlite"
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(
        DIES_AFTER_EVALUATION.format(ledger=str(ledger), killed=str(killed))
    )
    search = os.pathsep.join([str(tmp_path / "site"), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    with federation(environment={"PYTHONPATH": search}) as running:
        running.invite()
        for owner in running.owners:
            running.join(owner)
        running.round()
        running.wait_for("commitments closed")
        _kill_command(running, "flower-superlink")
        assert running.processes["round"].wait(300) == 3
        running.round(resume=True)
        assert running.processes["round"].wait(900) == 3, running.log("round")
        assert killed.exists()
        running.round(resume=True)
        finish(running)
        (state,) = verify_ledger(running.published).rounds
        assert state.phase is Phase.FINAL
        assert state.players == ("ann", "bob", "cid")


def test_bad_owners_cost_themselves_alone(federation: Callable[..., Federation], tmp_path: Path) -> None:
    """One never reveals, one sends another adapter than it committed to; the round goes below its minimum."""
    with federation(accept=300, commit=60, reveal=60) as running:
        running.invite()
        running.join("ann")
        running.join("bob", prelude=NEVER_REVEALS)
        running.join("cid", prelude=WRONG_ADAPTER)
        running.round()
        finish(running)
        (state,) = verify_ledger(running.published).rounds
        assert state.standing == {
            "ann": Standing.ADMITTED,
            "bob": Standing.FORFEITED,
            "cid": Standing.FORFEITED,
        }
        assert "bob forfeited: expected an answer, got expected an adapter to reveal" in running.log("round")
        assert "bytes of adapter with SHA-256" in running.log("round")
        assert state.settlement is not None
        assert state.settlement.refund == 10_000


def test_an_owner_killed_while_training_comes_back_in_time(
    federation: Callable[..., Federation], tmp_path: Path
) -> None:
    marker = tmp_path / "training"
    with federation() as running:
        running.invite()
        running.join("ann", prelude=DAWDLE.format(marker=str(marker)))
        for owner in ("bob", "cid"):
            running.join(owner)
        running.round()
        until = time.monotonic() + 600
        while not marker.exists():
            assert time.monotonic() < until, running.log("round")
            time.sleep(0.2)
        running.kill("ann")
        running.join("ann")
        finish(running)
        (state,) = verify_ledger(running.published).rounds
        assert state.players == ("ann", "bob", "cid")


def _kill_command(running: Federation, name: str) -> None:
    """Kill the processes of that name that belong to this federation: they name its folder or its port."""
    operator = running.operator
    port = next(
        line.split("=")[1].strip()
        for line in (operator / "network.toml").read_text().splitlines()
        if line.startswith("superlink_port")
    )
    killed = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
        except OSError:
            continue
        ours = any(argument == port or argument.endswith(f":{port}") for argument in command)
        if ours and any(argument.endswith(name) for argument in command[:3]):
            os.kill(int(folder.name), signal.SIGKILL)
            killed += 1
    assert killed == 1, f"one {name} at port {port}"


def test_the_control_api_is_not_reachable_through_the_door(federation: Callable[..., Federation]) -> None:
    with federation() as running:
        network = (running.operator / "network.toml").read_text()
        address = network.split('address = "')[1].split('"')[0]
        authority = str(running.operator / "tls" / "ca.pem")
        context = ssl.create_default_context(cafile=authority)
        paths = ("/v1/control/start-run", "/v1/control/list-runs", "/v1/runtime/acquire-task", "/docs")
        with httpx.Client(base_url=f"https://{address}", verify=context) as client:
            assert [client.post(path).status_code for path in paths] == [404] * 4
            assert client.get("/health").status_code == 200


class Hosts:
    """Every party on a host of its own: a network namespace, and for each owner a cable to the operator."""

    OPERATOR = "10.77.0.1"

    def __init__(self, owners: list[str]) -> None:
        tag = f"pat{os.getpid() % 10_000}"
        self.names = {name: f"{tag}-{name}" for name in ("operator", *owners)}
        self.cables = {owner: f"{tag}{number}" for number, owner in enumerate(owners, start=1)}

    def lay(self) -> None:
        for name in self.names.values():
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        operator = self.names["operator"]
        ip("-n", operator, "addr", "add", f"{self.OPERATOR}/32", "dev", "lo")
        for number, (owner, cable) in enumerate(self.cables.items(), start=1):
            here, there = f"10.77.{number}.1", f"10.77.{number}.2"
            ip("link", "add", cable, "netns", operator, "type", "veth", "peer", "name", "up0")
            ip("link", "set", "up0", "netns", self.names[owner])
            for name, device, address in ((operator, cable, here), (self.names[owner], "up0", there)):
                ip("-n", name, "addr", "add", f"{address}/24", "dev", device)
                ip("-n", name, "link", "set", device, "up")
            ip("-n", self.names[owner], "route", "add", self.OPERATOR, "via", here)

    def cut(self, owner: str) -> None:
        ip("-n", self.names["operator"], "link", "set", self.cables[owner], "down")

    def mend(self, owner: str) -> None:
        ip("-n", self.names["operator"], "link", "set", self.cables[owner], "up")

    def remove(self) -> None:
        for name in self.names.values():
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)

    def networks(self) -> dict[str, list[str]]:
        return {party: ["ip", "netns", "exec", name] for party, name in self.names.items()}


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    found = Hosts(list(TASTES))
    try:
        found.lay()
    except (OSError, subprocess.CalledProcessError) as error:
        found.remove()
        pytest.skip(f"network namespaces are not permitted here: {error}")
    yield found
    found.remove()


def test_an_owner_that_is_cut_off_for_a_while_loses_nothing(
    federation: Callable[..., Federation], hosts: Hosts
) -> None:
    with federation(host=hosts.OPERATOR, networks=hosts.networks()) as running:
        running.invite()
        for owner in running.owners:
            running.join(owner)
        for owner in running.owners:
            running.wait_for("connected", name=owner)
        running.round()
        running.wait_for("ann accepted the terms")
        hosts.cut("ann")
        time.sleep(15)
        hosts.mend("ann")
        finish(running)
        (state,) = verify_ledger(running.published).rounds
        assert state.players == ("ann", "bob", "cid")
