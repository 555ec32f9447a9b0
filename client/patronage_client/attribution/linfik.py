# mypy: allow-untyped-calls
"""LinFiK and what stands beside it: first-order influence of a pair before any training.

    linfik   value_i = <G, g_i>,  G = grad mean_j l_j over the validation pairs, g_i = grad l_i
    less     value_i = <G, g_i> / (|G| |g_i|)
    alinfik  a text-only student of LinFiK: scored on a part of the pairs, it tells the value of all of them

Gradients are by the LoRA matrices at the point from which the round trains. <G, g_i> is the fall of the mean
validation loss, to first order, for a step of gradient descent on pair i, divided by the learning rate. It
looks forward: it needs no training run, as influence functions do, and no Hessian.

Sources. LinFiK and ALinFiK: Pan et al. 2025, arXiv 2503.01052; its body was not at hand, and the equation
is the one that its abstract ("linearized", "future influence", a kernel of two samples) leaves: one step of
In-Run Data Shapley (arXiv 2406.11011, theorem 3). LESS: Xia et al. 2024, arXiv 2402.04333, equation 3,
whose cosine keeps short texts from being favoured for their large gradients; without its warm-up training,
Adam moments and random projection, since at a round's start there are no moments and LoRA gradients are
small enough to keep.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from patronage_client.attribution.adapter_model import AdapterModel, tokenized
from patronage_client.attribution.problem import Problem, Valuation
from patronage_client.attribution.recorder import Recorder
from patronage_protocol.errors import UsageError
from patronage_protocol.policy import tokenize_pairs
from patronage_protocol.policy.linearised import Checkpoint, linearised_influence, objective_gradient
from patronage_protocol.policy.scoring import default_batch_tokens
from patronage_protocol.preferences import PreferencePair
from patronage_protocol.quotes.features import pair_features
from patronage_protocol.quotes.student import LEAST_PROMPTS, fit_student
from patronage_protocol.valuation.streams import Stream

__all__ = ["alinfik", "less", "linfik"]

SCORED_SHARE = 0.4
"""The part of the pairs that ALinFiK scores with the large model; the rest costs next to nothing."""


def linfik(problem: Problem) -> Valuation:
    """Value the pairs of a problem at the round's start."""
    values = _scores(problem, problem.pairs)
    return Valuation("linfik", "nats of validation loss per unit of learning rate", values)


def alinfik(problem: Problem) -> Valuation:
    """Score a part of the pairs, and tell the value of all of them from their text.

    Raises:
        UsageError: the part has too few prompts for a student.
    """
    count = max(2 * LEAST_PROMPTS, round(SCORED_SHARE * len(problem.pairs)))
    if len(problem.pairs) < count:
        raise UsageError(
            f"at least {count} pairs, of which a student could learn",
            got=str(len(problem.pairs)),
            do="use linfik, which scores every pair",
            where="alinfik",
        )
    chosen = np.sort(Stream(problem.seed).permutations(1, len(problem.pairs))[0][:count])
    sample = [problem.pairs[i] for i in chosen]
    student = fit_student(pair_features(sample), _scores(problem, sample), [p.prompt_digest for p in sample])
    values = pair_features(problem.pairs).astype(np.float64) @ student.weights[0].astype(np.float64)
    return Valuation(
        "alinfik",
        "nats of validation loss per unit of learning rate, as its student tells",
        values,
        (f"the large model scored {count} of {len(values)} pairs",),
    )


def less(problem: Problem) -> Valuation:
    """The cosine of each pair's gradient with that of the validation loss."""
    length = problem.dpo.max_length
    model = AdapterModel(problem.base, problem.lora, beta=problem.dpo.beta)
    _, objective = model.mean_gradient(tokenized(problem.base, problem.validation, max_length=length))
    pairs = tokenized(problem.base, problem.pairs, max_length=length)
    cosines: list[torch.Tensor] = []
    done = 0
    with model.evaluating(), Recorder(model.model, keep="matrices") as recorder:
        for part in pairs.portions(default_batch_tokens(problem.base.device)):
            with recorder.batch(range(len(part)), rows=model.rows(len(part))):
                model.losses(part).sum().backward()
            model.model.zero_grad()
            gradients = recorder.take()[0].matrix()
            norms = gradients.norm(dim=1) * objective.norm()
            cosines.append((gradients @ objective / norms.clamp_min(torch.finfo(norms.dtype).tiny)).cpu())
            done += len(part)
            problem.progress(done, len(pairs))
    return Valuation("less", "cosine with the validation gradient", torch.cat(cosines).double().numpy())


def _scores(problem: Problem, pairs: Sequence[PreferencePair]) -> NDArray[np.float64]:
    length = problem.dpo.max_length
    start = Checkpoint.start(problem.base, problem.lora, problem.dpo.beta)
    direction = objective_gradient(start, tokenize_pairs(problem.base, problem.validation, max_length=length))
    tokens = tokenize_pairs(problem.base, pairs, max_length=length)
    return linearised_influence(start, direction, tokens, progress=problem.progress)
