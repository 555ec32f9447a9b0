"""Runs in the environment of a peer, not in ours: values a margin game with shapiq or pyDVL.

    <python of the peer> peers.py REQUEST.json

REQUEST.json names a task, a file with margins (n, M) and the task's parameters; the answer is JSON on
stdout. Only numpy and the peer are imported. The game is handed to the peer as a good user would write it:
a matrix product and one `tanh` for a whole batch of coalitions, in blocks that fit into memory.
"""

import importlib
import itertools
import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Answer = dict[str, Any]


class BatchGame:
    """v(S) = mean over pairs of sigma(x_S) - 1/2 for boolean rows; counts evaluations."""

    def __init__(self, margins: Any) -> None:
        self.margins = margins
        self.step = max(1, (1 << 20) // margins.shape[1])
        self.asked = 0

    def __call__(self, rows: Any) -> Any:
        """Values (k,) of coalitions (k, n)."""
        members = np.atleast_2d(np.asarray(rows)).astype(np.float64)
        self.asked += len(members)
        values = np.empty(len(members))
        for start in range(0, len(members), self.step):
            x = members[start : start + self.step] @ self.margins
            x *= 0.5
            np.tanh(x, out=x)
            values[start : start + self.step] = 0.5 * x.mean(axis=1)
        return values


def shapiq_exact(margins: Any) -> Answer:
    """All coalitions, then the Shapley value, by shapiq's ExactComputer."""
    shapiq = importlib.import_module("shapiq")
    n = len(margins)
    clock = Clock()
    found = shapiq.ExactComputer(BatchGame(margins), n_players=n)("SV", 1)
    return clock.read() | {"shares": [float(found[(i,)]) for i in range(n)]}


def pydvl_exact(margins: Any) -> Answer:
    """All coalitions, then the Shapley value, by pyDVL's ShapleyValuation with its deterministic sampler."""
    valuation = importlib.import_module("pydvl.valuation")
    utility_base = importlib.import_module("pydvl.valuation.utility.base").UtilityBase
    sampler = importlib.import_module("pydvl.valuation.samplers.powerset").DeterministicUniformSampler(
        batch_size=1
    )
    stopping = importlib.import_module("pydvl.valuation.stopping").NoStopping(sampler)
    n = len(margins)

    class MarginUtility(utility_base):  # type: ignore[misc, valid-type]
        def __call__(self, sample: Any) -> float:
            if sample is None or len(sample.subset) == 0:
                return 0.0
            x = margins[np.asarray(sample.subset, dtype=np.int64)].sum(axis=0)
            return float(0.5 * np.tanh(0.5 * x).mean())

    owners = valuation.Dataset(np.arange(n).reshape(-1, 1), np.zeros(n))
    clock = Clock()
    method = valuation.ShapleyValuation(MarginUtility(), sampler, stopping, progress=False)
    method.fit(owners)
    return clock.read() | {"shares": [float(value) for value in method.values().values]}


def shapiq_estimate(
    margins: Any, approximators: list[str], budgets: list[int], seeds: list[int], patience: float = 1e9
) -> Answer:
    """Approximators of shapiq at several budgets and seeds; stops after a run longer than `patience`."""
    module = importlib.import_module("shapiq.approximator")
    n, rows = len(margins), []
    for name, budget, seed in itertools.product(approximators, budgets, seeds):
        game = BatchGame(margins)
        clock = Clock()
        found = getattr(module, name)(n=n, random_state=seed).approximate(budget, game)
        took = clock.read()
        shares = [float(found.dict_values.get((i,), 0.0)) for i in range(n)]
        rows.append(took | {"name": name, "budget": budget, "shares": shares, "asked": game.asked})
        if took["cpu"] > patience:
            break
    return {"rows": rows}


class Clock:
    """Seconds of this process since the start, by the wall and by the processor."""

    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def read(self) -> Answer:
        """Both, in seconds."""
        return {"wall": time.perf_counter() - self.wall, "cpu": time.process_time() - self.cpu}


TASKS: dict[str, Callable[..., Answer]] = {
    "shapiq_exact": shapiq_exact,
    "pydvl_exact": pydvl_exact,
    "shapiq_estimate": shapiq_estimate,
}


def main(path: str) -> None:
    """Carry out the request in the file `path`."""
    warnings.simplefilter("ignore")
    request = json.loads(Path(path).read_text())
    task, margins = request.pop("task"), request.pop("margins")
    answer = TASKS[task](np.load(margins), **request)
    sys.stdout.write("\n" + json.dumps(answer) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
