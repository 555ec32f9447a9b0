# mypy: allow-untyped-calls
"""Adapters side by side in one model: every coalition is a row of coefficients, and no model is copied.

    y + s sum_i c_i B_i A_i x = y + [s B_1 ... s B_n] diag(c_1 1_r ... c_n 1_r) [A_1; ...; A_n] x

The factors of all owners are concatenated once. A row of a batch has coefficients of its own, so coalitions
can share a batch; owners that no row uses are left out of the products.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from patronage_protocol.adapters import Tensors
from patronage_protocol.errors import UsageError

__all__ = ["Factors", "Stack", "StackSlot", "factors_of", "stacked"]

Factors = dict[str, tuple[Tensor, Tensor]]
"""For every adapted module A^T (in_features, rank) and s B^T (rank, out_features), float32."""


def factors_of(tensors: Tensors, modules: Sequence[str], scaling: float, device: torch.device) -> Factors:
    """The factors of one adapter, with the scaling s = alpha / rank in B."""
    factors = {}
    for module in modules:
        a, b = (
            torch.tensor(tensors[f"base_model.model.{module}.lora_{factor}.weight"], device=device)
            for factor in "AB"
        )
        factors[module] = (a.T.contiguous(), (b.T * scaling).contiguous())
    return factors


@dataclass(frozen=True, eq=False)
class Stack:
    """n adapters, concatenated.

    Attributes:
        factors: as of one adapter whose rank is the sum of the ranks.
        owner: for each column of A^T and row of B^T the number of its adapter.
        count: n.
    """

    factors: Factors
    owner: Tensor
    count: int

    @classmethod
    def of(cls, adapters: Sequence[Factors]) -> "Stack":
        """Concatenate adapters of the same modules; ranks may differ between adapters, not within one."""
        first = adapters[0]
        module = next(iter(first))
        ranks = [factors[module][0].shape[1] for factors in adapters]
        joined = {
            name: (
                torch.cat([factors[name][0] for factors in adapters], dim=1),
                torch.cat([factors[name][1] for factors in adapters], dim=0),
            )
            for name in first
        }
        owner = torch.repeat_interleave(torch.arange(len(adapters)), torch.tensor(ranks))
        return cls(joined, owner.to(first[module][0].device), len(adapters))


class StackSlot:
    """The stack in a model; made by `stacked`, the base model at first."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._factors: Factors = {}
        self._coefficients: Tensor | None = None

    def use(self, coefficients: NDArray[np.float64]) -> None:
        """Run with these coefficients (rows, n): one row for a whole batch, or one for each of its rows."""
        stack = self._stack
        rows = torch.as_tensor(coefficients, dtype=torch.float32, device=stack.owner.device)
        active = torch.nonzero((rows != 0).any(dim=0)[stack.owner])[:, 0]
        expanded = rows[:, stack.owner[active]]
        if not len(active):
            self._factors, self._coefficients = {}, None
        elif len(rows) == 1:
            self._factors = {
                name: (a[:, active], b[active] * expanded[0, :, None])
                for name, (a, b) in stack.factors.items()
            }
            self._coefficients = None
        else:
            self._factors = {name: (a[:, active], b[active]) for name, (a, b) in stack.factors.items()}
            self._coefficients = expanded[:, None, :]

    def hook(self, module: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor | None]:
        """The forward hook for `module`: y + s sum_i c_i B_i A_i x, in float32, in the dtype of y."""

        def add_update(_: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
            factors = self._factors.get(module)
            if factors is None:
                return None
            a, b = factors
            x: Tensor = inputs[0]
            hidden = x.flatten(0, -2).to(a.dtype) @ a
            if self._coefficients is not None:
                _check_rows(module, x, self._coefficients)
                hidden = (hidden.view(*x.shape[:-1], -1) * self._coefficients).flatten(0, -2)
            total = torch.addmm(output.flatten(0, -2).to(a.dtype), hidden, b)
            return total.to(output.dtype).view_as(output)

        return add_update


@contextmanager
def stacked(model: PreTrainedModel, stack: Stack) -> Iterator[StackSlot]:
    """A stack in `model` while the context lasts; afterwards the model is as it was."""
    slot = StackSlot(stack)
    with ExitStack() as handles:
        for module in stack.factors:
            handle = model.get_submodule(module).register_forward_hook(slot.hook(module))
            handles.callback(handle.remove)
        yield slot


def _check_rows(module: str, x: Tensor, coefficients: Tensor) -> None:
    """Without a dimension for rows, as in some mixtures of experts, a row's coefficients would be lost."""
    if x.ndim != 3 or len(x) != len(coefficients):
        raise UsageError(
            f"inputs of {module} of shape ({len(coefficients)}, tokens, features)",
            got=f"shape {tuple(x.shape)}",
            do="choose target modules that see whole rows, such as q_proj and v_proj",
        )
