"""What a round over SuperLink and SuperNodes costs, next to what it is for.

    python -m patronage_simulations.benchmarks.federation --owners 2 8 [--megabytes 5 100] [--train 60]
    python -m patronage_simulations.benchmarks.federation --in-process 2 8 32

Every party is a set of processes of its own with TLS and node authentication, on a network of its own where
this user may make one (root on Linux). With `--owners` training is a wait of `--train` seconds that gives a
random adapter: owners train on machines of their own, and n trainings on this one would measure its cores.
With `--megabytes` they train, each on 12 pairs, so that memory is what an owner needs. Printed are

  time     from the first commitment's request to the last entry, over the seconds of training
  bytes    on each owner's cable with all headers, and by SuperLink's count, over the adapter's bytes; and
           what a connected node that does nothing costs
  memory   the peak of each kind of process (resident), over a bare process that loads the model and scores
           an adapter; its CPU time in the round; its share of the machine (proportional set size)
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import mean

import numpy as np
from numpy.typing import NDArray

from patronage_protocol.adapters import encode, encoded_size
from patronage_protocol.entries import AnyEntry, decode_entry
from patronage_protocol.errors import UnavailableError
from patronage_protocol.ledger.published import read_published
from patronage_protocol.manifest import LoraTerms, Manifest
from patronage_protocol.preferences import PreferencePair
from patronage_simulations.benchmarks.watch import Watch
from patronage_simulations.federation import Federation, write_terms
from patronage_simulations.hosts import Hosts

__all__ = ["main"]

WAITS = """
import sys, time, types
import numpy as np
def train_adapter(base, pairs, *, lora, **options):
    time.sleep({seconds})
    stream = np.random.default_rng({seed})
    shapes = lora.shapes().items()
    tensors = {{name: (1e-3 * stream.standard_normal(shape)).astype(np.float32) for name, shape in shapes}}
    return types.SimpleNamespace(tensors=tensors)
sys.modules["patronage_client.training"] = types.SimpleNamespace(train_adapter=train_adapter)
"""
BARE = """
import resource, sys
import numpy as np
from patronage_protocol.adapters import decode
from patronage_protocol.manifest import Manifest
from patronage_protocol.pair_files import read_pairs
from patronage_protocol.policy import load_base_model, tokenize_pairs
from patronage_server.evaluation import score_adapters
from pathlib import Path
manifest = Manifest.decode(Path(sys.argv[1]).read_bytes())
base = load_base_model(sys.argv[2])
adapter = decode(Path(sys.argv[3]).read_bytes(), manifest.lora, max_bytes=10**9)
tokens = tokenize_pairs(base, read_pairs(Path(sys.argv[4])).pairs, max_length=128)
score_adapters(base, {"one": adapter}, tokens, lora=manifest.lora, beta=0.1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
STEPS = ("accept", "commit", "close", "witness", "reveal", "evaluate", "final")
ALL_MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True)
class Case:
    """How many owners, their model and adapters; seconds of waiting (None: they train) and of idling."""

    owners: int
    model: str
    rank: int
    targets: list[str]
    train: float | None
    idle: float


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--owners", type=int, nargs="*", default=[])
    parser.add_argument("--megabytes", type=float, nargs="*", default=[])
    parser.add_argument("--train", type=float, default=60.0, help="seconds")
    parser.add_argument("--idle", type=float, default=60.0, help="seconds")
    parser.add_argument("--in-process", type=int, nargs="*", default=[])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for count in options.owners:
            _say(f"{count} owners, adapters of the tiny model, {options.train:.0f} s of training")
            case = Case(count, "tiny", 2, ["q_proj", "v_proj"], options.train, options.idle)
            measure(folder / f"n{count}", case)
        for megabytes in options.megabytes:
            rank = max(1, round(megabytes * 1e6 / _bytes_a_rank()))
            _say(f"2 owners, adapters of {megabytes:g} MB (rank {rank}), a base model of 134 MB")
            model = str(_wide_model(folder / "wide"))
            measure(folder / f"m{megabytes}", Case(2, model, rank, ALL_MODULES, None, 0.0))
        for count in options.in_process:
            in_process(folder / f"p{count}", count)


