# mypy: allow-untyped-calls
"""The model "tiny": a two-layer Llama with random weights and a byte-level tokenizer, made in milliseconds.

It is there for tests and for trying out a whole round in seconds; it has learnt nothing. Weights come from
PCG64's raw stream, so its digests are the same on every machine.
"""

import math

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

__all__ = ["tiny_model"]

_SEED = 20240229
_PAD, _START, _END = "<|pad|>", "<|im_start|>", "<|im_end|>"
_CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_model(dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model, in `dtype` on the CPU, and its tokenizer."""
    tokenizer = _byte_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        model = LlamaForCausalLM(config)
    stream = np.random.PCG64(np.random.SeedSequence(_SEED))
    for _, parameter in sorted(model.named_parameters()):
        if parameter.ndim == 2:
            parameter.data.copy_(_uniform(stream, (parameter.shape[0], parameter.shape[1])))
    return nn.Module.to(model, dtype), tokenizer


def _uniform(stream: np.random.PCG64, shape: tuple[int, int]) -> torch.Tensor:
    """Uniform with variance 1 / columns, from the upper 24 bits of each draw."""
    unit = (stream.random_raw(math.prod(shape)) >> np.uint64(40)).astype(np.float64) * 2.0**-23 - 1.0
    return torch.from_numpy((unit * math.sqrt(3.0 / shape[1])).astype(np.float32).reshape(shape))


def _byte_tokenizer() -> PreTrainedTokenizerBase:
    symbols = [_PAD, _START, _END, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Tokenizer(models.BPE(vocab={symbol: index for index, symbol in enumerate(symbols)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=_START,
        eos_token=_END,
        pad_token=_PAD,
        chat_template=_CHAT_TEMPLATE,
    )
