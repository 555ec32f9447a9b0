# mypy: allow-untyped-calls
"""An owner's training: preference pairs in, one LoRA adapter out, and nothing else changed.

DPO (Rafailov et al. 2023, arXiv 2305.18290) by TRL's DPOTrainer on a PEFT LoRA model that starts from the
round's common adapter, or from another one: then that is the policy which the loss compares with, and
training one owner after the other is the sequential DPO of arXiv 2512.15765, Algorithm 1. The base model is
shared, not copied: the trainer gets a second skeleton of modules around the same frozen tensors, so that
whatever it wraps and patches is thrown away with the skeleton.

The pairs decide the order in which they are trained on (`training_order`), and not their order in a file.
Same base model, pairs, terms, software, kind of processor and number of threads: same bytes, also after an
interruption. Checkpoints lie in a folder named by the first three of these, and are removed at the end.
"""

import copy
import random
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from patronage_client.dpo_trainer import (
    PairTrainer,
    Watch,
    lora_config,
    pair_dataset,
    resumable,
    trainer_arguments,
)
from patronage_protocol.adapters import Tensors, encode, initial
from patronage_protocol.canonical import canonical_bytes, sha256
from patronage_protocol.errors import UnavailableError, UsageError
from patronage_protocol.manifest import DpoTerms, LoraTerms
from patronage_protocol.policy import (
    BaseModel,
    TokenizedPair,
    adapted,
    completion_logprobs,
    tokenize_pairs,
    torch_threads,
)
from patronage_protocol.policy.quiet import quiet_transformers
from patronage_protocol.policy.scoring import shares_prompts
from patronage_protocol.preferences import PreferencePair, training_order

__all__ = ["TrainedAdapter", "TrainingStatistics", "pair_trainer", "skeleton", "start_from", "train_adapter"]


@dataclass(frozen=True)
class TrainingStatistics:
    """What happened: pairs, optimiser steps, the loss of the last step in nats, wall time of this call."""

    pairs: int
    steps: int
    final_loss: float
    seconds: float


@dataclass(frozen=True)
class TrainedAdapter:
    """An adapter, the digest of its canonical bytes, and how it came about."""

    tensors: dict[str, NDArray[np.float32]]
    digest: str
    statistics: TrainingStatistics


def train_adapter(
    base: BaseModel,
    pairs: Sequence[PreferencePair],
    *,
    dpo: DpoTerms,
    lora: LoraTerms,
    workdir: Path,
    start: Tensors | None = None,
    reference: NDArray[np.float64] | None = None,
    progress: Callable[[int, int], None] | None = None,
    snapshot: Callable[[int, Tensors], None] | None = None,
    threads: int | None = None,
    checkpoint_seconds: float = 60.0,
    save_memory: bool = False,
) -> TrainedAdapter:
    """Train on `pairs` from `start`.

    Args:
        base: the base model; it is left exactly as it was.
        pairs: the owner's pairs.
        dpo: how to train.
        lora: what to train, and from where.
        workdir: where checkpoints go; an interrupted call that is repeated goes on from the last one.
        start: an adapter of these terms; None is the initial one, which changes nothing in the base model.
        reference: log-probabilities of the completions, shape (M, 2), in nats, under the policy at the start,
            where they are known already; None computes them.
        progress: called with (steps done, steps in all).
        snapshot: called after every step with the number of steps done and the adapter as it is then.
        threads: of torch on the CPU; None leaves it as it is.
        checkpoint_seconds: the least time between two checkpoints.
        save_memory: recompute activations in the backward pass: less memory, a third more time.

    Raises:
        UsageError: no pairs, a loss or an adapter that is not finite, or a GPU other than the first.
        DataError: a pair that does not fit the length.
        UnavailableError: not enough memory on the device, or no room in `workdir`.
    """
    if not pairs:
        raise UsageError("at least one preference pair", got="none", do="check the file", where="training")
    if base.device.type == "cuda" and base.device.index not in (None, 0):
        raise UsageError(
            "the first visible GPU for training",
            got=str(base.device),
            do=f"set CUDA_VISIBLE_DEVICES={base.device.index} and use cuda",
        )
    started = time.monotonic()
    tokenized = tokenize_pairs(base, pairs, max_length=dpo.max_length)
    order = list(training_order(pairs, seed=dpo.seed))
    tokens = [tokenized[index] for index in order]
    folder = workdir / _job(base, tokens, dpo, lora, start)
    with _undisturbed(threads):
        try:
            known = _reference(base, tokens, lora, start) if reference is None else reference[order]
            trainer = pair_trainer(base, tokens, known, folder, dpo=dpo, lora=lora, save_memory=save_memory)
            start_from(trainer.adapted_model, initial(lora) if start is None else start)
            trainer.add_callback(Watch(progress, checkpoint_seconds))
            if snapshot is not None:
                trainer.add_callback(_Snapshots(trainer.adapted_model, lora, snapshot))
            trainer.train(resume_from_checkpoint=resumable(folder))
            tensors = _tensors(trainer.adapted_model, lora)
        except torch.OutOfMemoryError as error:
            raise UnavailableError(
                f"memory on {base.device} to train with batches of {dpo.batch_size} pairs",
                got=str(error).splitlines()[0],
                do="set save_memory, use another device, or ask for terms with smaller batches",
            ) from error
        except OSError as error:
            raise UnavailableError(
                f"room for checkpoints in {workdir}",
                got=error.strerror or str(error),
                do="free some room, or choose another folder",
            ) from error
    digest = sha256(encode(tensors))
    shutil.rmtree(folder, ignore_errors=True)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    statistics = TrainingStatistics(
        pairs=len(pairs),
        steps=trainer.state.global_step,
        final_loss=losses[-1],
        seconds=time.monotonic() - started,
    )
    return TrainedAdapter(tensors, digest, statistics)


