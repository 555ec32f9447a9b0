"""Rounds over SuperLink and SuperNodes as separate processes, with TLS and node authentication."""

import json
import os
import random
import signal
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType

import httpx
import pytest

from patronage_protocol.canonical import canonical_bytes
from patronage_protocol.entries import Declined, decode_entry
from patronage_protocol.envelopes import seal
from patronage_protocol.errors import UnavailableError
from patronage_protocol.joining import INVITATION_TYPE, Invitation, read_envelope, write_envelope
from patronage_protocol.keys import PrivateKey
from patronage_protocol.ledger.published import read_published
from patronage_protocol.manifest import Party
from patronage_protocol.messages import Refusal
from patronage_protocol.pair_files import write_pairs
from patronage_protocol.preferences import PreferencePair
from patronage_protocol.rounds import Phase, Standing
from patronage_protocol.verify import verify_ledger
from patronage_server.certificates import make_authority
from patronage_simulations.federation import Federation, write_terms
from patronage_simulations.hosts import Hosts

pytestmark = pytest.mark.slow

NOUNS = ("tea", "sun", "rain", "book", "road", "lamp", "tree", "fish", "bird", "song")
TASTES = {
    "ann": ("kind", "rude"),
    "bob": ("short", "long"),
    "cid": ("warm", "cold"),
    "dan": ("true", "false"),
}
THREE = ("ann", "bob", "cid")
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
from patronage_protocol.errors import LocalProtocolError
def silent(self, request):
    raise LocalProtocolError("an adapter to reveal", got="second thoughts", do="nothing is sent")
Owner.reveal = silent
"""
SPEAKS_AS_ANOTHER = """
import patronage_client.executor as executor
push = executor.push_message
def as_another(client, reply, context):
    reply.metadata.__dict__["_src_node_id"] = int(open({victim!r}).read())
    push(client, reply, context)
executor.push_message = as_another
"""
BUNDLE_WITH_CODE = """
import io, zipfile
import patronage_server.conduct as conduct
with zipfile.ZipFile(io.BytesIO(conduct.BUNDLE)) as bundle:
    files = {{name: bundle.read(name) for name in bundle.namelist()}}
files["patronage_client/__init__.py"] = b"open({marker!r}, 'w').close()"
files["patronage_client/app.py"] = b"open({marker!r}, 'w').close()"
buffer = io.BytesIO()
with zipfile.ZipFile(buffer, "w") as bundle:
    for name, content in files.items():
        bundle.writestr(name, content)
