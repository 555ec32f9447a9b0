# mypy: allow-untyped-calls
"""What scores an answer: a sequence-classification model, or a Python function.

    model:FOLDER-OR-HUB-ID     a logit of AutoModelForSequenceClassification; of several, the one `output`
    python:MODULE:FUNCTION     f(prompts, completions) -> a number for each, all texts; as TRL's GRPOTrainer

Only the operator runs these, and it names them itself: a function is imported from what is installed here.
The manifest pins the digest of weights or source. `with_scorers` tries every reward on held-out pairs when
the terms are drawn up, so that what cannot score fails before anybody trains.
"""

import importlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from patronage_protocol.canonical import sha256
from patronage_protocol.errors import DataError, LocalProtocolError, UnavailableError, UsageError
from patronage_protocol.manifest import ObjectiveTerms, RewardGameTerms
from patronage_protocol.policy.base import tokenizer_digest, weights_digest
from patronage_protocol.policy.quiet import quiet_transformers
from patronage_protocol.preferences import ChatMessage, PreferencePair
from patronage_server.terms import RoundTerms

__all__ = [
    "Reward",
    "RewardError",
    "RewardFunction",
    "load_reward",
    "prompt_text",
    "score",
    "with_scorers",
]

BATCH = 16
TRIALS = 2
"""Held-out pairs on which a reward is tried; with the empty answer, which a model may well give."""

Prompt = str | tuple[ChatMessage, ...]
RewardFunction = Callable[[list[str], list[str]], Sequence[float]]


class RewardError(UsageError):
    """A reward did not give one finite number for each answer."""


@dataclass(frozen=True)
class Reward:
    """A reward that is ready to score.

    Attributes:
        name: of its objective.
        digest: SHA-256 of the weights and tokenizer, or of the function's source.
        call: prompts and completions of the same length to one number for each.
    """

    name: str
    digest: str
    call: Callable[[Sequence[Prompt], Sequence[str]], Sequence[float]]


def with_scorers(terms: RoundTerms, pairs: Sequence[PreferencePair], *, device: str = "cpu") -> RoundTerms:
    """The same terms with the digests of their rewards, each of which was tried; margins need none.

    Raises:
        UsageError, DataError, UnavailableError: a reward cannot be loaded or does not score; names the
            objective.
    """
    if not isinstance(terms.game, RewardGameTerms):
        return terms
    objectives = []
    for objective in terms.game.objectives:
        reward = load_reward(objective, device=device)
        trial = [(pair.prompt, text) for pair in pairs[:TRIALS] for text in (*_answers(pair), "")]
        score(reward, [prompt for prompt, _ in trial], [text for _, text in trial])
        objectives.append(objective.model_copy(update={"scorer": reward.digest}))
    game = terms.game.model_copy(update={"objectives": tuple(objectives)})
    return terms.model_copy(update={"game": game})


def load_reward(objective: ObjectiveTerms, *, device: str = "cpu") -> Reward:
    """Load what scores an objective.

    Raises:
        UsageError: no such module or function, no function, or a model with another number of outputs.
        UnavailableError: no such model here.
        DataError: what is there is no sequence-classification model.
        LocalProtocolError: it is not what the manifest pins.
    """
    kind, _, place = objective.reward.partition(":")
    if kind == "model":
        reward = _model(objective, place, device)
    else:
        reward = _function(objective, *place.rsplit(":", 1))
    if objective.scorer is not None and reward.digest != objective.scorer:
        raise LocalProtocolError(
            f"{objective.reward} with the digest {objective.scorer[:16]}",
            got=reward.digest[:16],
            do="restore the model or function that the manifest pins",
            where=f"objective {objective.name}",
        )
    return reward


