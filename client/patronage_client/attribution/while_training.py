# mypy: allow-untyped-calls
"""In-Run Data Shapley inside a training of TRL: a callback that looks on and changes nothing.

    watch = InRunCallback(AdapterModel(base, lora, beta=0.1, model=trainer.model), order, validation)
    with watch.attached(trainer):
        trainer.train()
    watch.values

The recorder hangs on the model's LoRA matrices; each loss that the trainer computes opens it for the pairs of
the batch; before each optimiser step the values of the step are added up. The optimiser must be AdamW of
torch, or its SGD without momentum. With a few validation pairs a step, in turn, the cost stays low and the
values are an estimate of what all of them would give.

`together` has the validation pairs ride along in the training batch, as in the paper, so that one pass gives
their gradient too: cheaper than a pass of their own. They stay out of the weights' gradients, but a batch of
another shape rounds differently, so the adapter is then equal only up to rounding.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl.trainer.dpo_trainer import DPOTrainer

from patronage_client.attribution.adapter_model import AdapterModel, TokenizedPairs
from patronage_client.attribution.in_run import Fixed, values_of_parts
from patronage_client.attribution.optimisers import SGD, AdamW, Rule, State
from patronage_client.attribution.recorder import PairGradients, Recorder
from patronage_client.dpo_trainer import PairTrainer, with_more_pairs
from patronage_protocol.errors import UsageError

__all__ = ["InRunCallback", "rule_of"]

_WATCHED = -1
"""The name of every pair that is looked at and not trained on."""


class InRunCallback(TrainerCallback):
    """Values pairs while a DPOTrainer trains on them, in the order of its dataset.

    Attributes:
        values: by pair, shape (n,), nats of validation loss, higher = helps.
        momentum: what AdamW's momentum did without gradients, nats.

    Args:
        policy: the trainer's model.
        order: the pair at each place of the dataset.
        validation: the pairs to measure on.
        at_once: how many validation pairs a step looks at, in turn; None is all.
        curved: second order.
        together: in the training batch, and not in a pass of their own; `at_once` of them a micro-batch.
    """

    def __init__(
        self,
        policy: AdapterModel,
        order: Sequence[int],
        validation: TokenizedPairs,
        *,
        at_once: int | None = None,
        curved: bool = False,
        together: bool = False,
    ) -> None:
        self._policy = policy
        self._order = tuple(order)
        self._validation = validation
        self._at_once = min(at_once or len(validation), len(validation))
        self._curved = curved
        self._together = together
        self._rode_along: list[int] = []
        self._place = self._looked = 0
        self._recorder = Recorder(policy.model)
        self.values = torch.zeros(len(self._order), dtype=torch.float64)
        self.momentum = 0.0

    @contextmanager
    def attached(self, trainer: DPOTrainer) -> Iterator[None]:
        """Look on while the context lasts; the trainer is left as it was.

        Raises:
            UsageError: the trainer shuffles its pairs, or pairs cannot ride along in its batches.
        """
        if trainer.args.train_sampling_strategy != "sequential":
            raise UsageError(
                "a trainer that takes pairs in the order of its dataset",
                got=f"train_sampling_strategy={trainer.args.train_sampling_strategy!r}",
                do="shuffle the dataset before, and set it to sequential",
            )
        if self._together and (why := self._no_room(trainer)):
            raise UsageError(
                "a trainer whose pairs share prompts, without dropout and activation checkpointing",
                got=why,
                do="leave `together` out",
            )
        compute = trainer.compute_loss

        def recorded(model: Any, inputs: Any, *arguments: Any, **options: Any) -> Any:
            if not model.training:
                return compute(model, inputs, *arguments, **options)
            ids = self._next(
                len(inputs["lengths"]) // 2 if "lengths" in inputs else len(inputs["input_ids"]) // 2
            )
            if self._together:
                return self._joint_loss(cast("PairTrainer", trainer), model, inputs, ids)
            with self._recorder.batch(ids):
                return compute(model, inputs, *arguments, **options)

        with ExitStack() as stack:
            stack.enter_context(self._recorder)
            trainer.add_callback(self)
            stack.callback(trainer.remove_callback, self)
            vars(trainer)["compute_loss"] = recorded  # in front of the class's
            stack.callback(delattr, trainer, "compute_loss")
            yield

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,  # noqa: ARG002
        control: TrainerControl,  # noqa: ARG002
        **kwargs: Any,
    ) -> None:
        """Gradients are clipped and not yet used."""
        optimizer = kwargs["optimizer"]
        rule = rule_of(optimizer)
        parts = _recorded(self._recorder)
        parts, gradient, places = self._apart(parts) if self._together else (parts, None, self._turn())
        clipped = self._policy.accumulated_gradient()
        memory, rate = self._state(rule, optimizer)
        fixed = Fixed(rule, memory, self._policy.theta, rate)
        query, nothing = self._query(fixed, clipped, self._validation.take(places), gradient)
        factor = _factor(parts, clipped)
        values = values_of_parts(fixed, parts, factor, clipped / factor, query)
        ids = torch.tensor([index for part in parts for index in part.ids])
        self.values.index_add_(0, ids, values)
        self.momentum += float(torch.dot(query, nothing))

    def _no_room(self, trainer: DPOTrainer) -> str:
        """Why no pairs can ride along in the batches of a trainer, or nothing."""
        if not isinstance(trainer, PairTrainer) or not trainer.shares_prompts:
            return type(trainer).__name__
        if self._policy.has_dropout:
            return "dropout"
        return "activation checkpointing" if trainer.args.activation_checkpointing else ""

    def _next(self, count: int) -> list[int]:
        places = range(self._place, self._place + count)
        self._place = (self._place + count) % len(self._order)
        return [self._order[place] for place in places]

    def _turn(self) -> list[int]:
        places = [(self._looked + k) % len(self._validation) for k in range(self._at_once)]
        self._looked += self._at_once
        return places

    def _joint_loss(
        self, trainer: PairTrainer, model: Any, inputs: dict[str, Any], ids: Sequence[int]
    ) -> Tensor:
        """The loss of the batch; validation pairs behind it add to what is recorded and to nothing else."""
        places = self._turn()
        self._rode_along += places
        some = self._validation.take(places)
        with self._recorder.batch((*ids, *(_WATCHED for _ in places)), watched=len(places)):
            losses = trainer.pair_losses(model, with_more_pairs(inputs, some.tokens, some.reference))
        trained, watched = losses[: len(ids)].mean().float(), losses[len(ids) :].mean().float()
        return trained + (watched - watched.detach())

    def _apart(self, parts: tuple[PairGradients, ...]) -> tuple[tuple[PairGradients, ...], Tensor, list[int]]:
        """The parts of training pairs, the mean gradient of those that rode along, and which those were."""
        halves = [part.split(sum(index != _WATCHED for index in part.ids)) for part in parts]
        places, self._rode_along = self._rode_along, []
        gradient = torch.stack([watched.matrix().sum(0) for _, watched in halves]).sum(0)
        return tuple(trained for trained, _ in halves), gradient, places

    def _query(
        self, fixed: Fixed, clipped: Tensor, some: TokenizedPairs, gradient: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        nothing = fixed.displacement(torch.zeros_like(clipped))
        query = self._policy.mean_gradient(some)[1] if gradient is None else gradient
        if self._curved:
            query = query - self._policy.mean_curvature(some, nothing + fixed.displacement(clipped)) / 2
        return query, nothing

    def _state(self, rule: Rule, optimizer: Any) -> tuple[State, float]:
        rate = float(optimizer.param_groups[0]["lr"])
        memory = optimizer.state
        parameters = self._policy.parameters
        if isinstance(rule, SGD) or not memory.get(parameters[0]):
            return rule.start(self._policy.theta), rate
        mean, square = (
            torch.cat([memory[p][name].flatten() for p in parameters]) for name in ("exp_avg", "exp_avg_sq")
        )
        return State(int(memory[parameters[0]]["step"]), mean, square), rate


def _recorded(recorder: Recorder) -> tuple[PairGradients, ...]:
    """What was recorded of a step.

    Raises:
        UsageError: forward passes were repeated in the backward pass, where no batch is open.
    """
    parts = tuple(recorder.take())
    if all(part.complete for part in parts):
        return parts
    raise UsageError(
        "activation checkpointing of the non-reentrant kind, or none",
        got="a backward pass in which gradients of LoRA matrices did not pass by",
        do="train with activation_checkpointing_kwargs={'use_reentrant': False}",
        where="in-run",
    )


def rule_of(optimizer: Any) -> Rule:
    """The rule by which an optimiser of torch takes its steps.

    Raises:
        UsageError: it is one whose steps no formula here describes.
    """
    inner = getattr(optimizer, "optimizer", optimizer)
    group = inner.param_groups[0]
    if type(inner) is torch.optim.SGD and not group["momentum"] and not group["weight_decay"]:
        return SGD()
    if type(inner) is torch.optim.AdamW and not group["amsgrad"]:
        beta1, beta2 = group["betas"]
        return AdamW(beta1, beta2, group["eps"], group["weight_decay"])
    raise UsageError(
        "torch.optim.AdamW without amsgrad, or torch.optim.SGD without momentum and decay",
        got=type(inner).__name__,
        do="train with optim='adamw_torch'; values under another optimiser would be wrong",
        where="in-run",
    )


def _factor(parts: tuple[PairGradients, ...], clipped: Tensor) -> float:
    """The factor of the clipping: |k G|^2 / <G, k G>."""
    along = float(cast("Tensor", sum(part.dot(clipped).sum() for part in parts)))
    return float(clipped.square().sum()) / along if along > 0 else 1.0