def measure(folder: Path, case: Case) -> None:
    """Found a federation, run one round, print what it cost."""
    folder.mkdir()
    _say(f"  {os.cpu_count()} cores, load average {os.getloadavg()[0]:.0f}")
    names = [f"owner-{number}" for number in range(case.owners)]
    terms = _terms(folder, rank=case.rank, targets=case.targets)
    with ExitStack() as stack:
        hosts = _hosts(stack, names)
        running = stack.enter_context(
            Federation(
                folder / "run",
                owners={name: _pairs(name) for name in names},
                held_out=_pairs("held out"),
                terms=terms,
                base_model=case.model,
                host=Hosts.OPERATOR if hosts else "127.0.0.1",
                networks=hosts.networks if hosts else {},
            )
        )
        running.invite()
        for seed, name in enumerate(names):
            waits = "" if case.train is None else WAITS.format(seconds=case.train, seed=seed)
            running.join(name, prelude=waits)
        for name in names:
            running.wait_for("connected", name=name)
        _wait_until_online(running)
        watch = Watch(running)
        if case.idle:
            _idle(hosts, watch, names, case.idle)
        watch.look()
        before, cpu = _carried(hosts, names), dict(watch.cpu)
        with watch.looking():
            if running.round().wait() != 0:
                raise UnavailableError("a round", got=running.log("round"), do="see the log")
        ended, after = time.time(), _carried(hosts, names)
        _report_time(running, case.train, ended)
        _report_bytes(running, before, after)
        _report_processes(running, watch, cpu)


def _terms(folder: Path, *, rank: int, targets: list[str]) -> Path:
    path = folder / "terms.toml"
    return write_terms(path, rank=rank, targets=targets, accept=1800, commit=1800, reveal=1800)


def _wait_until_online(running: Federation) -> None:
    """A SuperNode takes seconds to start, which are no cost of an idle one."""
    while True:
        found = running.command("operator", "status", running.operator, "--json")["owners"]
        if all(owner["node"] == "online" for owner in found):
            return
        time.sleep(2.0)


def in_process(folder: Path, count: int) -> None:
    """A round with everybody in this process, whose adapters are there: what the protocol itself costs."""
    from patronage_protocol.policy import shared_base_model  # noqa: PLC0415 - torch
    from patronage_protocol.settings import read_settings  # noqa: PLC0415
    from patronage_server.terms import RoundTerms  # noqa: PLC0415
    from patronage_simulations.consortium import Plan, found  # noqa: PLC0415
    from patronage_simulations.engines import SimulatedClock, run_local  # noqa: PLC0415

    folder.mkdir()
    terms = _terms(folder, rank=2, targets=["q_proj", "v_proj"])
    names = [f"owner-{number}" for number in range(count)]
    plan = Plan(
        name="bench",
        seed=0,
        base_model="tiny",
        terms=read_settings(terms, RoundTerms),
        owners={name: _pairs(name) for name in names},
        held_out=_pairs("held out"),
        precision="float32",
    )
    base = shared_base_model("tiny", precision="float32")
    consortium = found(folder / "run", plan, base, now=SimulatedClock().now())
    for seed, home in enumerate(consortium.owners):
        place = home / "rounds" / "bench-1"
        place.mkdir(parents=True)
        (place / "training.json").write_bytes(b'{"pairs":12}')
        (place / "adapter.safetensors").write_bytes(encode(_random(consortium.manifest.lora, seed)))
    began = time.process_time()
    run_local(consortium, lambda _entry, _state: None)
    seconds = time.process_time() - began
    _say(
        f"{count} owners in one process, adapters given: {seconds:.2f} s of CPU, {seconds / count:.3f} s each"
    )


def _idle(hosts: Hosts | None, watch: Watch, names: list[str], seconds: float) -> None:
    """What nodes cost that are connected and asked nothing."""
    watch.look()
    before, cpu = _carried(hosts, names), dict(watch.cpu)
    time.sleep(seconds)
    watch.look()
    after = _carried(hosts, names)
    hours = seconds / 3600
    for kind in sorted({kind for kind, _ in watch.cpu}):
        used = sum(watch.cpu[key] - cpu.get(key, 0.0) for key in watch.cpu if key[0] == kind)
        each = len(names) if kind.startswith("owner") else 1
        _say(
            f"  idle: {kind:<34} {used / hours / each:8.0f} CPU seconds an hour{', each' if each > 1 else ''}"
        )
    if hosts:
        bytes_each = mean(sum(after[name]) - sum(before[name]) for name in names)
        _say(f"  idle: on an owner's cable {bytes_each / hours / 1e6:19.2f} MB an hour, both ways")


def _entries(running: Federation) -> list[AnyEntry]:
    return [decode_entry(data) for data in read_published(running.published).entries]


