# mypy: allow-untyped-calls
"""LoRA on a model: which modules it adapts, and one adapter applied in place.

PEFT's LoraLayer computes base(x) + (alpha / rank) B A x. `adapted` computes the same with a forward hook on
each module, always unmerged: over a bfloat16 base the factors stay in float32, where merging would round most
of dW away (bfloat16 keeps 8 bits of W, and dW is far smaller). Swapping replaces two small matrices a module.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from patronage_protocol.adapters import Tensors
from patronage_protocol.errors import UsageError
from patronage_protocol.manifest import LoraGroup, LoraTerms

__all__ = ["AdapterSlot", "adapted", "lora_groups"]

_LAYER = re.compile(r"(?<=\.)\d+(?=\.)")


def lora_groups(model: PreTrainedModel, target_modules: Sequence[str]) -> tuple[LoraGroup, ...]:
    """The linear modules of `model` whose last name is among `target_modules`, grouped by place and shape.

    Raises:
        UsageError: a target that names no linear module, or the output head (DPO scores past it).
    """
    groups: dict[tuple[str, int, int], list[int]] = defaultdict(list)
    found: set[str] = set()
    for path, module in model.named_modules():
        target = path.rpartition(".")[2]
        if target not in target_modules:
            continue
        if not isinstance(module, nn.Linear) or module is model.get_output_embeddings():
            raise _no_target(target, f"{path}, a {type(module).__name__}")
        layer = _LAYER.search(path)
        template = path if layer is None else f"{path[: layer.start()]}{{}}{path[layer.end() :]}"
        layers = groups[template, module.in_features, module.out_features]
        if layer is not None:
            layers.append(int(layer.group()))
        found.add(target)
    for target in target_modules:
        if target not in found:
            raise _no_target(target, "none of that name")
    return tuple(
        LoraGroup(module=template, layers=tuple(sorted(layers)), in_features=columns, out_features=rows)
        for (template, columns, rows), layers in sorted(groups.items())
    )


class AdapterSlot:
    """The place for one adapter in a model; made by `adapted`, empty at first."""

    def __init__(self, lora: LoraTerms, device: torch.device) -> None:
        self._lora = lora
        self._device = device
        self._factors: dict[str, tuple[Tensor, Tensor]] = {}

    def load(self, tensors: Tensors) -> None:
        """Put an adapter in, in place of the one before."""
        self.hold({name: torch.tensor(tensor, device=self._device) for name, tensor in tensors.items()})

    def hold(self, parameters: Mapping[str, Tensor]) -> None:
        """Put tensors in as they are: the gradients or tangents that they carry flow on."""
        for module in self._lora.modules():
            a, b = (parameters[f"base_model.model.{module}.lora_{factor}.weight"] for factor in "AB")
            self._factors[module] = (a.T.contiguous(), (b.T * self._lora.scaling).contiguous())

    def clear(self) -> None:
        """Take the adapter out: the model is the base model again."""
        self._factors.clear()

    def hook(self, module: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor | None]:
        """The forward hook for `module`: y + (alpha / rank) B A x, in float32, in the dtype of y."""

        def add_update(_: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
            factors = self._factors.get(module)
            if factors is None:
                return None
            a, b = factors
            hidden = inputs[0].flatten(0, -2).to(a.dtype) @ a
            total = torch.addmm(output.flatten(0, -2).to(a.dtype), hidden, b)
            return total.to(output.dtype).view_as(output)

        return add_update


@contextmanager
def adapted(model: PreTrainedModel, lora: LoraTerms) -> Iterator[AdapterSlot]:
    """A slot for adapters in `model` while the context lasts; afterwards the model is as it was."""
    slot = AdapterSlot(lora, model.device)
    with ExitStack() as stack:
        for module in lora.modules():
            handle = model.get_submodule(module).register_forward_hook(slot.hook(module))
            stack.callback(handle.remove)
        yield slot


def _no_target(target: str, got: str) -> UsageError:
    return UsageError(
        f"linear modules named {target!r} inside the layers of the model",
        got=got,
        do="name others as LoRA targets, such as q_proj and v_proj",
    )
