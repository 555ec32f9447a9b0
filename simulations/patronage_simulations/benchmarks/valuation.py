"""The valuation engine against its peers, on the same margins, on one core, in the same run.

    python -m patronage_simulations.benchmarks.valuation --shapiq PYTHON --pydvl PYTHON [--out docs]

PYTHON is the interpreter of an environment that holds the peer; without one its rows are left out. Times
are seconds of processor time of one thread, the least of a few runs, so that other work on the machine
counts little; the compiled kernel is compiled beforehand. Margins are normal with mean 0.02, M = 2000.
`--only` runs some of: exact, large, memory, growth, accuracy, control.
"""

import argparse
import functools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patronage_protocol.files import write_atomic
from patronage_protocol.valuation import ValuationResult, value
from patronage_protocol.valuation.engine import MethodChoice
from patronage_simulations.benchmarks.accuracy import accuracy_tables, control_table
from patronage_simulations.benchmarks.charts import log_chart

__all__ = ["main"]

PAIRS = 2000
Lines = Iterator[str]


@dataclass(frozen=True)
class Bench:
    """What was asked for on the command line; the peers are interpreters, None where there is none."""

    shapiq: Path | None
    pydvl: Path | None
    largest_peer: int
    out: Path | None

    def ask(self, peer: str, task: str, margins: NDArray[np.float64], **request: Any) -> dict[str, Any]:
        """Have a peer carry out a task of `peers` on these margins."""
        python = self.shapiq if peer == "shapiq" else self.pydvl
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "margins.npy"
            np.save(file, margins)
            note = Path(folder) / "request.json"
            note.write_text(json.dumps({"task": task, "margins": str(file)} | request))
            script = Path(__file__).with_name("peers.py")
            # the interpreter was named on our own command line
            done = subprocess.run(  # noqa: S603
                [str(python), str(script), str(note)], capture_output=True, text=True, check=True
            )
        answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        return answer


def main(arguments: list[str] | None = None) -> None:
    """Print the tables; with --out also write the plots."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapiq", type=Path, help="interpreter with shapiq")
    parser.add_argument("--pydvl", type=Path, help="interpreter with pyDVL")
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, comma-separated")
    parser.add_argument("--out", type=Path, help="folder for the plots")
    parser.add_argument("--largest-peer", type=int, default=20, help="most owners that peers enumerate")
    options = parser.parse_args(arguments)
    bench = Bench(options.shapiq, options.pydvl, options.largest_peer, options.out)
    for name in options.only.split(","):
        for line in SECTIONS[name](bench):
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
        sys.stdout.write("\n")


def margins_of(n: int, pairs: int = PAIRS, scale: float = 0.3) -> NDArray[np.float64]:
    """Normal margins (n, pairs) with mean 0.02."""
    return np.random.default_rng(n).normal(0.02, scale, size=(n, pairs))


def ours(
    margins: NDArray[np.float64], method: MethodChoice, *, keep: bool = True, repeats: int = 3
) -> tuple[float, ValuationResult]:
    """The least processor time of a few runs on one thread, and the result."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        result = value(margins, method=method, interval=None, keep_pair_shares=keep, threads=1)
        times.append(time.process_time() - start)
    return min(times), result


def exact(bench: Bench) -> Lines:
    """All methods that are exact, n = 12, 16, 20."""
    yield "| n | method | seconds | faster than shapiq | faster than pyDVL | difference |"
    yield "|---|---|---|---|---|---|"
    ours(margins_of(16), "enumeration", keep=False, repeats=1)
    for n in (12, 16, 20):
        margins = margins_of(n)
        seconds, result = ours(margins, "enumeration", keep=False)
        rows = [("enumeration", seconds, 0.0)]
        seconds, other = ours(margins, "polynomial")
        rows.append(("polynomial, 1e-9", seconds, off(other.shares, result.shares)))
        reference = {}
        for peer in peers_for(bench, n):
            answer = bench.ask(peer, f"{peer}_exact", margins)
            reference[peer] = answer["cpu"]
            rows.append((peer, answer["cpu"], off(np.array(answer["shares"]), result.shares)))
        for name, seconds, difference in rows:
            ratios = [f"{reference[p] / seconds:.1f}x" if p in reference else "" for p in ("shapiq", "pydvl")]
            yield f"| {n} | {name} | {seconds:.3g} | {ratios[0]} | {ratios[1]} | {difference:.1e} |"


def peers_for(bench: Bench, n: int) -> Lines:
    """The peers that can enumerate n owners: pyDVL takes n 2^n single evaluations, hours for n = 20."""
    if bench.shapiq is not None and n <= bench.largest_peer:
        yield "shapiq"
    if bench.pydvl is not None and n <= min(bench.largest_peer, 16):
        yield "pydvl"


