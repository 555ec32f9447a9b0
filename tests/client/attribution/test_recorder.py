import warnings
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel
from trl import DPOTrainer

from patronage_client.attribution.adapter_model import AdapterModel, TokenizedPairs, tokenized
from patronage_client.attribution.problem import Problem
from patronage_client.attribution.recorder import Recorder, lora_modules
from patronage_client.dpo_trainer import lora_config, trainer_arguments
from patronage_protocol.errors import UsageError
from patronage_protocol.policy import load_base_model

Make = Callable[..., Problem]


def policy_and_pairs(problem: Problem) -> tuple[AdapterModel, TokenizedPairs]:
    model = AdapterModel(problem.base, problem.lora, beta=problem.dpo.beta)
    generator = torch.Generator().manual_seed(1)
    model.load(0.1 * torch.randn(model.size, generator=generator, dtype=model.theta.dtype))
    return model, tokenized(problem.base, problem.pairs, max_length=problem.dpo.max_length)


def one_at_a_time(model: AdapterModel, pairs: TokenizedPairs) -> Tensor:
    one = torch.ones(1)
    return torch.stack([model.weighted_gradient(pairs.take([i]), one) for i in range(len(pairs))])


@pytest.mark.parametrize("keep", ["cheaper", "matrices", "factors"])
@pytest.mark.parametrize("share", [True, False], ids=["shared prompts", "one row a completion"])
def test_one_backward_pass_gives_what_one_pass_a_pair_gives(problem_of: Make, keep: str, share: bool) -> None:
    model, pairs = policy_and_pairs(problem_of())
    model._share = share
    expected = one_at_a_time(model, pairs)
    with Recorder(model.model, keep=keep) as recorder:  # type: ignore[arg-type]
        with recorder.batch(range(14), rows=model.rows(14)):
            whole = model.weighted_gradient(pairs, torch.ones(14))
        (parts,) = recorder.take()
    found = parts.matrix()
    scale = float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * scale)
    torch.testing.assert_close(found.sum(0), whole, rtol=1e-4, atol=1e-5 * scale)
    direction = torch.linspace(-1, 1, model.size)
    torch.testing.assert_close(parts.dot(direction), expected @ direction, rtol=1e-3, atol=1e-4 * scale)
    torch.testing.assert_close(parts.squares(), expected.square().sum(0), rtol=1e-3, atol=1e-5 * scale**2)
    squared = expected.square() @ direction
    torch.testing.assert_close(parts.dot_squares(direction), squared, rtol=1e-3, atol=1e-4 * scale**2)
    gram = expected @ expected.T
    torch.testing.assert_close(parts.gram(parts), gram, rtol=1e-3, atol=1e-4 * float(gram.max()))


def test_the_gradient_of_a_pair_is_the_one_of_the_dpo_paper(problem_of: Make) -> None:
    model, pairs = policy_and_pairs(problem_of())
    gradient = one_at_a_time(model, pairs)[2]
    margin = model.margins(pairs.take([2]))
    slope = torch.cat(
        [g.flatten() for g in torch.autograd.grad(margin.sum() / model.beta, model._parameters)]
    )
    torch.testing.assert_close(gradient, -model.beta * torch.sigmoid(-margin).float() * slope)


class PlainTrainer(DPOTrainer):
    """TRL's own, but for the report that it sends."""

    def _send_telemetry(self) -> None:
        pass


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True:UserWarning")
@pytest.mark.parametrize("checkpointing", ["none", "reentrant", "non-reentrant"])
def test_a_step_of_trl_can_be_recorded(problem_of: Make, checkpointing: str) -> None:
    problem = problem_of(batch_size=4)
    base = load_base_model("tiny", device="cpu")
    arguments = replace(
        trainer_arguments(base, problem.dpo, problem.workdir, save_memory=False),
        remove_unused_columns=True,
        activation_checkpointing=checkpointing != "none",
        activation_checkpointing_kwargs={"use_reentrant": checkpointing == "reentrant"},
    )
    columns = {name: [getattr(p, name) for p in problem.pairs] for name in ("prompt", "chosen", "rejected")}
    trainer = PlainTrainer(
        model=base.model,
        args=arguments,
        train_dataset=Dataset.from_dict(columns),
        processing_class=base.tokenizer,
        peft_config=lora_config(problem.lora),
    )
    model, pairs = policy_and_pairs(problem)
    modules = lora_modules(trainer.model)
    split = model.theta.split([module.weight.numel() for module in modules.values()])
    with torch.no_grad():
        for module, value in zip(modules.values(), split, strict=True):
            module.weight.copy_(value.view_as(module.weight))
    inputs = next(iter(trainer.get_train_dataloader()))
    trainer.model.train()
    with Recorder(trainer.model) as recorder:
        with recorder.batch([0, 1, 2, 3]):
            trainer.compute_loss(trainer.model, inputs).backward()
        (parts,) = recorder.take()
    expected = one_at_a_time(model, pairs.take([0, 1, 2, 3])) / 4
    scale = float(expected.abs().max())
    torch.testing.assert_close(parts.matrix(), expected, rtol=1e-3, atol=1e-4 * scale)


def test_a_model_that_cannot_share_prompts_is_recorded_all_the_same() -> None:
    config = GPT2Config(n_layer=1, n_head=2, n_embd=16, vocab_size=50, n_positions=32, resid_pdrop=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = get_peft_model(GPT2LMHeadModel(config), LoraConfig(r=2, target_modules=["c_attn"]))
    adapted.eval()
    tokens = torch.arange(20).view(4, 5)
    with Recorder(adapted) as recorder, recorder.batch([7, 8]):
        adapted(tokens).logits.logsumexp(-1).sum().backward()
    (parts,) = recorder.take()
    found = parts.matrix().sum(0)
    whole = torch.cat([m.weight.grad.flatten() for m in lora_modules(adapted).values()])
    torch.testing.assert_close(found, whole, rtol=1e-4, atol=1e-4)


def test_rows_that_fit_no_layout_are_refused(problem_of: Make) -> None:
    model, pairs = policy_and_pairs(problem_of())
    with (
        Recorder(model.model) as recorder,
        pytest.raises(UsageError, match="expected 3 or 6 rows for 3 pairs, got 4"),
        recorder.batch([0, 1, 2]),
    ):
        model.weighted_gradient(pairs.take(range(4)), torch.ones(4))


def test_a_model_that_trains_more_than_lora_is_refused() -> None:
    with pytest.raises(UsageError, match="LoRA matrices alone"):
        Recorder(nn.Linear(3, 3))


def test_the_model_is_left_without_hooks(problem_of: Make) -> None:
    model, _ = policy_and_pairs(problem_of())
    with Recorder(model.model):
        assert any(module._forward_hooks for module in model.model.modules())
    assert not any(module._forward_hooks for module in model.model.modules())
