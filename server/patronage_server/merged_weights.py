# mypy: allow-untyped-calls
"""The consortium's model as a folder of its own: W + dW in every adapted module, by `save_pretrained`.

W + dW is formed in float32 and rounded to the dtype of the base model. Over bfloat16 most of a small dW is
lost to that rounding; the part of it that arrives is measured and reported.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from patronage_protocol.adapters import Tensors
from patronage_protocol.files import whole_folder
from patronage_protocol.manifest import LoraTerms
from patronage_protocol.policy import BaseModel

__all__ = ["export_merged"]


def export_merged(base: BaseModel, tensors: Tensors, lora: LoraTerms, out: Path) -> float:
    """Write the base model with one adapter merged in, and its tokenizer, as the folder `out`.

    Args:
        base: the base model; it is left as it was.
        tensors: an adapter of the format `lora`.
        lora: that format.
        out: a new or empty folder.

    Returns:
        The relative error ||dW written - dW||^2 / ||dW||^2 that rounding to the model's dtype leaves.

    Raises:
        UsageError: `out` holds something already.
        UnavailableError: the disk is full or not writable.
    """
    with _merged(base, tensors, lora) as error, whole_folder(out) as folder:
        base.model.save_pretrained(folder)
        base.tokenizer.save_pretrained(folder)
    return error


@contextmanager
def _merged(base: BaseModel, tensors: Tensors, lora: LoraTerms) -> Iterator[float]:
    """dW in the weights while the context lasts; the weights before are kept, bit for bit, and put back."""
    before: dict[str, Tensor] = {}
    lost = whole = 0.0
    try:
        for module in lora.modules():
            weight = base.model.get_parameter(f"{module}.weight").data
            a, b = (
                torch.tensor(tensors[f"base_model.model.{module}.lora_{factor}.weight"], device=weight.device)
                for factor in "AB"
            )
            update = lora.scaling * (b @ a)
            before[module] = weight.clone()
            weight.copy_(weight.float() + update)
            arrived = weight.double() - before[module].double()
            lost += float((arrived - update).square().sum())
            whole += float(update.double().square().sum())
        yield lost / whole if whole > 0 else 0.0
    finally:
        for module, weight in before.items():
            base.model.get_parameter(f"{module}.weight").data.copy_(weight)