class _Snapshots(TrainerCallback):
    """Hands out the adapter after every optimiser step."""

    def __init__(self, model: PeftModel, lora: LoraTerms, tell: Callable[[int, Tensors], None]) -> None:
        self._model, self._lora, self._tell = model, lora, tell

    def on_step_end(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """After an optimiser step."""
        self._tell(state.global_step, _tensors(self._model, self._lora))


def _job(
    base: BaseModel, tokens: Sequence[TokenizedPair], dpo: DpoTerms, lora: LoraTerms, start: Tensors | None
) -> str:
    """A folder name for what is trained, so that no checkpoint of another training is taken up."""
    ids = [[list(pair.prompt), list(pair.chosen), list(pair.rejected)] for pair in tokens]
    parts = [base.weights, ids, dpo.digest, lora.digest, *([] if start is None else [sha256(encode(start))])]
    return f"training-{sha256(canonical_bytes(parts))[:32]}"


def _reference(
    base: BaseModel, tokens: Sequence[TokenizedPair], lora: LoraTerms, start: Tensors | None
) -> NDArray[np.float64]:
    """The log-probabilities that the loss compares with: those of the policy at the start."""
    if start is None:
        return completion_logprobs(base.model, tokens)
    with adapted(base.model, lora) as slot:
        slot.load(start)
        return completion_logprobs(base.model, tokens)


def pair_trainer(
    base: BaseModel,
    tokens: Sequence[TokenizedPair],
    reference: NDArray[np.float64],
    folder: Path,
    *,
    dpo: DpoTerms,
    lora: LoraTerms,
    save_memory: bool,
) -> PairTrainer:
    """TRL's trainer for these pairs in this order; `start_from` sets where its adapter begins."""
    model = skeleton(base.model)
    model.name_or_path = ""  # with a name, PEFT asks the hub about it at every checkpoint
    trainer = PairTrainer(
        share_prompts=shares_prompts(base.model),
        model=model,
        args=trainer_arguments(base, dpo, folder, save_memory=save_memory),
        train_dataset=pair_dataset(tokens, reference),
        processing_class=copy.deepcopy(base.tokenizer),
        peft_config=lora_config(lora),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def skeleton(model: PreTrainedModel) -> PreTrainedModel:
    """A model of its own with the same tensors: modules are copied, parameters and buffers are shared."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)


def start_from(model: PeftModel, tensors: Tensors) -> None:
    """Set the LoRA matrices of a model.

    Raises:
        UsageError: it has others.
    """
    outcome: Any = set_peft_model_state_dict(
        model, {name: torch.tensor(value) for name, value in tensors.items()}
    )
    left_out = [key for key in outcome.missing_keys if "lora_" in key]
    if outcome.unexpected_keys or left_out:
        raise UsageError(
            "LoRA modules as the terms of the round name them",
            got=f"a model with others ({(outcome.unexpected_keys or left_out)[0]})",
            do="check that the base model is that of the round",
        )


def _tensors(model: PeftModel, lora: LoraTerms) -> dict[str, NDArray[np.float32]]:
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: state[name].detach().float().cpu().numpy().copy() for name in lora.shapes()}


@contextmanager
def _undisturbed(threads: int | None) -> Iterator[None]:
    """What training sets for the whole process is put back: random states, threads, verbosity, warnings."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 (the state that trainers seed)
    try:
        with (
            torch_threads(threads or 0),
            quiet_transformers(),
            torch.random.fork_rng(),
            warnings.catch_warnings(),
        ):
            # peft 0.21 and trl 1.16 read a property of transformers 5.23 by its old name.
            warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
