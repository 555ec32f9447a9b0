# mypy: allow-untyped-calls
"""TRL's DPOTrainer, fed with the token ids and the reference log-probabilities that scoring uses.

What is TRL's: arguments, PEFT model, sampling, optimiser, schedule, checkpoints, and the loss where a model
cannot share prompts. What is ours: the data come tokenised and with their reference log-probabilities,
computed once; for models that can share prompts, the same loss is taken over rows that hold a prompt once
(policy.scoring); nothing is reported to anybody.

    loss = -log sigmoid(beta ((log pi(y+|x) - log pi_0(y+|x)) - (log pi(y-|x) - log pi_0(y-|x))))

Source: Rafailov et al. 2023, arXiv 2305.18290, equation 7.
"""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from datasets import Dataset  # type: ignore[import-untyped]
from numpy.typing import NDArray
from peft import LoraConfig, PeftModel
from torch import Tensor
from torch.nn.functional import logsigmoid, pad
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from patronage_protocol.errors import UsageError
from patronage_protocol.files import write_atomic
from patronage_protocol.manifest import DpoTerms, LoraTerms
from patronage_protocol.policy import BaseModel, TokenizedPair
from patronage_protocol.policy.scoring import Batch, pair_batch, sequence_logprobs

__all__ = [
    "PairTrainer",
    "Watch",
    "lora_config",
    "pair_dataset",
    "resumable",
    "trainer_arguments",
    "with_more_pairs",
]

COMPLETE = "complete"
SCHEDULES = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}
_BATCH = ("input_ids", "positions", "segments", "rows", "columns", "targets")


