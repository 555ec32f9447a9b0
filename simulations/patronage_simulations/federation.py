"""A real federation on one machine: SuperLink, SuperNodes and apps as separate processes over the loopback.

Everything is done by the commands that people use, each party in a folder of its own, with TLS and node
authentication. For tests and measurements; nothing in here is needed to run a federation.
"""

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from patronage_protocol.canonical import sha256
from patronage_protocol.errors import UnavailableError
from patronage_protocol.files import new_folder
from patronage_protocol.pair_files import write_pairs
from patronage_protocol.preferences import PreferencePair
from patronage_protocol.processes import start_child, stop_child

__all__ = ["Federation", "write_terms"]

TERMS = """
min_players = 2
[seconds]
accept = {accept}
witness = {witness}
commit = {commit}
reveal = {reveal}
[lora]
rank = {rank}
alpha = 4.0
target_modules = {targets}
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
max_bytes = 1000000000
max_norm = 1000.0
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
MAIN = "from patronage_protocol.cli import main; main()"
SECONDS = {"accept": 900, "commit": 900, "witness": 600, "reveal": 900}


def write_terms(
    path: Path, *, rank: int = 2, targets: Sequence[str] = ("q_proj", "v_proj"), **seconds: int
) -> Path:
    """Write terms of a short round (TOML), whose budget is paid however little was learnt; returns `path`.

    Args:
        path: where to.
        rank: of the adapters.
        targets: the modules that get one.
        **seconds: of the phases accept, commit, witness and reveal, where the default is not wanted.
    """
    phases = {**SECONDS, **seconds}
    path.write_text(TERMS.format(rank=rank, targets=json.dumps(list(targets)), **phases), encoding="utf-8")
    return path


@dataclass
class Federation:
    """The folders and processes of one operator and its owners. Use it as a context manager.

    No process outlives this one.

    Attributes:
        folder: a new folder for everything.
        owners: owner to its pairs.
        held_out: the pairs on which coalitions are scored.
        terms: a file of round terms.
        base_model: hub id, folder, GGUF file or `tiny`.
        host: the address under which owners reach the operator.
        environment: what the operator's processes find in their environment beside this one's.
        networks: party (`operator` or an owner) to the words before a command that runs in its network, such
            as `ip netns exec NAME`.
        passphrase_file: encrypts every party's key, and is named to the commands that sign; none if left out.
        processes: what runs, by name; `operator` serves, owners are under their own names.
    """

    folder: Path
    owners: Mapping[str, Sequence[PreferencePair]]
    held_out: Sequence[PreferencePair]
    terms: Path
    base_model: str = "tiny"
    host: str = "127.0.0.1"
    environment: Mapping[str, str] = field(default_factory=dict)
    networks: Mapping[str, Sequence[str]] = field(default_factory=dict)
    passphrase_file: Path | None = None
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __enter__(self) -> Self:
        """Found the consortium, register everybody, and begin to serve."""
        try:
            self._found()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End every process."""
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            stop_child(process)

    def _found(self) -> None:
        new_folder(self.folder)
        write_pairs(self.folder / "held-out.jsonl", self.held_out)
        door, superlink = _free_ports(2)
        founded = self.command(
            *("operator", "init", self.operator, "--consortium", "demo", "--base-model", self.base_model),
            *("--address", f"{self.host}:{door}", "--superlink-port", str(superlink)),
            *("--heldout", self.folder / "held-out.jsonl", "--terms", self.terms, "--json"),
            *self._unlocking,
        )
        for name, pairs in self.owners.items():
            write_pairs(self.folder / f"{name}.jsonl", pairs)
            self.start(
                *(name, "owner", "init", self.home(name), "--name", name, "--base-model", self.base_model),
                *("--data", self.folder / f"{name}.jsonl", "--operator-key", founded["operator_key"]),
                *self._unlocking,
            )
        for name in self.owners:
            if self.processes[name].wait() != 0:
                raise UnavailableError(f"a folder of {name}", got=self.log(name), do="see its log")
        registrations = [self.home(name) / "registration.json" for name in self.owners]
        self.command("operator", "register", self.operator, *registrations, "--json")
        serving = ("operator", "serve", self.operator, *self._unlocking)
        self.start("operator", *serving, environment=self.environment)
        for name in self.owners:
            self.wait_for(f"registered the node of {name}", name="operator", seconds=300)

    @property
    def operator(self) -> Path:
        """The operator's folder."""
        return self.folder / "operator"

    @property
    def published(self) -> Path:
        """The published ledger."""
        return self.operator / "published"

    def home(self, owner: str) -> Path:
        """An owner's folder."""
        return self.folder / "owners" / owner

    def invite(self) -> str:
        """Draw up the terms of the next round; returns the manifest's digest."""
        words = ("operator", "invite", self.operator, *self._unlocking, "--json")
        return str(self.command(*words)["manifest"])

    def join(self, owner: str, *, prelude: str = "", environment: Mapping[str, str] | None = None) -> None:
        """Let an owner accept the current terms and take part; `prelude` is Python that runs before."""
        accepted = sha256((self.operator / "manifest.json").read_bytes())
        invitation = self.operator / "invitation.json"
        command = ("owner", "join", self.home(owner), invitation, "--accept", accepted, *self._unlocking)
        self.start(owner, *command, prelude=prelude, environment=environment)

    def round(self, *options: str, prelude: str = "") -> subprocess.Popen[bytes]:
        """Begin `operator round`, which lives as long as the round; its output is in round.log."""
        return self.start("round", "operator", "round", self.operator, "--json", *options, prelude=prelude)

    def start(
        self,
        name: str,
        *arguments: str | Path,
        prelude: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a command in the background; its output is in `<name>.log`."""
        self.processes[name] = start_child(
            [*self._network(name), sys.executable, "-c", f"{prelude}\n{MAIN}", *map(str, arguments)],
            environment=environment or {},
            log=self.folder / f"{name}.log",
        )
        return self.processes[name]

    def kill(self, name: str) -> None:
        """End a process without a word, as a power cut does."""
        self.processes[name].send_signal(signal.SIGKILL)
        self.processes[name].wait()

    def command(self, *arguments: str | Path) -> dict[str, Any]:
        """Run a command to its end and read the JSON that it prints.

        Raises:
            UnavailableError: it fails; holds what it said.
        """
        done = subprocess.run(  # noqa: S603 - our own command line
            [*self._network(str(arguments[0])), sys.executable, "-c", MAIN, *map(str, arguments)],
            capture_output=True,
            check=False,
        )
        if done.returncode:
            said = (done.stdout + done.stderr).decode("utf-8", "replace").strip()
            raise UnavailableError(
                f"patronage {arguments[0]} {arguments[1]} to succeed", got=said, do="see the folder"
            )
        value: dict[str, Any] = json.loads(done.stdout)
        return value

    @property
    def _unlocking(self) -> Sequence[str | Path]:
        return () if self.passphrase_file is None else ("--passphrase-file", self.passphrase_file)

    def _network(self, name: str) -> Sequence[str]:
        return self.networks.get("operator" if name == "round" else name, ())

    def log(self, name: str) -> str:
        """What a background command has said."""
        return (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def wait_for(self, text: str, *, name: str = "round", seconds: float = 600.0) -> None:
        """Wait until a background command has said `text`.

        Raises:
            UnavailableError: it ends first, or it takes too long.
        """
        until = time.monotonic() + seconds
        while text not in self.log(name):
            ended = self.processes[name].poll() is not None
            if (ended and text not in self.log(name)) or time.monotonic() > until:
                raise UnavailableError(f"{text!r} from {name}", got=self.log(name)[-2000:], do="see its log")
            time.sleep(0.1)


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("0.0.0.0", 0))  # noqa: S104 - the gateway binds every interface
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()
