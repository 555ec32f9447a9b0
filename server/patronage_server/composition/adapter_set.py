"""The adapters of n owners over one base model, checked before any of them is used."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import nn

from patronage_protocol.adapters import Tensors
from patronage_protocol.errors import UsageError
from patronage_protocol.manifest import BaseModelTerms, LoraTerms
from patronage_protocol.policy import BaseModel, check_same_base

__all__ = ["AdapterSet"]


@dataclass(frozen=True, eq=False)
class AdapterSet:
    """What composition works on.

    Args:
        base: the base model pi_0.
        lora: the one format of all adapters; dW = (alpha / rank) B A.
        adapters: the tensors of n owners; their order is that of the members of a coalition.
        sizes: numbers of training pairs, for the weights `size`.
        trained_on: the base model that an adapter was trained on, for those of whom it is known.

    Raises:
        UsageError: no owner; an adapter of another rank or other target modules, or with a number that is
            not finite; modules that `base` does not have in these shapes; a size below one.
        LocalProtocolError: an adapter was trained on another base model.
    """

    base: BaseModel
    lora: LoraTerms
    adapters: Mapping[str, Tensors]
    sizes: Mapping[str, int] | None = None
    trained_on: Mapping[str, BaseModelTerms] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.adapters:
            raise UsageError("at least one adapter", got="none", do="check who was admitted to the round")
        for terms in self.trained_on.values():
            check_same_base(terms, self.base)
        self._check_modules()
        shapes = self.lora.shapes()
        for owner, tensors in self.adapters.items():
            _check_adapter(owner, tensors, shapes)
        if self.sizes is not None:
            self._check_sizes(self.sizes)

    def __len__(self) -> int:
        return len(self.adapters)

    @property
    def owners(self) -> tuple[str, ...]:
        """The names of the n owners, in order."""
        return tuple(self.adapters)

    def members(self, *owners: str) -> NDArray[np.bool_]:
        """The coalition (n,) of these owners.

        Raises:
            UsageError: one of them has no adapter here.
        """
        for owner in owners:
            if owner not in self.adapters:
                raise UsageError(
                    f"owners out of {', '.join(self.adapters)}", got=repr(owner), do="name one of them"
                )
        return np.array([owner in owners for owner in self.adapters], dtype=np.bool_)

    def everybody(self) -> NDArray[np.bool_]:
        """The grand coalition (n,)."""
        return np.ones(len(self), dtype=np.bool_)

    def _check_modules(self) -> None:
        for group in self.lora.groups:
            for path in group.modules():
                shape = _linear_shape(self.base.model, path)
                if shape != (group.in_features, group.out_features):
                    raise UsageError(
                        f"a linear module {path} with {group.in_features} inputs and "
                        f"{group.out_features} outputs in {self.base.name}",
                        got="none of that name" if shape is None else f"one with {shape[0]} and {shape[1]}",
                        do="load the base model that the adapters were trained on",
                    )

    def _check_sizes(self, sizes: Mapping[str, int]) -> None:
        if set(sizes) != set(self.adapters) or min(sizes.values()) < 1:
            raise UsageError(
                f"a positive number of training pairs for each of {', '.join(self.adapters)}",
                got=", ".join(f"{owner} {size}" for owner, size in sizes.items()) or "none",
                do="take them from the owners' commitments",
            )


def _linear_shape(model: nn.Module, path: str) -> tuple[int, int] | None:
    try:
        module = model.get_submodule(path)
    except AttributeError:
        return None
    return (module.in_features, module.out_features) if isinstance(module, nn.Linear) else None


def _check_adapter(owner: str, tensors: Tensors, shapes: Mapping[str, tuple[int, int]]) -> None:
    where = f"the adapter of {owner}"
    if missing := sorted(shapes.keys() - tensors.keys()):
        raise _other_format(where, f"{len(shapes)} tensors", f"none named {missing[0]}")
    if extra := sorted(tensors.keys() - shapes.keys()):
        raise _other_format(where, f"{len(shapes)} tensors", f"one more, {extra[0]}")
    for name, shape in shapes.items():
        if tensors[name].shape != shape:
            raise _other_format(where, f"{name} of shape {shape}", f"shape {tensors[name].shape}")
        if not np.isfinite(tensors[name]).all():
            raise UsageError(
                "finite values", got=f"NaN or infinity in {name}", do="leave that owner out", where=where
            )


def _other_format(where: str, expected: str, got: str) -> UsageError:
    return UsageError(
        f"{expected}, as the terms of the round have it",
        got=got,
        do="compose adapters of one rank and the same target modules only",
        where=where,
    )
