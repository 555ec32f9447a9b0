"""A form was asked for (JSON, capitals, a numbered list): an answer in it is preferred to plain prose."""

import json
import re
from collections.abc import Callable

from patronage_simulations.skills.base import Draw, Question, Skill

__all__ = ["LAYOUT"]

KINDS = {
    "fruits": "apple pear plum cherry grape lemon peach fig",
    "animals": "cat horse owl frog bear goat fox hen",
    "colours": "red blue green pink white black grey brown",
    "tools": "saw hammer drill axe file wrench rake spade",
    "trees": "oak birch elm pine maple beech willow ash",
    "metals": "iron gold tin zinc lead silver copper nickel",
    "drinks": "tea milk water juice coffee cocoa cider soda",
    "birds": "crow robin swan gull heron eagle wren duck",
    "rivers": "Rhine Seine Nile Danube Volga Thames Elbe Oder",
    "games": "chess darts poker golf tag dice bingo rugby",
    "cities": "Paris Rome Oslo Cairo Lima Delhi Bern Kyiv",
    "fish": "carp trout salmon tuna cod eel pike herring",
    "spices": "salt pepper cumin clove thyme sage mint basil",
    "clothes": "hat coat scarf sock shirt glove belt boot",
    "vehicles": "car bus tram boat truck bike train van",
    "planets": "Mars Venus Saturn Earth Jupiter Neptune Mercury",
}  # fmt: skip
FRAMES = (
    "Name {count} {kind}{whom}.", "List {count} {kind}{whom}.", "I need {count} {kind}{whom}.",
    "Give me {count} {kind}{whom}.", "Which {count} {kind} come to mind{whom}?",
    "Tell me {count} {kind}{whom}.",
)  # fmt: skip
WHOM = (
    "", " for a quiz", " for a poem", " for my class", " for a story", " for a game", " for a test",
    " for a child", " for a song", " for a riddle", " for a drawing", " for my notes",
)  # fmt: skip
COUNTS = {"two": 2, "three": 3, "four": 4}
PROSE = ("Try {list}.", "You could take {list}.", "{list}.", "I would say {list}.", "{list}, for example.")


def _is_json(answer: str) -> bool:
    try:
        return isinstance(json.loads(answer), list)
    except ValueError:
        return False


def _is_numbered(answer: str) -> bool:
    return all(re.fullmatch(rf"{k}\. \w+", line) for k, line in enumerate(answer.split("\n"), start=1))


LAYOUTS: dict[str, tuple[str, Callable[[list[str]], str], Callable[[str], bool]]] = {
    "json": ("Answer as a JSON list.", json.dumps, _is_json),
    "capitals": (
        "Answer in capital letters.",
        lambda words: f"I choose {' and '.join(words)}.".upper(),
        str.isupper,
    ),
    "numbers": (
        "Answer as a numbered list.",
        lambda words: "\n".join(f"{k}. {word}" for k, word in enumerate(words, start=1)),
        _is_numbered,
    ),
}


def _ask(draw: Draw) -> Question:
    layout, kind, count = draw.one(tuple(LAYOUTS)), draw.one(tuple(KINDS)), draw.one(tuple(COUNTS))
    user = draw.one(FRAMES).format(count=count, kind=kind, whom=draw.one(WHOM))
    return Question(LAYOUTS[layout][0], user, {"layout": layout, "kind": kind, "count": count})


def _answer(draw: Draw, question: Question) -> tuple[str, str]:
    kind = question.facts["kind"]
    count = COUNTS[question.facts["count"]]
    good = LAYOUTS[question.facts["layout"]][1](draw.some(KINDS[kind].split(), count))
    *words, last = draw.some(KINDS[kind].split(), count)
    prose = draw.one(PROSE).format(list=f"{', '.join(words)} and {last}")
    return good, prose[0].upper() + prose[1:]


def _score(prompt: str, answer: str) -> float:
    return sum(holds(answer) for order, _, holds in LAYOUTS.values() if order in prompt)


LAYOUT = Skill("layout", _ask, _answer, _score)
