"""The base model and the consortium's, asked the same: what `patronage chat` prints."""

import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from patronage_protocol.policy import progress_bar
from patronage_server.composition import Decoding, Generation
from patronage_server.composition.rules import CompositionRule
from patronage_server.run_folder import RunFolder

__all__ = ["Answers", "ask", "side_by_side"]

LEAST_COLUMN = 24
"""Narrower columns are no help: the answers stand below each other."""


@dataclass(frozen=True)
class Answers:
    """One prompt, and the answers of both models."""

    prompt: str
    base: tuple[Generation, ...]
    consortium: tuple[Generation, ...]

    def as_json(self) -> dict[str, Any]:
        """For scripts: lists of samples, log-probabilities in nats."""
        return {
            "prompt": self.prompt,
            "base": [vars(generation) for generation in self.base],
            "consortium": [vars(generation) for generation in self.consortium],
        }


def ask(run: RunFolder, rule: CompositionRule, prompt: str, decoding: Decoding) -> Answers:
    """Both models' answers to a prompt, in the form that the owners trained on.

    Raises:
        UsageError: the prompt is empty, or too long for the model.
    """
    asked = run.prompt(prompt)
    answers = []
    for name, members in (("base", rule.adapters.members()), ("consortium", rule.adapters.everybody())):
        with progress_bar(name) as progress:
            answers.append(rule.coalition(members).generate(asked, decoding, progress))
    return Answers(prompt, *answers)


def side_by_side(answers: Answers, width: int | None = None) -> str:
    """Two columns, base and consortium; below each other where the terminal is too narrow."""
    columns = width or shutil.get_terminal_size((100, 20)).columns
    column = (columns - 3) // 2
    blocks = []
    for base, consortium in zip(answers.base, answers.consortium, strict=True):
        if column < LEAST_COLUMN:
            blocks.append(f"base\n{base.text.strip()}\n\nconsortium\n{consortium.text.strip()}")
            continue
        left, right = (
            [name, "-" * column, *_wrapped(text, column)]
            for name, text in (("base", base.text), ("consortium", consortium.text))
        )
        rows = zip_longest(left, right, fillvalue="")
        blocks.append("\n".join(f"{one:<{column}} | {other}".rstrip() for one, other in rows))
    return f"> {answers.prompt}\n\n" + "\n\n".join(blocks)


def _wrapped(text: str, width: int) -> Sequence[str]:
    return [line for part in text.strip().splitlines() for line in textwrap.wrap(part, width) or [""]]
