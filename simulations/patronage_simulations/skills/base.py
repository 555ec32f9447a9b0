"""What a skill is: questions, a good and a bad answer to each, and a rule that tells which is which.

The rule reads the question and the answers as text alone. It shares no state with the templates that wrote
them, so a test can hold the one against the other.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

__all__ = ["Draw", "Question", "Skill", "count_words", "word_set"]

T = TypeVar("T")


class Draw:
    """Choices that depend on the seed alone: the same on every machine and Python version.

    `random.Random` promises that of `random()` with a string seed, and of no other method
    (Python documentation, "random", Notes on Reproducibility).
    """

    def __init__(self, seed: str) -> None:
        self._random = Random(seed)  # noqa: S311 - nothing secret comes of it

    def below(self, bound: int) -> int:
        """An integer of 0, ..., bound - 1."""
        return int(self._random.random() * bound)

    def one(self, items: Sequence[T]) -> T:
        """One of the items."""
        return items[self.below(len(items))]

    def some(self, items: Sequence[T], count: int) -> list[T]:
        """`count` of the items, each at most once, in drawn order."""
        rest = list(items)
        return [rest.pop(self.below(len(rest))) for _ in range(count)]

    def chance(self, probability: float) -> bool:
        """True with that probability."""
        return self._random.random() < probability


@dataclass(frozen=True, slots=True)
class Question:
    """A system message, a user message, and the words that the answers need."""

    system: str
    user: str
    facts: dict[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """What the rule reads: both messages, one a line."""
        return f"{self.system}\n{self.user}"


@dataclass(frozen=True, slots=True)
class Skill:
    """A preference that a rule can tell.

    Attributes:
        name: the label that its pairs carry as `source`.
        ask: draws a question.
        answer: draws a good and a bad answer to it.
        score: how well an answer (second argument) meets a question's text (first); higher is better.
    """

    name: str
    ask: Callable[[Draw], Question]
    answer: Callable[[Draw, Question], tuple[str, str]]
    score: Callable[[str, str], float]

    def prefers(self, prompt: str, a: str, b: str) -> bool:
        """Whether the rule prefers answer `a` to answer `b`."""
        return self.score(prompt, a) > self.score(prompt, b)


def count_words(text: str, words: frozenset[str]) -> int:
    """How many of the words of `text` are among `words` (lower case, apostrophes kept)."""
    kept = "".join(letter if letter.isalnum() or letter == "'" else " " for letter in text.lower())
    return sum(word in words for word in kept.split())


def word_set(words: str) -> frozenset[str]:
    """The words of a text, for `count_words`."""
    return frozenset(words.split())