def _report_time(running: Federation, train: float | None, ended: float) -> None:
    entries = _entries(running)
    accepted = _last(entries, "accept")
    _say(f"  time: acceptance {accepted - entries[0].time} s (each owner loads torch and the model first)")
    if train is not None:
        overhead = _last(entries, "final") - accepted - train
        _say(f"  time: training {train:.0f} s, everything after acceptance beside it {overhead:.0f} s:")
        _say(f"        {overhead / train:.3f} of the training here, {overhead / 3600:.4f} of one hour's")
    for earlier, later in pairwise(STEPS):
        waited = train if train is not None and later == "commit" else 0.0
        seconds = _last(entries, later) - _last(entries, earlier) - waited
        _say(f"        {earlier:>8} to {later:<8} {seconds:6.0f} s")
    _say(f"           final to receipts {ended - _last(entries, 'final'):5.0f} s (cosigning, publishing)")


def _report_bytes(
    running: Federation, before: Mapping[str, tuple[int, int]], after: Mapping[str, tuple[int, int]]
) -> None:
    names = list(running.owners)
    size = encoded_size(Manifest.decode((running.operator / "manifest.json").read_bytes()).lora)
    answer = json.loads(running.log("round").splitlines()[-1])
    sent, received = int(answer["bytes_sent"]) / len(names), int(answer["bytes_received"]) / len(names)
    _say(f"  bytes: an adapter {size:,}")
    _say(f"         by SuperLink's count, an owner: {sent:,.0f} to it, {received:,.0f} from it")
    _say(f"         from it over the adapter: {received / size:.3f}")
    if before:
        up, down = (mean(after[name][way] - before[name][way] for name in names) for way in (0, 1))
        _say(f"         on its cable during the round: {down:,.0f} to it, {up:,.0f} from it: {up / size:.3f}")


def _report_processes(running: Federation, watch: Watch, cpu: Mapping[tuple[str, int], float]) -> None:
    shares, floor = watch.shares(), _bare(running)
    _say(f"  memory: a bare process that loads the model and scores one adapter {floor / 1e6:.0f} MB")
    for kind, peak in sorted(watch.peaks().items()):
        used = mean(watch.cpu[key] - cpu.get(key, 0.0) for key in watch.cpu if key[0] == kind)
        share = f", a share of {shares[kind] / 1e6:.0f} MB" if kind in shares else ""
        _say(f"         {kind:<34} {peak / 1e6:7.0f} MB  {peak / floor:.2f}  {used:5.1f} s of CPU{share}")


def _last(entries: list[AnyEntry], kind: str) -> int:
    return max(entry.time for entry in entries if entry.kind == kind)


def _bare(running: Federation) -> float:
    manifest = running.operator / "manifest.json"
    adapter = next((running.operator / "adapters").glob("*.safetensors"))
    command = [sys.executable, "-c", BARE, str(manifest), running.base_model, str(adapter)]
    done = subprocess.run(  # noqa: S603 - our own command line
        [*command, str(running.operator / "held-out.jsonl")], capture_output=True, check=True, text=True
    )
    return float(done.stdout.split()[-1]) * 1024


def _hosts(stack: ExitStack, names: list[str]) -> Hosts | None:
    try:
        return stack.enter_context(Hosts(names))
    except UnavailableError as error:
        _say(f"  over the loopback interface, without cables to count on: {error}")
        return None


def _carried(hosts: Hosts | None, names: list[str]) -> dict[str, tuple[int, int]]:
    return {name: hosts.carried(name) for name in names} if hosts else {}


def _pairs(name: str) -> list[PreferencePair]:
    return [
        PreferencePair(prompt=f"{name} asks {number}", chosen=" yes please", rejected=" no")
        for number in range(12)
    ]


def _random(lora: LoraTerms, seed: int) -> dict[str, NDArray[np.float32]]:
    stream = np.random.default_rng(seed)
    shapes = lora.shapes().items()
    return {name: (1e-3 * stream.standard_normal(shape)).astype(np.float32) for name, shape in shapes}


def _bytes_a_rank() -> int:
    """Of an adapter on all modules of the wide model."""
    return 4 * 8 * (4 * (512 + 512) + 3 * (512 + 2048))


def _wide_model(folder: Path) -> Path:
    """A random Llama of 33.6 million parameters with the byte tokenizer of `tiny`; made once."""
    if folder.exists():
        return folder
    import torch  # noqa: PLC0415
    from transformers import LlamaConfig, LlamaForCausalLM  # noqa: PLC0415

    from patronage_protocol.policy import load_base_model  # noqa: PLC0415

    tokenizer = load_base_model("tiny", precision="float32").tokenizer
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=512,
        intermediate_size=2048,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=8,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
