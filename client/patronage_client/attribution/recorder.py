# mypy: allow-untyped-calls
"""Per-pair gradients of LoRA matrices from one backward pass, whatever training step makes it.

A linear module y = W x that sees row b of a batch gets the gradient dL/dW = sum_t e_bt x_bt^T, where x is its
input and e the gradient of its output. Both pass by during an ordinary backward pass; hooks catch them, and
sorting rows by pair gives each pair its own part. TRL puts the two completions of a pair into two rows,
Patronage into one: `rows` says which. The parts of all pairs add up to what autograd writes into `.grad`, so
the factor by which a step scales its loss (1 / batch size, 1 / accumulation) is in them.

A part is kept as the matrix it is, or as the factors x and e, whichever is smaller: T (in + out) against
in * out numbers. Products with a vector or between two pairs need no matrix ("ghost" products):
<sum_t e_t x_t^T, V> = sum_t e_t^T V x_t, and <.,.> of two pairs = sum_{t,u} (e_t . e'_u)(x_t . x'_u).

Source: Wang et al. 2024, arXiv 2406.11011, section 4.2 (ghost dot-products), after Goodfellow 2015,
arXiv 1510.01799. Gradient checkpointing only runs forward passes again; the hooks do not mind.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from patronage_protocol.errors import UsageError

__all__ = ["PairGradients", "Recorder", "lora_modules", "pair_rows"]

Keep = Literal["cheaper", "matrices", "factors"]


@dataclass
class _Part:
    """What one module contributes to the gradients of the pairs of one batch."""

    pairs: Tensor  # (rows,) the pair of each row
    count: int
    matrices: Tensor | None = None  # (count, out, in)
    inputs: Tensor | None = None  # (rows, T, in)
    errors: Tensor | None = None  # (rows, T, out)

    def split(self, first: int) -> "tuple[_Part, _Part]":
        """The part of the first pairs, and that of the others."""
        if self.matrices is not None:
            pieces = self.matrices[:first], self.matrices[first:]
            return _Part(self.pairs, first, pieces[0]), _Part(self.pairs, self.count - first, pieces[1])
        assert self.inputs is not None, "a part has matrices or factors"
        assert self.errors is not None, "a part has matrices or factors"
        early = self.pairs < first
        return (
            _Part(self.pairs[early], first, None, self.inputs[early], self.errors[early]),
            _Part(
                self.pairs[~early] - first, self.count - first, None, self.inputs[~early], self.errors[~early]
            ),
        )

    def materialised(self) -> Tensor:
        if self.matrices is not None:
            return self.matrices
        assert self.inputs is not None, "a part has matrices or factors"
        assert self.errors is not None, "a part has matrices or factors"
        return _matrices(self.inputs, self.errors, self.pairs, self.count)

    def dot(self, direction: Tensor) -> Tensor:
        """(count,) products with a matrix of shape (out, in)."""
        if self.matrices is not None:
            return torch.mv(self.matrices.flatten(1), direction.flatten().to(self.matrices))
        assert self.inputs is not None, "a part has matrices or factors"
        assert self.errors is not None, "a part has matrices or factors"
        rows = ((self.inputs @ direction.T.to(self.inputs)) * self.errors).sum((1, 2))
        return rows.new_zeros(self.count).index_add_(0, self.pairs, rows)

    def gram(self, other: "_Part") -> Tensor:
        """(count, other.count) products between the pairs of two batches."""
        if self.inputs is None or other.inputs is None:
            return self.materialised().flatten(1) @ other.materialised().flatten(1).T
        assert self.errors is not None, "factors come together"
        assert other.errors is not None, "factors come together"
        products = torch.einsum("ati,bui->abtu", self.inputs, other.inputs)
        products = products * torch.einsum("ato,buo->abtu", self.errors, other.errors)
        rows = products.sum((2, 3))
        left = rows.new_zeros(self.count, rows.shape[1]).index_add_(0, self.pairs, rows)
        return left.new_zeros(self.count, other.count).index_add_(1, other.pairs, left)


@dataclass
class PairGradients:
    """The gradients of the pairs of one batch, by the name of the LoRA matrix.

    Attributes:
        ids: the caller's name of each pair.
        names: the matrices, in the order of flat vectors.
        shapes: (out, in) of each matrix.
    """

    ids: tuple[int, ...]
    names: tuple[str, ...]
    shapes: dict[str, tuple[int, int]]
    _parts: dict[str, list[_Part]] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether something was recorded of every matrix."""
        return set(self.names) == self._parts.keys()

    def dot(self, vector: Tensor) -> Tensor:
        """Products of every pair's gradient with a flat vector of p numbers: shape (pairs,)."""
        total = vector.new_zeros(len(self.ids))
        for name, piece in self._pieces(vector):
            for part in self._parts.get(name, ()):
                total += part.dot(piece)
        return total

    def gram(self, other: "PairGradients") -> Tensor:
        """Products between the pairs of two batches, ghost where both kept factors: (n, other's n)."""
        total: Tensor | None = None
        for name in self.names:
            for left in self._parts.get(name, ()):
                for right in other._parts.get(name, ()):
                    products = left.gram(right)
                    total = products if total is None else total + products
        return torch.zeros(len(self.ids), len(other.ids)) if total is None else total

    def squares(self) -> Tensor:
        """The sum over pairs of the squares of each element, shape (p,)."""
        return torch.cat([self._rows(name).square().sum(0) for name in self.names])

    def dot_squares(self, vector: Tensor) -> Tensor:
        """Products of every pair's squared gradient with a flat vector of p numbers: shape (pairs,)."""
        total = vector.new_zeros(len(self.ids))
        for name, piece in self._pieces(vector):
            total += torch.mv(self._rows(name).square(), piece.flatten())
        return total

    def split(self, first: int) -> "tuple[PairGradients, PairGradients]":
        """The gradients of the first pairs, and those of the others."""
        halves = {name: [part.split(first) for part in parts] for name, parts in self._parts.items()}
        ids = self.ids[:first], self.ids[first:]
        return (
            PairGradients(
                ids[0], self.names, self.shapes, {name: [a for a, _ in two] for name, two in halves.items()}
            ),
            PairGradients(
                ids[1], self.names, self.shapes, {name: [b for _, b in two] for name, two in halves.items()}
            ),
        )

    def matrix(self) -> Tensor:
        """All gradients, shape (pairs, p)."""
        return torch.cat([self._rows(name) for name in self.names], dim=1)

    def _rows(self, name: str) -> Tensor:
        """The gradients by one LoRA matrix, shape (pairs, out * in)."""
        parts = [part.materialised().flatten(1) for part in self._parts.get(name, ())]
        height, width = self.shapes[name]
        return sum(parts[1:], parts[0]) if parts else torch.zeros(len(self.ids), height * width)

    def _pieces(self, vector: Tensor) -> Iterator[tuple[str, Tensor]]:
        sizes = [rows * columns for rows, columns in self.shapes.values()]
        for name, piece in zip(self.names, vector.split(sizes), strict=True):
            yield name, piece.view(self.shapes[name])


