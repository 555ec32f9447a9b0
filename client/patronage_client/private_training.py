# mypy: allow-untyped-calls
"""Training with differential privacy: DP-SGD's gradient in AdamW's steps, one pair one record.

    S_t      every pair is in the batch with chance q, independently (Poisson sampling)
    g_t    = (sum_{i in S_t} g_i min(1, C / |g_i|) + noise C z) / (q n),        z ~ N(0, I)

g_i is the gradient of the pair's whole loss, both completions together. What follows, AdamW and the schedule
of the round, sees the data only through g_t, so that it spends nothing more. Batches have the size of the
terms on average; as many steps are taken as without privacy. The terms' clipping of the whole gradient is
left out.

Sampling and noise come from a secret of the owner's: the same inputs give the same adapter, and nobody else
can draw the noise again and take it off.

Source: Abadi et al. 2016, arXiv 1607.00133, algorithm 1.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from patronage_client.attribution.adapter_model import AdapterModel, TokenizedPairs, tokenized
from patronage_client.attribution.course import Position, Step, planned_steps
from patronage_client.attribution.optimisers import AdamW
from patronage_client.attribution.recorder import Recorder
from patronage_client.privacy import PrivacyChoice, SecretStream, planned_privacy
from patronage_client.training import TrainedAdapter, TrainingStatistics
from patronage_protocol.adapters import encode
from patronage_protocol.canonical import canonical_bytes, sha256
from patronage_protocol.errors import UnavailableError, UsageError
from patronage_protocol.manifest import DpoTerms, LoraTerms
from patronage_protocol.messages import Privacy
from patronage_protocol.policy import BaseModel
from patronage_protocol.preferences import PreferencePair, training_order

__all__ = ["noisy_gradient", "train_private_adapter"]

SAVE_SECONDS = 60.0


def train_private_adapter(
    base: BaseModel,
    pairs: Sequence[PreferencePair],
    *,
    dpo: DpoTerms,
    lora: LoraTerms,
    choice: PrivacyChoice,
    secret: bytes,
    workdir: Path,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[TrainedAdapter, Privacy]:
    """Train as `train_adapter` does, with differential privacy, and say what was spent.

    Args:
        base: the base model; it is left as it was.
        pairs: the owner's pairs.
        dpo: how to train.
        lora: what to train, and from where.
        choice: the guarantee.
        secret: 32 bytes that only the owner has.
        workdir: where an interrupted call that is repeated finds how far it got.
        progress: called with (steps done, steps in all).

    Raises:
        UsageError: no pairs, a guarantee that cannot be met, or an adapter that is not finite.
        MissingExtraError: Opacus is not installed.
        UnavailableError: no room in `workdir`.
    """
    if not pairs:
        raise UsageError("at least one preference pair", got="none", do="check the file", where="training")
    started = time.monotonic()
    steps = planned_steps(dpo, range(len(pairs)))
    rate = min(1.0, dpo.batch_size * dpo.gradient_accumulation / len(pairs))
    privacy = planned_privacy(choice, pairs=len(pairs), sample_rate=rate, steps=len(steps))
    data = tokenized(base, pairs, max_length=dpo.max_length).take(training_order(pairs, seed=dpo.seed))
    model = AdapterModel(base, lora, beta=dpo.beta)
    key = _key(secret, data, [base.weights, dpo.digest, lora.digest, privacy.digest])
    path = _folder(workdir) / f"private-{sha256(key)[:32]}.safetensors"

    def gradient_at(step: int) -> Tensor:
        return noisy_gradient(model, data, privacy, SecretStream(key, step), at_once=dpo.batch_size)

    _walk(model, steps, gradient_at, path, progress)
    tensors = model.tensors()
    trained = TrainedAdapter(
        tensors,
        sha256(encode(tensors)),
        TrainingStatistics(len(pairs), len(steps), model.mean_loss(data), time.monotonic() - started),
    )
    path.unlink(missing_ok=True)
    return trained, privacy


def noisy_gradient(
    model: AdapterModel,
    data: TokenizedPairs,
    privacy: Privacy,
    stream: SecretStream,
    *,
    at_once: int,
) -> Tensor:
    """g_t of the module, shape (p,): clipped pair gradients of a Poisson sample, noise, over q n."""
    chosen = [i for i, u in enumerate(stream.uniform(len(data))) if u < privacy.sample_rate]
    total = torch.zeros_like(model.theta)
    with Recorder(model.model, keep="matrices") as recorder:
        for start in range(0, len(chosen), at_once):
            batch = chosen[start : start + at_once]
            with recorder.batch(batch, rows=model.rows(len(batch))):
                model.weighted_gradient(data.take(batch), torch.ones(len(batch)))
            (parts,) = recorder.take()
            matrix = parts.matrix()
            norms = matrix.norm(dim=1)
            total += (privacy.clip / norms.clamp(min=privacy.clip)) @ matrix
    noise = torch.from_numpy(stream.normal(model.size)).to(total)
    noisy = total + privacy.noise_multiplier * privacy.clip * noise
    return noisy / (privacy.sample_rate * len(data))


def _walk(
    model: AdapterModel,
    steps: Sequence[Step],
    gradient_at: Callable[[int], Tensor],
    path: Path,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Take the steps, from where an interrupted call left off."""
    rule, theta = AdamW(), model.theta
    found = Position.load(path, theta.device)
    position = Position(theta, rule.start(theta)) if found is None else found[0]
    saved = time.monotonic()
    for step in steps[position.state.steps :]:
        model.load(position.theta)
        gradient = gradient_at(step.number)
        moved = rule.displacement(position.state, position.theta, gradient, step.rate)
        position = Position(position.theta - moved, rule.advance(position.state, gradient))
        if time.monotonic() - saved > SAVE_SECONDS:
            position.save(path)
            saved = time.monotonic()
        if progress is not None:
            progress(step.number + 1, len(steps))
    model.load(position.theta)


def _key(secret: bytes, data: TokenizedPairs, terms: list[str]) -> bytes:
    """A key for this training alone: two trainings on different data never share their noise."""
    ids = [[list(pair.prompt), list(pair.chosen), list(pair.rejected)] for pair in data.tokens]
    return bytes.fromhex(sha256(secret + bytes.fromhex(sha256(canonical_bytes([ids, terms])))))


def _folder(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UnavailableError(
            f"a folder {path}", got=error.strerror or str(error), do="choose another place"
        ) from error
    return path