conduct.BUNDLE = buffer.getvalue()
"""
CLOCK_AHEAD = "import time; now = time.time; time.time = lambda: now() + 60"

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
    def found(
        *names: str, seconds: Mapping[str, int] = MappingProxyType({}), **options: object
    ) -> Federation:
        return Federation(
            tmp_path / "run",
            owners={name: pairs(name, 24, seed) for seed, name in enumerate(names or THREE)},
            held_out=[pair for name in names or THREE for pair in pairs(name, 12, 99)],
            terms=write_terms(tmp_path / "terms.toml", **seconds),
            **options,  # type: ignore[arg-type]
        )

    return found


def finish(running: Federation, seconds: float = 900.0) -> None:
    assert running.processes["round"].wait(seconds) == 0, running.log("round")


@pytest.mark.parametrize("owners", [("ann", "bob"), THREE], ids=["two", "three"])
def test_a_plain_round_ends_with_verified_receipts(
    federation: Callable[..., Federation], owners: tuple[str, ...]
) -> None:
    with federation(*owners) as running:
        running.invite()
        for owner in running.owners:
            running.join(owner)
        running.round()
        finish(running)
        (state,) = verify_ledger(running.published).rounds
        assert state.phase is Phase.FINAL
        assert state.players == owners
        assert state.settlement is not None
        assert sum(one.amount for one in state.settlement.payments) == 10_000
        amounts = {one.owner: str(one.amount) for one in state.settlement.payments}
        for owner in running.owners:
            (receipt,) = running.command("owner", "receipts", running.home(owner), "--json")["receipts"]
            assert receipt["amount"] == amounts[owner]
        found = running.command("operator", "status", running.operator, "--json")
        assert found["round"]["phase"] == "final"
        assert [owner["node"] for owner in found["owners"]] == ["online"] * len(owners)


def test_encrypted_keys_sign_a_round_and_their_passphrase_is_in_no_file_and_on_no_command_line(
    federation: Callable[..., Federation], tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("correct horse\n")
    with federation("ann", "bob", passphrase_file=secret) as running:
        keys = [running.operator / "key.pem", *(running.home(owner) / "key.pem" for owner in running.owners)]
        assert all(b"ENCRYPTED" in path.read_bytes() for path in keys)
        running.invite()
        for owner in running.owners:
            running.join(owner)
        running.round()
        running.wait_for("trained and committed")
        for process in Path("/proc").glob("[0-9]*"):
            for name in ("cmdline", "environ"):
                with suppress(OSError):  # another user's, or gone
                    assert b"correct horse" not in (process / name).read_bytes()
        finish(running)
        assert verify_ledger(running.published).rounds[0].players == ("ann", "bob")
        for path in running.folder.rglob("*"):
            assert not path.is_file() or b"correct horse" not in path.read_bytes(), path


def test_a_slice_that_an_owner_contributes_is_scored_over_the_network(
    federation: Callable[..., Federation],
) -> None:
    with federation("ann", "bob") as running:
        terms = running.operator / "terms.toml"
        terms.write_text(f"{terms.read_text()}[slices]\nmost_percent = 20\n")
        own = [PreferencePair(prompt=f"moon {noun}", chosen=" kind", rejected=" rude") for noun in NOUNS[:6]]
        write_pairs(running.folder / "slice.jsonl", own)
        made = running.command(
            *("owner", "slice", running.home("ann"), running.folder / "slice.jsonl", "--json")
        )
        running.command("operator", "slice", running.operator, made["slice"], "--json")
        running.invite()
        for owner in running.owners:
            running.join(owner)
        running.round()
        finish(running)
        verdict = verify_ledger(running.published)
        state = verdict.rounds[0]
        assert state.players == ("ann", "bob")
        assert [(part.owner, part.root) for part in state.manifest.slices.of] == [("ann", made["root"])]
        said = {check.phase: check.what for check in verdict.checks}
        assert "nobody was scored on its own slice: ann on 24 of 30 pairs" in said["value"]


def test_adapters_are_scored_on_a_ray_cluster_if_the_operator_wants_it(
    federation: Callable[..., Federation],
) -> None:
    pytest.importorskip("ray")
    with TemporaryDirectory(prefix="ray") as session:  # short, for Ray's sockets are in there
        with federation("ann", "bob", environment={"RAY_TMPDIR": session}) as running:
            running.invite()
            for owner in running.owners:
                running.join(owner)
            running.round("--engine", "ray")
            finish(running)
            (state,) = verify_ledger(running.published).rounds
            assert state.players == ("ann", "bob")
        assert list(Path(session).rglob("session_latest")), "the ServerApp has started a cluster"


def test_a_renewed_certificate_asks_nothing_of_owners(
    federation: Callable[..., Federation],
) -> None:
    with federation("ann", "bob") as running:
        running.invite()
        for owner in running.owners:
            running.join(owner)
            running.wait_for("connected", name=owner)
        served = _certificate_of(running)
        assert running.command("operator", "renew", running.operator, "--json")["until"]
        running.processes["operator"].terminate()
        assert running.processes["operator"].wait(60) == 0, running.log("operator")
        running.start("operator", "operator", "serve", running.operator)
        until = time.monotonic() + 300
        while "online" not in str(running.command("operator", "status", running.operator, "--json")):
            assert time.monotonic() < until, running.log("operator")
        assert _certificate_of(running) != served
        running.round()
        finish(running)
        (state,) = verify_ledger(running.published).rounds
        assert state.players == ("ann", "bob")


def _certificate_of(running: Federation) -> str:
    """What the gateway shows, checked against the authority of the invitation."""
    host, port = _address(running).split(":")
    return ssl.get_server_certificate((host, int(port)), ca_certs=str(running.operator / "tls" / "ca.pem"))


def _address(running: Federation) -> str:
    return (running.operator / "network.toml").read_text().split('address = "')[1].split('"')[0]


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
        running.round("--resume")
        assert running.processes["round"].wait(900) == 3, running.log("round")
        assert killed.exists()
        running.round("--resume")
        finish(running)
        (state,) = verify_ledger(running.published).rounds
        assert state.phase is Phase.FINAL
        assert state.players == ("ann", "bob", "cid")


def test_bad_owners_cost_themselves_alone(federation: Callable[..., Federation]) -> None:
    """One never reveals, one sends an adapter it did not commit to, one speaks under another's number."""
    with federation(*TASTES, seconds={"accept": 300, "commit": 90, "witness": 90, "reveal": 60}) as running:
        running.invite()
        running.join("ann")
        running.wait_for("connected", name="ann")
        running.join("bob", prelude=NEVER_REVEALS)
        running.join("cid", prelude=WRONG_ADAPTER)
        victim = running.home("ann") / "node" / "node-id"
        running.join("dan", prelude=SPEAKS_AS_ANOTHER.format(victim=str(victim)))
        running.round()
        finish(running)
        (state,) = verify_ledger(running.published).rounds
        assert state.standing == {
            "ann": Standing.ADMITTED,
            "bob": Standing.FORFEITED,
            "cid": Standing.FORFEITED,
            "dan": Standing.FORFEITED,
        }
        log = running.log("round")
        assert "bob forfeited: expected an answer, got expected an adapter to reveal" in log
        assert "bytes of adapter with SHA-256" in log
        assert "dan forfeited: silent until the deadline" in log
        assert state.settlement is not None
        assert state.settlement.refund == 10_000


