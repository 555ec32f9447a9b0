"""What scores an answer: functions and classifiers, and everything that can be wrong with them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

from patronage_protocol.errors import (
    DataError,
    LocalProtocolError,
    PatronageError,
    UnavailableError,
    UsageError,
)
from patronage_protocol.manifest import ObjectiveTerms
from patronage_protocol.policy.tiny import tiny_model
from patronage_protocol.preferences import ChatMessage, PreferencePair
from patronage_server.rewards import Reward, load_reward, score, with_scorers
from patronage_server.terms import RoundTerms

CHAT = (ChatMessage(role="system", content="Be kind."), ChatMessage(role="user", content="Hello?"))
PAIRS = (
    PreferencePair(prompt="How are you?", chosen=" Well, thank you.", rejected=" Go away."),
    PreferencePair(
        prompt=CHAT,
        chosen=(ChatMessage(role="assistant", content="Good morning."),),
        rejected=(ChatMessage(role="assistant", content="No."),),
    ),
)


def objective(reward: str = "python:patronage_simulations.rewards:brevity", **changes: Any) -> ObjectiveTerms:
    return ObjectiveTerms.model_validate({"name": "kind", "reward": reward, "weight": 1, **changes})


@pytest.fixture
def function_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ObjectiveTerms]:
    """An installed module with one function `f`, whose body is given."""
    monkeypatch.syspath_prepend(tmp_path)
    made = iter(range(100))

    def make(body: str) -> ObjectiveTerms:
        module = f"house_rewards_{next(made)}_{tmp_path.name.replace('-', '_')}"
        (tmp_path / f"{module}.py").write_text(f"def f(prompts, completions):\n    {body}\n")
        return objective(f"python:{module}:f")

    return make


def terms_of(*objectives: ObjectiveTerms) -> RoundTerms:
    from patronage_simulations.scenarios import load_scenario

    terms = load_scenario("tiny-rewards").terms
    return terms.model_copy(update={"game": terms.game.model_copy(update={"objectives": objectives})})


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """A folder with a tiny random classifier of so many outputs."""

    def make(labels: int) -> Path:
        folder = tmp_path_factory.mktemp("reward")
        _, tokenizer = tiny_model(torch.float32)
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            num_labels=labels,
            pad_token_id=tokenizer.pad_token_id,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(labels)
            LlamaForSequenceClassification(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make


def test_a_function_gets_texts_and_gives_numbers(function_of: Callable[[str], ObjectiveTerms]) -> None:
    reward = load_reward(function_of("return [len(p) + 100 * len(c) for p, c in zip(prompts, completions)]"))
    found = score(reward, ["ab", CHAT], ["x", ""])
    np.testing.assert_array_equal(found, [102.0, len("Be kind.\nHello?")])


def test_a_classifier_scores_prompt_and_answer_together(classifier: Callable[[int], Path]) -> None:
    reward = load_reward(objective(f"model:{classifier(1)}"))
    found = score(reward, ["How are you?", "How are you?", CHAT], ["Well.", "Go away, please leave.", ""])
    assert found.shape == (3,)
    assert len(set(found.tolist())) == 3
    alone = score(reward, ["How are you?"], ["Well."])
    assert alone[0] == pytest.approx(found[0], abs=1e-5), "padding does not count"


def test_a_classifier_with_several_outputs_needs_to_be_told_which(classifier: Callable[[int], Path]) -> None:
    folder = classifier(3)
    with pytest.raises(
        UsageError, match=r"objective kind: expected a reward model with one output, got 3 outputs"
    ):
        load_reward(objective(f"model:{folder}"))
    with pytest.raises(UsageError, match="an output below 3, got output 3"):
        load_reward(objective(f"model:{folder}", output=3))
    values = [
        score(load_reward(objective(f"model:{folder}", output=k)), ["How are you?"], ["Well."])[0]
        for k in range(3)
    ]
    assert len(set(values)) == 3


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (
            "raise ZeroDivisionError('no words')",
            r"ZeroDivisionError: no words for the answer ' Well, thank you\.'",
        ),
        (
            "return [1 / len(text) for text in completions]",
            "ZeroDivisionError: division by zero for the answer ''",
        ),
        ("return [float('nan') for _ in completions]", "finite rewards, got nan for the answer"),
        ("return [float('inf') if not text else 1.0 for text in completions]", "got inf for the answer ''"),
        ("return [1.0]", r"6 numbers for 6 answers, got shape \(1,\)"),
        ("return [[1.0, 2.0] for _ in completions]", r"got shape \(6, 2\)"),
        ("return None", r"6 numbers|expected numbers|finite"),
        ("return ['good' for _ in completions]", "expected numbers"),
    ],
)
def test_a_reward_that_cannot_score_is_found_when_terms_are_drawn_up(
    function_of: Callable[[str], ObjectiveTerms], body: str, problem: str
) -> None:
    with pytest.raises(UsageError, match=problem) as caught:
        with_scorers(terms_of(function_of(body)), PAIRS)
    assert "objective kind" in str(caught.value)


@pytest.mark.parametrize(
    ("reward", "kind", "problem"),
    [
        ("python:no_such_module:f", UsageError, "No module named 'no_such_module'"),
        ("python:math:no_such_function", UsageError, "no attribute 'no_such_function'"),
        ("python:math:pi", UsageError, "a Python function math:pi, got float"),
        ("python:math:sin", (UsageError, TypeError), "function"),
        ("model:no/such-model", UnavailableError, "a reward model at no/such-model"),
    ],
)
def test_a_reward_that_is_not_there_is_named(reward: str, kind: Any, problem: str) -> None:
    with pytest.raises(kind, match=problem):
        load_reward(objective(reward))


def test_a_language_model_is_no_reward_model(tmp_path: Path) -> None:
    model, tokenizer = tiny_model(torch.float32)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(DataError, match=r"a trained classification head, got none of score\.weight"):
        load_reward(objective(f"model:{tmp_path}"))


def test_the_manifest_pins_what_scores(
    function_of: Callable[[str], ObjectiveTerms], classifier: Callable[[int], Path]
) -> None:
    pinned = with_scorers(terms_of(function_of("return [0.5 for _ in completions]")), PAIRS)
    (one,) = pinned.game.objectives  # type: ignore[union-attr]
    assert one.scorer == load_reward(one).digest
    other = function_of("return [0.6 for _ in completions]").model_copy(update={"scorer": one.scorer})
    with pytest.raises(LocalProtocolError, match="restore the model or function"):
        load_reward(other)
    first, again = (load_reward(objective(f"model:{classifier(1)}")).digest for _ in range(2))
    assert first == again, "the same weights in another folder are the same scorer"


def test_terms_with_margins_need_no_scorers() -> None:
    from patronage_simulations.scenarios import load_scenario

    terms = load_scenario("tiny").terms
    assert with_scorers(terms, PAIRS) is terms


def test_an_answer_that_a_reward_cannot_bear_is_named_among_many() -> None:
    def call(_prompts: Any, texts: Any) -> list[float]:
        return [1.0 / (text != "bad") for text in texts]

    with pytest.raises(PatronageError, match="for the answer 'bad'"):
        score(Reward("kind", "0a" * 32, call), ["x"] * 3, ["good", "bad", "bad too"])
