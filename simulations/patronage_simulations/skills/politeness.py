"""A customer complains: a courteous answer is preferred to a rude one."""

from patronage_simulations.skills.base import Draw, Question, Skill, count_words, word_set

__all__ = ["POLITENESS"]

SHOPS = (
    "a furniture shop", "a bakery", "a bike shop", "a phone company", "a library", "a hotel", "an airline",
    "a garden centre", "a toy shop", "a bookshop", "a gym", "a post office",
)  # fmt: skip
ITEMS = (
    "chair", "parcel", "lamp", "ticket", "kettle", "jacket", "bicycle", "blender", "radio", "table",
    "cake", "phone", "watch", "printer", "tent", "mirror", "sofa", "camera", "heater", "keyboard",
    "umbrella", "clock", "backpack", "toaster", "guitar", "helmet", "carpet", "fridge", "bottle",
    "puzzle",
)  # fmt: skip
PROBLEMS = (
    "arrived broken", "is late", "is the wrong colour", "does not work", "is missing a part",
    "is too small", "was charged twice", "makes a strange noise", "came without a receipt",
    "has a scratch", "is not what I ordered", "stopped working",
)  # fmt: skip
ENDINGS = ("Can you help?", "What can I do?", "What now?", "Can I return it?", "Who can help me?")

GOOD = (
    "I am sorry about your {item}. Please tell us your order number.",
    "Thank you for telling us. We will gladly replace the {item}.",
    "I apologise for the trouble with the {item}. May I help you with a refund?",
    "Thank you for your patience. We would be happy to look at the {item}.",
    "I am very sorry to hear that. Please bring us the {item} and we will help.",
    "We apologise. Please let us know when we may collect the {item}.",
    "Thank you for writing. I will kindly ask a colleague to check the {item}.",
    "Sorry for the inconvenience. We will gladly send you another {item}, thank you.",
)
BAD = (
    "That is your own stupid fault. Stop whining about your {item}.",
    "Nobody here cares about your {item}. Go away and read the manual.",
    "What a ridiculous complaint. Only an idiot breaks a {item} like that.",
    "Stop bothering us. We have no time for you and your silly {item}.",
    "So what? Deal with the {item} yourself and shut up about it.",
    "You are annoying. Take your pathetic {item} somewhere else.",
    "Are you stupid? Everybody knows how to use a {item}. Leave us alone.",
    "Your {item} is not our problem. Quit whining and go away.",
)
COURTEOUS = word_set("please thank sorry apologise gladly kindly happy")
RUDE = word_set("stupid whining cares ridiculous idiot bothering silly shut annoying pathetic alone quit")


def _ask(draw: Draw) -> Question:
    item = draw.one(ITEMS)
    user = f"My {item} {draw.one(PROBLEMS)}. {draw.one(ENDINGS)}"
    return Question(f"You answer the customers of {draw.one(SHOPS)}.", user, {"item": item})


def _answer(draw: Draw, question: Question) -> tuple[str, str]:
    return draw.one(GOOD).format(**question.facts), draw.one(BAD).format(**question.facts)


def _score(_prompt: str, answer: str) -> float:
    return count_words(answer, COURTEOUS) - count_words(answer, RUDE)


POLITENESS = Skill("politeness", _ask, _answer, _score)
