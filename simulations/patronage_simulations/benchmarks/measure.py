"""What the benchmarks share: options, the setting they work on, interleaved timing, a table of ratios."""

import argparse
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from patronage_protocol.manifest import LoraTerms
from patronage_protocol.policy import BaseModel, load_base_model, lora_groups
from patronage_protocol.preferences import PreferencePair
from patronage_simulations.preferences import held_out_pairs
from patronage_simulations.skills import SKILLS

__all__ = ["Setting", "interleaved", "print_ratios", "read_setting"]


@dataclass(frozen=True)
class Setting:
    """A model, LoRA terms and pairs to work on, how often, and by which clock."""

    base: BaseModel
    lora: LoraTerms
    pairs: tuple[PreferencePair, ...]
    repeats: int
    cpu_time: bool
    owners: int


def read_setting(description: str, *, pairs_per_skill: int) -> Setting:
    """The setting that the command line asks for."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", default="tiny", help="tiny, package:NAME, a GGUF file or a folder")
    parser.add_argument("--cache", type=Path, help="a folder for de-quantised copies of GGUF files")
    parser.add_argument("--precision", choices=["auto", "bfloat16", "float32"], default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, help="of torch on the CPU")
    parser.add_argument("--targets", nargs="+", default=["q_proj", "v_proj"], help="LoRA target modules")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument(
        "--skills", nargs="+", default=["politeness", "secrecy", "honesty", "brevity"], choices=SKILLS
    )
    parser.add_argument("--pairs-per-skill", type=int, default=pairs_per_skill)
    parser.add_argument("--owners", type=int, default=4, help="adapters, where there are several")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cpu-time", action="store_true", help="for a machine on which others work too")
    options = parser.parse_args()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    base = load_base_model(
        options.model, precision=options.precision, device=options.device, cache=options.cache
    )
    lora = LoraTerms(
        rank=options.rank,
        alpha=2.0 * options.rank,
        init_seed=0,
        groups=lora_groups(base.model, options.targets),
    )
    pairs = held_out_pairs(options.skills, options.pairs_per_skill, seed="benchmark")
    return Setting(base, lora, pairs, options.repeats, options.cpu_time, options.owners)


def interleaved(setting: Setting, parts: Mapping[str, Callable[[int], object]]) -> dict[str, float]:
    """Median seconds of each part, run in turn so that a busy machine is unfair to all alike.

    A part is called with the number of the repeat; number 0 is to warm up and is not counted.
    """
    clock = time.process_time if setting.cpu_time else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    for repeat in range(setting.repeats + 1):
        for name, part in parts.items():
            started = clock()
            part(repeat)
            if setting.base.device.type == "cuda":
                torch.cuda.synchronize()
            seconds[name].append(clock() - started)
    return {name: median(values[1:]) for name, values in seconds.items()}


def print_ratios(setting: Setting, ours: str, seconds: Mapping[str, float]) -> None:
    """One line for each part: its seconds, and how long ours takes in terms of it."""
    base = setting.base
    threads = f", {torch.get_num_threads()} threads" if base.device.type == "cpu" else ""
    clock = "CPU time" if setting.cpu_time else "wall time"
    print(  # noqa: T201
        f"{base.name}, {base.precision}, {base.device}{threads}, {len(setting.pairs)} pairs, "
        f"median of {setting.repeats}, {clock}"
    )
    for name, value in seconds.items():
        ratio = "" if name == ours else f"   ours takes {seconds[ours] / value:.3f} of it"
        print(f"  {name:<58} {value:9.3f} s{ratio}")  # noqa: T201