def test_a_bundle_with_code_is_declined_by_every_owner_and_never_run(
    federation: Callable[..., Federation], tmp_path: Path
) -> None:
    """The operator ships a bundle with a shadowing patronage_client/ to a real SuperLink."""
    marker = tmp_path / "the bundle ran"
    with federation("ann", "bob", seconds={"witness": 30}) as running:  # refusing all, they cosign nothing
        running.invite()
        for owner in running.owners:
            running.join(owner)
        running.round(prelude=BUNDLE_WITH_CODE.format(marker=str(marker)))
        finish(running)
        (state,) = verify_ledger(running.published).rounds
        assert state.standing == dict.fromkeys(("ann", "bob"), Standing.DECLINED)
        refused = "expected a bundle of configuration alone, got the file 'patronage_client/__init__.py'"
        assert all(refused in running.log(owner) for owner in running.owners)
        said = [decode_entry(entry) for entry in read_published(running.published).entries]
        reasons = [
            Refusal.decode(entry.statement.unverified_payload).reason
            for entry in said
            if isinstance(entry, Declined)
        ]
        assert len(reasons) == 2
        assert all(refused in reason for reason in reasons)
        assert not marker.exists()


def test_whatever_keeps_an_owner_from_joining_is_one_line(
    federation: Callable[..., Federation], tmp_path: Path
) -> None:
    with federation("ann", "bob") as running:
        accepted = running.invite()
        invitation = running.operator / "invitation.json"

        def refused(name: str, *arguments: str | Path, prelude: str = "") -> str:
            process = running.start(name, *arguments, prelude=prelude)
            assert process.wait(300) in (1, 2, 3), running.log(name)
            lines = [line for line in running.log(name).splitlines() if line.startswith("error: ")]
            assert len(lines) == 1, running.log(name)
            assert "Traceback" not in running.log(name)
            return lines[0]

        def join(name: str, file: Path = invitation, *, digest: str = accepted, prelude: str = "") -> str:
            command = ("owner", "join", running.home("ann"), file, "--accept", digest)
            return refused(name, *command, prelude=prelude)

        key = PrivateKey.load(running.operator / "key.pem", None)
        said = Invitation.open(read_envelope(invitation), key.public)

        def changed(name: str, **fields: object) -> Path:
            path = tmp_path / f"{name}.json"
            write_envelope(path, said.model_copy(update=fields).seal(key))
            return path

        assert f"expected the manifest {'0' * 64}, got {accepted}" in join("other terms", digest="0" * 64)
        stranger = make_authority("demo", datetime.now(UTC)).certificate.decode()
        assert "by the consortium's authority" in join("ca", changed("ca", certificate=stranger))
        later = canonical_bytes({**json.loads(said.encode()), "protocol": 2})
        write_envelope(tmp_path / "later.json", seal(INVITATION_TYPE, later, key))
        assert "expected protocol version 1, got version 2" in join("version", tmp_path / "later.json")
        forged = tmp_path / "forged.json"
        write_envelope(forged, said.seal(PrivateKey.generate()))
        assert "expected an envelope signed by" in join("forged", forged)
        assert "expected clocks at most 5 seconds apart" in join("clock", prelude=CLOCK_AHEAD)

        running.join("ann")
        running.wait_for("connected", name="ann")
        assert "one that takes part already" in join("twice")
        assert running.processes["ann"].poll() is None

        made = running.command(
            *("owner", "init", running.home("eve"), "--name", "eve", "--base-model", "tiny"),
            *("--data", running.folder / "ann.jsonl", "--operator-key", key.public.text, "--json"),
        )
        owners = (*said.manifest.owners, Party(name="eve", key=made["public_key"]))
        terms = said.manifest.model_copy(update={"owners": owners})
        command = ("owner", "join", running.home("eve"), changed("eve", manifest=terms))
        eve = refused("eve", *command, "--accept", terms.digest)
        assert "expected a node that the operator has registered" in eve
        assert "send registration.json" in eve
        assert "to be free, got Address already in use" in refused(
            "second", "operator", "serve", running.operator
        )


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[Path], Path]]:
    """Mounts a small disk at a folder and fills it; gives the file that fills it."""
    mounted: list[Path] = []

    def mount(folder: Path) -> Path:
        folder.mkdir(parents=True)
        command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
        if subprocess.run(command, check=False, capture_output=True).returncode:
            pytest.skip("mounting is not permitted here")
        mounted.append(folder)
        filler = folder / "filler"
        with pytest.raises(OSError, match="No space left"):
            filler.write_bytes(bytes(2**23))
        return filler

    yield mount
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=False, capture_output=True)


