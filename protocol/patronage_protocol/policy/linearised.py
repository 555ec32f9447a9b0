# mypy: allow-untyped-calls
"""How the losses of pairs change when an adapter moves a little: one gradient, and derivatives along it.

    u_i = beta ((log pi(y+|x) - log pi_0(y+|x)) - (log pi(y-|x) - log pi_0(y-|x))),   l_i = -log sigmoid(u_i)
    G   = grad mean_j l_j over an objective's pairs j           one backward pass over them
    <G, g_i> = -sigmoid(-u_i) D_G u_i,   g_i = grad l_i         one forward pass over pair i

D_G u_i is the derivative of u_i along G. Forward-mode differentiation gives it exactly with the memory of a
forward pass, so the gradient of no single pair is ever formed. Source of the loss: Rafailov et al. 2023,
arXiv 2305.18290, equation 7; of forward mode: Baydin et al. 2022, arXiv 2202.08587.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from patronage_protocol.adapters import Tensors, initial
from patronage_protocol.errors import UsageError
from patronage_protocol.manifest import LoraTerms
from patronage_protocol.policy.adapting import AdapterSlot, adapted
from patronage_protocol.policy.base import BaseModel
from patronage_protocol.policy.scoring import (
    check_finite,
    completion_logprobs,
    enough_memory,
    scoring_batches,
    sequence_logprobs,
)
from patronage_protocol.policy.tokenising import TokenizedPair

__all__ = ["Checkpoint", "linearised_influence", "objective_gradient"]

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Checkpoint:
    """Where the losses are linearised: a base model with an adapter, and the DPO loss's beta."""

    base: BaseModel
    lora: LoraTerms
    adapter: Tensors
    beta: float

    @classmethod
    def start(cls, base: BaseModel, lora: LoraTerms, beta: float) -> "Checkpoint":
        """The point from which every owner of a round trains: the policy is the base model."""
        return cls(base, lora, initial(lora), beta)

    @property
    def is_base(self) -> bool:
        """Whether the adapter changes nothing, since every B is zero."""
        return not any(tensor.any() for name, tensor in self.adapter.items() if "lora_B" in name)

    def parameters(self) -> dict[str, Tensor]:
        """The adapter's matrices on the model's device."""
        return {name: torch.tensor(value, device=self.base.device) for name, value in self.adapter.items()}


def objective_gradient(
    checkpoint: Checkpoint, pairs: Sequence[TokenizedPair], *, progress: Progress | None = None
) -> dict[str, Tensor]:
    """G: the gradient of the mean loss of `pairs` at the checkpoint, by the adapter's matrices.

    Raises:
        UsageError: it is zero or not finite, so that it says nothing about any pair.
        UnavailableError: the device has not enough memory.
    """
    model = checkpoint.base.model
    weights = _pull(_margins(checkpoint, pairs)) * checkpoint.beta / len(pairs)
    by_slot = torch.from_numpy(np.stack([-weights, weights], axis=1).reshape(-1))
    leaves = {name: tensor.requires_grad_() for name, tensor in checkpoint.parameters().items()}
    batches = scoring_batches(model, pairs)
    with adapted(model, checkpoint.lora) as slot:
        for done, batch in enumerate(batches, start=1):
            with torch.enable_grad(), enough_memory(model.device, batch):
                slot.hold(leaves)
                values = sequence_logprobs(model, batch)
                (by_slot[list(batch.slots)].to(values) * values).sum().backward()
            if progress is not None:
                progress(done, len(batches))
    found = {
        name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for name, leaf in leaves.items()
    }
    norm = _norm(found)
    if not norm > 0.0 or not np.isfinite(norm):
        raise UsageError(
            "an objective with a gradient", got=f"one of norm {norm}", do="name other validation pairs"
        )
    return found


def linearised_influence(
    checkpoint: Checkpoint,
    direction: Mapping[str, Tensor],
    pairs: Sequence[TokenizedPair],
    *,
    progress: Progress | None = None,
) -> NDArray[np.float64]:
    """<G, g_i> of M pairs, shape (M,): the fall of the objective for a unit step down the loss of pair i.

    Args:
        checkpoint: where the losses are linearised.
        direction: G, from `objective_gradient`.
        pairs: M pairs.
        progress: called with (batches done, batches in all).

    Raises:
        UsageError: a derivative is not finite.
        UnavailableError: the device has not enough memory.
    """
    model = checkpoint.base.model
    norm = _norm(direction)
    unit = {name: tensor / norm for name, tensor in direction.items()}
    values, slopes = np.zeros(2 * len(pairs)), np.zeros(2 * len(pairs))
    batches = scoring_batches(model, pairs)
    with adapted(model, checkpoint.lora) as slot:
        for done, batch in enumerate(batches, start=1):
            with torch.no_grad(), enough_memory(model.device, batch), _forward_mode():
                with forward_ad.dual_level():
                    _hold_dual(slot, checkpoint.parameters(), unit)
                    value, slope = forward_ad.unpack_dual(sequence_logprobs(model, batch))
                values[list(batch.slots)] = value.cpu().numpy()
                if slope is not None:
                    slopes[list(batch.slots)] = slope.cpu().numpy()
            if progress is not None:
                progress(done, len(batches))
    check_finite(slopes)
    along = checkpoint.beta * norm * (slopes[0::2] - slopes[1::2])
    return -_pull(_margins_of(checkpoint, pairs, values.reshape(-1, 2))) * along


def _margins(checkpoint: Checkpoint, pairs: Sequence[TokenizedPair]) -> NDArray[np.float64]:
    """u of the pairs at the checkpoint."""
    if checkpoint.is_base:
        return np.zeros(len(pairs))
    with adapted(checkpoint.base.model, checkpoint.lora) as slot:
        slot.load(checkpoint.adapter)
        values = completion_logprobs(checkpoint.base.model, pairs)
    return _margins_of(checkpoint, pairs, values)


def _margins_of(
    checkpoint: Checkpoint, pairs: Sequence[TokenizedPair], values: NDArray[np.float64]
) -> NDArray[np.float64]:
    """u from log pi of the completions at the checkpoint, shape (M, 2)."""
    if checkpoint.is_base:
        return np.zeros(len(pairs))
    ratios = values - completion_logprobs(checkpoint.base.model, pairs)
    return np.asarray(checkpoint.beta * (ratios[:, 0] - ratios[:, 1]))


def _pull(margins: NDArray[np.float64]) -> NDArray[np.float64]:
    """sigmoid(-u): how strongly a pair of margin u still pulls."""
    return np.asarray(torch.sigmoid(-torch.from_numpy(margins)).numpy())


@contextmanager
def _forward_mode() -> Iterator[None]:
    """Plain attention, since the fused kernels have no forward-mode derivative."""
    with sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
        # torch 2.13 compiles its own formulas for it with what it calls deprecated.
        warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated")
        yield


def _hold_dual(slot: AdapterSlot, point: Mapping[str, Tensor], direction: Mapping[str, Tensor]) -> None:
    slot.hold({name: forward_ad.make_dual(tensor, direction[name]) for name, tensor in point.items()})


def _norm(tensors: Mapping[str, Tensor]) -> float:
    return float(torch.stack([tensor.double().square().sum() for tensor in tensors.values()]).sum().sqrt())
