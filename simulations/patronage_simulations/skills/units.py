"""A unit was asked for: an answer in it is preferred to one that stays with the unit of the question."""

from patronage_simulations.skills.base import Draw, Question, Skill

__all__ = ["UNITS"]

SUBJECTS = {
    "length": (
        "rope", "fence", "wall", "ladder", "path", "cable", "canal", "ribbon", "board", "tunnel", "pipe",
        "curtain",
    ),
    "weight": (
        "stone", "bag", "box", "melon", "dog", "sack", "engine", "statue", "barrel", "suitcase", "anvil",
        "pumpkin",
    ),
}  # fmt: skip
UNITS_OF = {
    "length": (("feet", "metres", 0.3048), ("yards", "metres", 0.9144), ("metres", "feet", 3.2808)),
    "weight": (
        ("pounds", "kilograms", 0.4536),
        ("kilograms", "pounds", 2.2046),
        ("stone", "kilograms", 6.3503),
    ),
}
WORD = {"length": "long", "weight": "heavy"}
VERB = {"length": "measures", "weight": "weighs"}
FRAMES = (
    "The {subject} {verb} {number} {unit}. How {word} is it?",
    "How {word} is a {subject} of {number} {unit}?",
)
ORDERS = (
    "Answer in {target}.",
    "Give the answer in {target}.",
    "We use {target} here.",
    "Use {target} only.",
)
SENTENCES = (
    "The {subject} {verb} about {number} {unit}.",
    "It {verb} {number} {unit}.",
    "That is about {number} {unit}.",
    "The {subject} is about {number} {unit} {word}.",
    "It comes to {number} {unit}, more or less.",
    "The answer is {number} {unit}.",
)
NAMES = sorted(
    {name for units in UNITS_OF.values() for source, target, _ in units for name in (source, target)}
)


def _ask(draw: Draw) -> Question:
    quantity = draw.one(tuple(SUBJECTS))
    unit, target, factor = draw.one(UNITS_OF[quantity])
    number = 2 + draw.below(88)
    facts = {
        "subject": draw.one(SUBJECTS[quantity]), "verb": VERB[quantity], "word": WORD[quantity],
        "number": str(number), "unit": unit, "target": target, "result": f"{number * factor:.1f}",
    }  # fmt: skip
    return Question(draw.one(ORDERS).format(target=target), draw.one(FRAMES).format(**facts), facts)


def _answer(draw: Draw, question: Question) -> tuple[str, str]:
    facts = question.facts
    converted = {**facts, "unit": facts["target"], "number": facts["result"]}
    return draw.one(SENTENCES).format(**converted), draw.one(SENTENCES).format(**facts)


def _score(prompt: str, answer: str) -> float:
    order, question = prompt.split("\n", 1)
    asked = next(name for name in NAMES if name in order)
    other = [name for name in NAMES if f"{name}." in question or f"{name}?" in question]
    return (f" {asked}" in answer) - sum(f" {name}" in answer for name in other)


UNITS = Skill("units", _ask, _answer, _score)