def large(bench: Bench) -> Lines:
    """Many owners to 1e-9, and the best that shapiq's estimators reach in the same time."""
    yield "| n | scale | seconds | bound | gap | nodes Q, T, K, direct | shapiq's best in that time |"
    yield "|---|---|---|---|---|---|---|"
    for n, scale in ((100, 0.1), (100, 0.5), (1000, 0.03), (1000, 0.3), (1000, 1.0), (5000, 0.02)):
        margins = margins_of(n, scale=scale)
        seconds, result = ours(margins, "auto", repeats=2)
        certificate = result.certificate
        nodes = ", ".join(str(number) for number in certificate.nodes.values())
        best = best_in_time(bench, margins, result, seconds) if bench.shapiq and n <= 1000 else ""
        yield (
            f"| {n} | {scale} | {seconds:.2f} | {certificate.error_bound:.1e} "
            f"| {certificate.efficiency_gap:.1e} | {nodes} | {best} |"
        )


def best_in_time(bench: Bench, margins: NDArray[np.float64], result: ValuationResult, seconds: float) -> str:
    """The smallest relative error of shapiq's estimators in no more time, or else their fastest run."""
    n, runs = len(margins), []
    for name in ("PermutationSamplingSV", "LeverageSHAP", "KernelSHAP"):
        asked = {"approximators": [name], "budgets": [2 * n * 2**k for k in range(8)], "seeds": [0]}
        runs += bench.ask("shapiq", "shapiq_estimate", margins, patience=seconds, **asked)["rows"]
    in_time = [run for run in runs if run["cpu"] <= seconds] or [min(runs, key=lambda run: run["cpu"])]
    error, run = min(((relative(run["shares"], result.shares), run) for run in in_time), key=lambda p: p[0])
    return f"{error:.1e} ({run['name']}, {run['asked']} evaluations, {run['cpu']:.2f} s)"


def memory(_: Bench) -> Lines:
    """Peak resident memory above that of a process that holds the margins, in processes of their own."""
    yield "| work | MB above the input |"
    yield "|---|---|"
    for name, (n, asked) in MEMORY.items():
        script = (
            "import resource as r; from patronage_simulations.benchmarks.valuation import margins_of;"
            "from patronage_protocol.valuation import value;"
            f"a = margins_of({n}); value(a[:2, :4], interval=None);"
            "before = r.getrusage(r.RUSAGE_SELF).ru_maxrss;"
            f"value(a, interval=None, threads=1, **{asked});"
            "print(r.getrusage(r.RUSAGE_SELF).ru_maxrss - before)"
        )
        done = subprocess.run(  # noqa: S603
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        )
        yield f"| {name} | {int(done.stdout) / 1024:.0f} |"


def growth(bench: Bench) -> Lines:
    """Time as a power of n and of M."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for scale in (0.05, 0.5):
        lines[f"n, M = 500, scale {scale}"] = [
            (n, ours(margins_of(n, 500, scale), "auto", repeats=2)[0]) for n in (50, 100, 200, 400, 800, 1600)
        ]
    methods: tuple[tuple[MethodChoice, int], ...] = (
        ("polynomial", 20),
        ("polynomial", 200),
        ("enumeration", 12),
    )
    for method, n in methods:
        lines[f"M, n = {n}, {method}"] = [
            (pairs, ours(margins_of(n, pairs, 0.1), method, keep=False, repeats=2)[0])
            for pairs in (500, 1000, 2000, 4000, 8000)
        ]
    yield "| time as a function of | exponent | from | to |"
    yield "|---|---|---|---|"
    for name, line in lines.items():
        x, y = np.log(np.array(line)).T
        yield f"| {name} | {np.polyfit(x, y, 1)[0]:.2f} | {line[0][1]:.3f} s | {line[-1][1]:.3f} s |"
    if bench.out is not None:
        chart = log_chart(lines, title="Time to value, one core", x_label="n or M", y_label="seconds")
        write_atomic(bench.out / "valuation-growth.svg", chart.encode())


def accuracy(bench: Bench) -> Lines:
    """Relative errors of all estimators at equal budgets."""
    ask = functools.partial(bench.ask, "shapiq", "shapiq_estimate") if bench.shapiq else None
    table, chart = accuracy_tables(ask)
    yield from table
    if bench.out is not None:
        write_atomic(bench.out / "valuation-accuracy.svg", chart.encode())


def control(_: Bench) -> Lines:
    """What the additive control variate is worth for a merged model."""
    yield from control_table()


def off(found: NDArray[np.float64], expected: NDArray[np.float64]) -> float:
    """The largest difference of shares."""
    return float(np.abs(found - expected).max())


def relative(found: list[float], expected: NDArray[np.float64]) -> float:
    """||found - expected|| / ||expected||."""
    return float(np.linalg.norm(np.array(found) - expected) / np.linalg.norm(expected))


MEMORY: dict[str, tuple[int, dict[str, object]]] = {
    "n = 20, enumeration": (20, {"method": "enumeration", "keep_pair_shares": False}),
    "n = 20, enumeration with pair shares": (20, {"method": "enumeration"}),
    "n = 1000, polynomial with pair shares": (1000, {}),
}

SECTIONS: dict[str, Callable[[Bench], Lines]] = {
    "exact": exact,
    "large": large,
    "memory": memory,
    "growth": growth,
    "accuracy": accuracy,
    "control": control,
}


if __name__ == "__main__":
    main()
