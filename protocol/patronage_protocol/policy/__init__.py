"""What the base model and an adapter make of a text: the only rooms of the protocol that import torch.

    base        the base model with its digests        loading     hub id, folder, GGUF file, package, "tiny"
    adapting    LoRA modules, an adapter in place      tokenising  pairs to token ids, as TRL does it
    scoring     log pi(y | x) of completions           tiny        a small random Llama, made on the fly
    bars        progress on stderr                 threads     how many of them torch may use
    starting    the policy that a later round starts from

Both sides need these and must agree on them: the owner trains against the log-probabilities that the operator
scores with. Importing this package takes seconds; commands do so when they run.
"""

from patronage_protocol.policy.adapting import AdapterSlot, adapted, lora_groups
from patronage_protocol.policy.bars import progress_bar
from patronage_protocol.policy.base import BaseModel, check_same_base
from patronage_protocol.policy.loading import load_base_model, shared_base_model
from patronage_protocol.policy.scoring import candidate_logprobs, completion_logprobs
from patronage_protocol.policy.starting import started
from patronage_protocol.policy.threads import torch_threads
from patronage_protocol.policy.tokenising import (
    TokenizedPair,
    end_tokens,
    length_check,
    prompt_tokens,
    tokenize_pairs,
)

__all__ = [
    "AdapterSlot",
    "BaseModel",
    "TokenizedPair",
    "adapted",
    "candidate_logprobs",
    "check_same_base",
    "completion_logprobs",
    "end_tokens",
    "length_check",
    "load_base_model",
    "lora_groups",
    "progress_bar",
    "prompt_tokens",
    "shared_base_model",
    "started",
    "tokenize_pairs",
    "torch_threads",
]