class _TrainedRows(torch.autograd.Function):
    """A linear module's output as it is, whose weight gets a gradient from the first rows alone."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, output: Tensor, trained: int) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        ctx.trained = trained
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *errors: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        (error,), (inputs, weight) = errors, ctx.saved_tensors
        back = (error @ weight.to(error)).to(inputs) if ctx.needs_input_grad[0] else None
        rows, seen = error[: ctx.trained].flatten(0, -2), inputs[: ctx.trained].flatten(0, -2)
        return back, (rows.T @ seen.to(rows)).to(weight), None, None


class Recorder:
    """Catches per-pair gradients of `model` while its context lasts; the model is left as it was.

        with Recorder(model) as recorder:
            with recorder.batch([0, 1, 2, 3]):
                loss.backward()
            gradients = recorder.take()[0]

    Args:
        model: a model with PEFT LoRA modules.
        keep: "cheaper" of the two forms for each module, or always one of them.

    Raises:
        UsageError: the model has no trainable LoRA matrices, or LoRA on something that is no linear module.
    """

    def __init__(self, model: nn.Module, *, keep: Keep = "cheaper") -> None:
        self._modules = lora_modules(model)
        self._keep = keep
        self._handles: list[RemovableHandle] = []
        self._rows: Tensor | None = None
        self._current: PairGradients | None = None
        self._watched = 0
        self._taken: list[PairGradients] = []

    def __enter__(self) -> Self:
        for name, module in self._modules.items():
            self._handles.append(module.register_forward_hook(self._forward_hook(name)))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    @contextmanager
    def batch(
        self, ids: Sequence[int], *, rows: Sequence[int] | None = None, watched: int = 0
    ) -> Iterator[None]:
        """Forward passes within belong to these pairs; their backward passes may come later, before `take`.

        Args:
            ids: the caller's names of the pairs of the batch.
            rows: for each row of the batch, the position of its pair in `ids`; None finds out: as many rows
                as pairs are one each, twice as many are all chosen and then all rejected ones (TRL).
            watched: how many rows at the end are looked at and not trained on: their gradients are recorded
                and stay out of `.grad`.

        Raises:
            UsageError: a module saw another number of rows.
        """
        names = tuple(self._modules)
        shapes = {name: (int(m.weight.shape[0]), int(m.weight.shape[1])) for name, m in self._modules.items()}
        self._current = PairGradients(tuple(ids), names, shapes)
        self._rows = None if rows is None else torch.tensor(list(rows))
        self._watched = watched
        try:
            yield
            self._taken.append(self._current)
        finally:
            self._current = self._rows = None
            self._watched = 0

    def take(self) -> list[PairGradients]:
        """What was recorded since the last call, a batch an entry."""
        taken, self._taken = self._taken, []
        return taken

    def _forward_hook(self, name: str) -> Any:
        def remember(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
            if self._current is None or not output.requires_grad:
                return None
            current, rows, value = self._current, self._rows, inputs[0].detach()
            if self._watched:
                trained = len(value) - self._watched
                output = _TrainedRows.apply(inputs[0], module.weight, output.detach(), trained)
            output.register_hook(lambda error: self._add(current, name, rows, value, error))
            return output

        return remember

    def _add(
        self, batch: PairGradients, name: str, rows: Tensor | None, inputs: Tensor, errors: Tensor
    ) -> None:
        rows = pair_rows(len(inputs), len(batch.ids)) if rows is None else rows
        if inputs.ndim != 3 or len(rows) != len(inputs):
            raise UsageError(
                f"an input of shape ({len(rows)}, tokens, features) at {name}",
                got=f"one of shape {tuple(inputs.shape)}",
                do="say which pair each row belongs to, and adapt modules that see whole rows",
                where="recorder",
            )
        exact = torch.promote_types(errors.dtype, torch.float32)
        inputs, errors = inputs.to(exact), errors.detach().to(exact)
        part = _Part(rows.to(inputs.device), len(batch.ids))
        if self._factors_are_cheaper(inputs, errors):
            part.inputs, part.errors = inputs, errors
        else:
            part.matrices = _matrices(inputs, errors, part.pairs, part.count)
        batch._parts.setdefault(name, []).append(part)

    def _factors_are_cheaper(self, inputs: Tensor, errors: Tensor) -> bool:
        if self._keep != "cheaper":
            return self._keep == "factors"
        tokens, width, height = inputs.shape[1], inputs.shape[2], errors.shape[2]
        return tokens * (width + height) < width * height


def pair_rows(rows: int, pairs: int) -> Tensor:
    """The pair of each row where the layout is one row a pair, or all chosen rows and then all rejected ones.

    Raises:
        UsageError: the numbers fit neither.
    """
    if rows not in (pairs, 2 * pairs):
        raise UsageError(
            f"{pairs} or {2 * pairs} rows for {pairs} pairs",
            got=str(rows),
            do="say which pair each row belongs to",
            where="recorder",
        )
    return torch.arange(rows) % pairs


def lora_modules(model: nn.Module) -> dict[str, nn.Linear]:
    """The trainable A and B modules of every LoRA layer by parameter name, sorted as in `LoraTerms.shapes`.

    Raises:
        UsageError: there are none, one is not linear, or something else is trained beside them.
    """
    found: dict[str, nn.Linear] = {}
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    for path, module in model.named_modules():
        name = f"{path}.weight"
        if name not in trained or not {"lora_A", "lora_B"} & set(path.split(".")):
            continue
        if not isinstance(module, nn.Linear) or module.bias is not None:
            raise UsageError(
                "LoRA on linear modules without bias",
                got=f"{path}, a {type(module).__name__}",
                do="adapt linear modules only",
                where="recorder",
            )
        found[name] = module
    others = sorted(trained - found.keys())
    if not found or others:
        raise UsageError(
            "a model of which LoRA matrices alone are trained",
            got=f"{others[0]} as well" if others else "none",
            do="train a PEFT LoRA adapter and nothing else",
            where="recorder",
        )
    return dict(sorted(found.items()))


def _matrices(inputs: Tensor, errors: Tensor, pairs: Tensor, count: int) -> Tensor:
    rows = torch.bmm(errors.transpose(1, 2), inputs)
    if len(rows) == count and torch.equal(pairs, torch.arange(count, device=pairs.device)):
        return rows
    return rows.new_zeros(count, *rows.shape[1:]).index_add_(0, pairs, rows)
