"""The base model pi_0 and its identity: what two parties must share before they can be in one round."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from patronage_protocol.canonical import canonical_bytes, sha256
from patronage_protocol.errors import DataError, LocalProtocolError
from patronage_protocol.manifest import BaseModelTerms

__all__ = ["BaseModel", "Precision", "check_same_base", "tokenizer_digest", "weights_digest"]

Precision: TypeAlias = Literal["bfloat16", "float32"]

# Settings that change what a forward pass computes and leave no trace in the names and shapes of parameters.
_FORWARD_SETTINGS = (
    "attn_logit_softcapping",
    "embedding_multiplier",
    "final_logit_softcapping",
    "head_dim",
    "hidden_act",
    "hidden_activation",
    "layer_norm_eps",
    "layer_types",
    "logit_scale",
    "logits_scaling",
    "model_type",
    "num_attention_heads",
    "num_experts_per_tok",
    "num_key_value_heads",
    "query_pre_attn_scalar",
    "residual_multiplier",
    "rms_norm_eps",
    "rope_parameters",
    "sliding_window",
)


@dataclass(frozen=True)
class BaseModel:
    """A causal language model, frozen and in evaluation mode, with its tokenizer and their digests.

    Attributes:
        name: how the user named it; no part of its identity.
        weights: SHA-256 over parameters and the settings of the forward pass, see `weights_digest`.
        tokens: SHA-256 over the tokenizer and the chat template, see `tokenizer_digest`.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    precision: Precision
    weights: str
    tokens: str

    @property
    def architecture(self) -> str:
        """The class of the model, such as LlamaForCausalLM."""
        return type(self.model).__name__

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    @property
    def pad_id(self) -> int:
        """The token that fills up batches; the end of text where the tokenizer names none."""
        token = self.tokenizer.pad_token_id
        return int(self.tokenizer.eos_token_id if token is None else token)

    def terms(self) -> BaseModelTerms:
        """What the manifest says about this model."""
        return BaseModelTerms(
            name=self.name,
            architecture=self.architecture,
            precision=self.precision,
            weights=self.weights,
            tokenizer=self.tokens,
        )


def check_same_base(terms: BaseModelTerms, base: BaseModel) -> None:
    """Make sure that `base` is the model of the round; the name may differ.

    Raises:
        LocalProtocolError: it is another one; says in what.
    """
    ours = base.terms()
    for field in ("architecture", "precision", "tokenizer", "weights"):
        theirs, mine = getattr(terms, field), getattr(ours, field)
        if theirs != mine:
            raise LocalProtocolError(
                f"the base model of the round, {terms.name}, with {field} {theirs[:16]}",
                got=f"{base.name} with {field} {mine[:16]}",
                do="load the model that the manifest names, in its precision",
                where="base model",
            )


def weights_digest(model: PreTrainedModel) -> str:
    """SHA-256 over the settings of the forward pass and the parameters, sorted by name; tied ones count once.

    A parameter contributes its name, dtype, shape and bytes. Two copies of one model in different file
    formats have the same digest; another precision has another.
    """
    settings = model.config.get_text_config().to_dict()
    present = {key: settings[key] for key in _FORWARD_SETTINGS if settings.get(key) is not None}
    digest = hashlib.sha256(_framed(present))
    for name, parameter in sorted(model.named_parameters()):
        digest.update(_framed([name, str(parameter.dtype), list(parameter.shape)]))
        flat = parameter.detach().cpu().contiguous().view(-1).view(torch.uint8)
        digest.update(flat.numpy().data)
    return digest.hexdigest()


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 over the tokenizer's own JSON, its special tokens and the chat template.

    Truncation and padding are left out: they are settings of a call that a tokenizer happens to remember.

    Raises:
        DataError: the tokenizer is not one of the `tokenizers` library, so it has no such JSON.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise DataError(
            "a tokenizer of the tokenizers library (tokenizer.json)",
            got=type(tokenizer).__name__,
            do="use a model that ships one",
        )
    state: dict[str, Any] = json.loads(backend.to_str())
    kept = {key: value for key, value in state.items() if key not in {"padding", "truncation"}}
    special = {key: str(value) for key, value in tokenizer.special_tokens_map.items()}
    return sha256(canonical_bytes([kept, special, tokenizer.chat_template or ""]))


def _framed(value: Any) -> bytes:
    data = canonical_bytes(value)
    return len(data).to_bytes(8, "big") + data