class PairTrainer(DPOTrainer):
    """A DPOTrainer for the datasets of `pair_dataset`."""

    def __init__(self, *, share_prompts: bool, **options: Any) -> None:
        if share_prompts:
            options["data_collator"] = _shared_batch
        super().__init__(**options)
        self._share_prompts = share_prompts
        self.precompute_ref_logps = True  # they are columns of the dataset

    @property
    def adapted_model(self) -> PeftModel:
        """The PEFT model around the base model."""
        return cast("PeftModel", self.model)

    def _prepare_dataset(self, dataset: Dataset, *_: Any, **__: Any) -> Dataset:
        return dataset

    def _send_telemetry(self) -> None:
        """An owner's machine tells nobody that it trains."""

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """TRL's sigmoid loss of a batch, a scalar."""
        if not self._share_prompts:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        return self.pair_losses(model, inputs).mean().float()

    def pair_losses(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        """The loss of every pair of a batch that shares prompts, shape (n,), float64, in nats."""
        batch = Batch(**{name: inputs[name] for name in _BATCH}, lengths=tuple(inputs["lengths"]), slots=())
        ratios = sequence_logprobs(model, batch) - inputs["reference"]
        return -logsigmoid(self.beta * (ratios[0::2] - ratios[1::2]))

    @property
    def shares_prompts(self) -> bool:
        """Whether a pair is one row."""
        return self._share_prompts


class Watch(TrainerCallback):
    """Tells of progress, asks for a checkpoint now and then, and stops at a loss that is not finite."""

    def __init__(self, progress: Callable[[int, int], None] | None, checkpoint_seconds: float) -> None:
        self._progress = progress
        self._pause = checkpoint_seconds
        self._last = time.monotonic()

    def on_step_end(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """After an optimiser step."""
        if time.monotonic() - self._last >= self._pause and state.global_step < state.max_steps:
            control.should_save = True
        if self._progress is not None:
            self._progress(state.global_step, state.max_steps)

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """A checkpoint counts from here on; one that was cut off has no such file."""
        write_atomic(Path(str(args.output_dir)) / f"checkpoint-{state.global_step}" / COMPLETE, b"")
        self._last = time.monotonic()

    def on_log(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **kwargs: Any,
    ) -> None:
        """After each step, with its loss and the norm of its gradient in `logs`."""
        logs: dict[str, float] = kwargs.get("logs") or {}
        for name in ("loss", "grad_norm"):
            value = logs.get(name, 0.0)
            if not math.isfinite(value):
                raise UsageError(
                    f"a finite {name.replace('_', ' ')}",
                    got=f"{value} at step {state.global_step}",
                    do="lower the learning rate in the terms of the round, or use float32",
                    where="training",
                )


def pair_dataset(pairs: Sequence[TokenizedPair], reference: NDArray[Any]) -> Dataset:
    """Pairs with the log-probabilities of their completions under the base model, shape (M, 2), in memory."""
    return Dataset.from_dict(
        {
            "prompt_ids": [list(pair.prompt) for pair in pairs],
            "chosen_ids": [list(pair.chosen) for pair in pairs],
            "rejected_ids": [list(pair.rejected) for pair in pairs],
            "ref_chosen_logps": reference[:, 0],
            "ref_rejected_logps": reference[:, 1],
        }
    )


def lora_config(lora: LoraTerms) -> LoraConfig:
    """The terms in PEFT's words: no dropout, no bias."""
    options: dict[str, Any] = {"lora_alpha": lora.alpha}  # annotated as int; any number is meant
    return LoraConfig(
        r=lora.rank,
        target_modules=list(lora.modules()),
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
        **options,
    )


def trainer_arguments(base: BaseModel, dpo: DpoTerms, folder: Path, *, save_memory: bool) -> DPOConfig:
    """The terms in TRL's words. With a bfloat16 base the LoRA weights are float32, under autocast."""
    arguments = DPOConfig(
        output_dir=str(folder),
        beta=dpo.beta,
        learning_rate=dpo.learning_rate,
        num_train_epochs=dpo.epochs,
        per_device_train_batch_size=dpo.batch_size,
        gradient_accumulation_steps=dpo.gradient_accumulation,
        warmup_steps=dpo.warmup_steps,
        lr_scheduler_type=SCHEDULES[dpo.schedule],
        max_grad_norm=dpo.max_grad_norm,
        max_length=dpo.max_length,
        seed=dpo.seed % 2**32,
        train_sampling_strategy="sequential",  # the order is that of `training_order`
        optim="adamw_torch",
        weight_decay=0.0,
        bf16=base.precision == "bfloat16",
        activation_checkpointing=save_memory,
        use_cpu=base.device.type == "cpu",
        dataloader_pin_memory=base.device.type == "cuda",
        remove_unused_columns=False,
        save_strategy="no",
        save_total_limit=2,
        logging_steps=1,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to="none",
    )
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # one owner, one GPU: DPOTrainer refuses DataParallel
    return arguments


def resumable(folder: Path) -> str | None:
    """The latest checkpoint under `folder` that was written to its end."""
    steps = [int(marker.parent.name.rpartition("-")[2]) for marker in folder.glob(f"checkpoint-*/{COMPLETE}")]
    return str(folder / f"checkpoint-{max(steps)}") if steps else None


def with_more_pairs(
    inputs: dict[str, Any], pairs: Sequence[TokenizedPair], reference: NDArray[Any]
) -> dict[str, Any]:
    """A batch that shares prompts, with more pairs after its own; `reference` is of shape (pairs, 2)."""
    more, here = pair_batch(pairs), inputs["input_ids"].device
    width = max(inputs["input_ids"].shape[1], more.input_ids.shape[1])
    joined = {
        name: torch.cat([_wide(inputs[name], width), _wide(getattr(more, name).to(here), width)])
        for name in ("input_ids", "positions", "segments")
    }
    rows = more.rows.to(here) + len(inputs["input_ids"])
    ratios = torch.from_numpy(reference).flatten().to(inputs["reference"])
    return {
        **joined,
        "rows": torch.cat([inputs["rows"], rows]),
        "columns": torch.cat([inputs["columns"], more.columns.to(here)]),
        "targets": torch.cat([inputs["targets"], more.targets.to(here)]),
        "lengths": [*inputs["lengths"], *more.lengths],
        "reference": torch.cat([inputs["reference"], ratios]),
    }


def _wide(rows: Tensor, width: int) -> Tensor:
    return pad(rows, (0, width - rows.shape[1]))


def _shared_batch(rows: list[dict[str, Any]]) -> dict[str, Any]:
    parts = ("prompt_ids", "chosen_ids", "rejected_ids")
    pairs = [TokenizedPair(*(tuple(row[part]) for part in parts)) for row in rows]
    batch = pair_batch(pairs)
    reference = [row[name] for row in rows for name in ("ref_chosen_logps", "ref_rejected_logps")]
    return {
        **{name: getattr(batch, name) for name in _BATCH},
        "lengths": list(batch.lengths),
        "reference": torch.tensor(reference, dtype=torch.float64),
    }