def score(reward: Reward, prompts: Sequence[Prompt], completions: Sequence[str]) -> NDArray[np.float64]:
    """One finite number for each answer, shape (len(completions),).

    Raises:
        RewardError: the reward raises, gives another number of values, or one that is not finite; names the
            objective and the first answer concerned.
    """
    where = f"objective {reward.name}"
    try:
        found = reward.call(prompts, completions)
    except Exception as error:
        place = _culprit(reward, prompts, completions)
        raise RewardError(
            "a number for every answer",
            got=f"{type(error).__name__}: {error} for {_shown(completions[place])}",
            do="mend the reward function",
            where=where,
        ) from error
    try:
        values = np.asarray(found, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise RewardError(
            "numbers", got=f"{found!r:.80}", do="mend the reward function", where=where
        ) from error
    if values.shape != (len(completions),):
        raise RewardError(
            f"{len(completions)} numbers for {len(completions)} answers",
            got=f"shape {values.shape}",
            do="return one number for each answer",
            where=where,
        )
    if not np.isfinite(values).all():
        place = int(np.argmin(np.isfinite(values)))
        raise RewardError(
            "finite rewards",
            got=f"{values[place]} for {_shown(completions[place])}",
            do="mend the reward for such answers",
            where=where,
        )
    return values


def prompt_text(prompt: Prompt) -> str:
    """A prompt as a function gets it: plain text as it is, the contents of messages one a line."""
    return prompt if isinstance(prompt, str) else "\n".join(message.content for message in prompt)


def _function(objective: ObjectiveTerms, module: str, name: str) -> Reward:
    where = f"objective {objective.name}"
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"the function {name} in the installed module {module}",
            got=str(error),
            do="install the module, or correct the name",
            where=where,
        ) from error
    source = inspect.getsourcefile(inspect.unwrap(function)) if callable(function) else None
    if source is None:
        raise UsageError(
            f"a Python function {module}:{name}",
            got=type(function).__name__,
            do="name a function",
            where=where,
        )

    def call(prompts: Sequence[Prompt], completions: Sequence[str]) -> Sequence[float]:
        found: Sequence[float] = function([prompt_text(prompt) for prompt in prompts], list(completions))
        return found

    return Reward(objective.name, sha256(f"{name}\n".encode() + Path(source).read_bytes()), call)


def _model(objective: ObjectiveTerms, place: str, device: str) -> Reward:
    where = f"objective {objective.name}"
    try:
        with quiet_transformers():
            tokenizer: Any = AutoTokenizer.from_pretrained(place, local_files_only=True)
            loaded: Any = AutoModelForSequenceClassification.from_pretrained(
                place, local_files_only=True, output_loading_info=True
            )
    except OSError as error:
        raise UnavailableError(
            f"a reward model at {place}",
            got=str(error).splitlines()[0],
            do=f"name a folder, or run: hf download {place}",
            where=where,
        ) from error
    except (ValueError, KeyError, RuntimeError) as error:
        raise DataError(
            "a sequence-classification model", got=str(error).splitlines()[0], do="name another", where=where
        ) from error
    model, report = loaded
    if report["missing_keys"]:
        raise DataError(
            "a model with a trained classification head",
            got=f"none of {min(report['missing_keys'])}",
            do="name a reward model, not a language model",
            where=where,
        )
    output = _output(objective, int(model.config.num_labels))
    model.eval().requires_grad_(False).to(device)
    digest = sha256(f"{weights_digest(model)}\n{tokenizer_digest(tokenizer)}\n{output}\n".encode())
    return Reward(objective.name, digest, _Classifier(model, tokenizer, output))


def _output(objective: ObjectiveTerms, labels: int) -> int:
    output = objective.output
    if (labels > 1 and output is None) or (output or 0) >= labels:
        raise UsageError(
            "a reward model with one output" if output is None else f"an output below {labels}",
            got=f"{labels} outputs" if output is None else f"output {output}",
            do=f"say which counts: output = 0 to {labels - 1}",
            where=f"objective {objective.name}",
        )
    return output or 0


@dataclass(frozen=True)
class _Classifier:
    model: Any
    tokenizer: Any
    output: int

    @torch.inference_mode()
    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> Sequence[float]:
        """The logit of every answer; answers are padded to the longest of their batch."""
        values: list[float] = []
        for start in range(0, len(completions), BATCH):
            part = slice(start, start + BATCH)
            encoded = self._encoded(prompts[part], completions[part]).to(self.model.device)
            values += self.model(**encoded).logits[:, self.output].double().tolist()
        return values

    def _encoded(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> Any:
        options: dict[str, Any] = {"padding": True, "truncation": True, "return_tensors": "pt"}
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
            self.model.config.pad_token_id = self.tokenizer.pad_token_id
        if self.tokenizer.chat_template is None:
            return self.tokenizer([prompt_text(prompt) for prompt in prompts], list(completions), **options)
        chats = [
            [*_messages(prompt), {"role": "assistant", "content": completion}]
            for prompt, completion in zip(prompts, completions, strict=True)
        ]
        texts = [self.tokenizer.apply_chat_template(chat, tokenize=False) for chat in chats]
        return self.tokenizer(texts, add_special_tokens=False, **options)


def _messages(prompt: Prompt) -> list[dict[str, str]]:
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    return [{"role": message.role, "content": message.content} for message in prompt]


def _answers(pair: PreferencePair) -> tuple[str, str]:
    return prompt_text(pair.chosen), prompt_text(pair.rejected)


def _culprit(reward: Reward, prompts: Sequence[Prompt], completions: Sequence[str]) -> int:
    """The first answer for which the reward raises by itself; the first of all if it does for none."""
    for place in range(len(completions)):
        try:
            reward.call(prompts[place : place + 1], completions[place : place + 1])
        except Exception:  # noqa: BLE001 - it is looked for, and the first error is what is reported
            return place
    return 0


def _shown(text: str) -> str:
    return f"the answer {text[:60]!r}"
