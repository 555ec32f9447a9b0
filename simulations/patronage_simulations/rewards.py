"""Rewards that a rule can tell, for scenarios: the rules of the generated skills as functions of any answer.

Each is `f(prompts, completions) -> numbers`, as `python:patronage_simulations.rewards:politeness` in the
terms of a game on generations. Nothing is learnt here: a rule counts words or characters.
"""

from patronage_simulations.skills.base import count_words
from patronage_simulations.skills.politeness import COURTEOUS, RUDE

__all__ = ["brevity", "plainness", "politeness"]

MANY_WORDS = 40
"""Beyond so many words an answer is no less brief."""


def politeness(_prompts: list[str], completions: list[str]) -> list[float]:
    """Courteous less rude words, in units of three, cut at -1 and 1: how courteous an answer sounds."""
    return [
        max(-1.0, min(1.0, (count_words(text, COURTEOUS) - count_words(text, RUDE)) / 3))
        for text in completions
    ]


def brevity(_prompts: list[str], completions: list[str]) -> list[float]:
    """1 for an empty answer, falling to 0 at 40 words."""
    return [1.0 - min(len(text.split()), MANY_WORDS) / MANY_WORDS for text in completions]


def plainness(_prompts: list[str], completions: list[str]) -> list[float]:
    """The part of the characters that are lower-case letters of ASCII; 0 for an empty answer."""
    return [sum("a" <= letter <= "z" for letter in text) / max(len(text), 1) for text in completions]