def test_owners_that_were_killed_or_had_a_full_disk_come_back_in_time(
    federation: Callable[..., Federation], tmp_path: Path, small_disk: Callable[[Path], Path]
) -> None:
    marker = tmp_path / "training"
    with federation() as running:
        running.invite()
        filler = small_disk(running.home("bob") / "rounds")
        running.join("ann", prelude=DAWDLE.format(marker=str(marker)))
        for owner in ("bob", "cid"):
            running.join(owner)
        running.round()
        running.wait_for("No space left on device", name="bob")
        assert "Traceback" not in running.log("bob")
        filler.unlink()
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
        authority = str(running.operator / "tls" / "ca.pem")
        context = ssl.create_default_context(cafile=authority)
        paths = ("/v1/control/start-run", "/v1/control/list-runs", "/v1/runtime/acquire-task", "/docs")
        with httpx.Client(base_url=f"https://{_address(running)}", verify=context) as client:
            assert [client.post(path).status_code for path in paths] == [404] * 4
            assert client.get("/health").status_code == 200


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    try:
        with Hosts(THREE) as found:
            yield found
    except UnavailableError as error:
        pytest.skip(str(error))


def test_an_owner_that_is_cut_off_for_a_while_loses_nothing(
    federation: Callable[..., Federation], hosts: Hosts
) -> None:
    with federation(host=hosts.OPERATOR, networks=hosts.networks) as running:
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
