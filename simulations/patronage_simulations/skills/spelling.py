"""A sentence was asked for: one that is spelled right is preferred to one with common misspellings."""

from string import Formatter

from patronage_simulations.skills.base import Draw, Question, Skill, count_words

__all__ = ["SPELLING"]

TOPICS = (
    "bread", "snow", "the moon", "trains", "gardens", "music", "chess", "rivers", "dogs", "tea",
    "bridges", "painting", "football", "the sea", "cheese", "maps", "horses", "rain", "soup", "bees",
    "castles", "winter", "dancing", "mountains", "coffee", "poems", "stars", "forests", "kites",
    "markets",
)  # fmt: skip
FRAMES = (
    "Write a sentence about {topic}{whom}.", "Tell me something about {topic}{whom}.",
    "Say something nice about {topic}{whom}.", "Give me a line about {topic}{whom}.",
    "I need one sentence on {topic}{whom}.", "Describe {topic}{whom}.",
)  # fmt: skip
WHOM = (
    "", " for my diary", " for a letter", " for my friend", " for the newspaper", " for a postcard",
    " for school", " for my aunt", " for a poster", " for our website", " for a speech", " for my blog",
    " for a toast",
)  # fmt: skip
ORDERS = ("Write with care.", "You are an editor.", "Mind your spelling.", "You are a helpful writer.")
SENTENCES = (
    "I {really} {believe} that {topic} can be {beautiful}.",
    "My {friend} would {definitely} choose {topic}, {because} it is {different}.",
    "{Which} {neighbour} told you such an {interesting} thing about {topic}?",
    "It is {probably} {necessary} to talk about {topic} {until} {tomorrow}.",
    "People {receive} a great {surprise} when they first meet {topic}.",
    "With {knowledge} and {patience} you will {achieve} much with {topic}.",
    "In the {library} there is a {separate} shelf on {topic}.",
    "The {government} will {finally} take {topic} as a serious {business}.",
    "{Tomorrow} we will {discuss} {topic} at the {restaurant}.",
    "It is a {weird} but {beautiful} {truth} that {topic} makes us happy.",
    "We {usually} {recommend} {topic} to every {foreign} guest.",
    "{Their} {existence} depends on {topic}, which is {truly} {interesting}.",
)
MISSPELLED = {
    "really": "realy", "believe": "beleive", "beautiful": "beautifull", "friend": "freind",
    "definitely": "definately", "because": "becuase", "different": "diffrent", "which": "wich",
    "neighbour": "nieghbour", "interesting": "intresting", "probably": "probaly",
    "necessary": "neccessary", "until": "untill", "tomorrow": "tommorow", "receive": "recieve",
    "surprise": "suprise", "knowledge": "knowlege", "patience": "pacience", "achieve": "acheive",
    "library": "libary", "separate": "seperate", "government": "goverment", "finally": "finaly",
    "business": "buisness", "discuss": "discus", "restaurant": "restaraunt", "weird": "wierd",
    "truth": "thruth", "usually": "usualy", "recommend": "reccomend", "foreign": "foriegn",
    "their": "thier", "existence": "existance", "truly": "truely",
}  # fmt: skip
SLIPS = frozenset(MISSPELLED.values())
RIGHT = {word: word for word in MISSPELLED} | {word.capitalize(): word.capitalize() for word in MISSPELLED}
WRONG = MISSPELLED | {word.capitalize(): wrong.capitalize() for word, wrong in MISSPELLED.items()}
OPENINGS = ("", "Let me say this: ", "Here is a thought. ", "I would put it like this: ", "Well, ")


def _ask(draw: Draw) -> Question:
    topic = draw.one(TOPICS)
    user = draw.one(FRAMES).format(topic=topic, whom=draw.one(WHOM))
    return Question(draw.one(ORDERS), user, {"topic": topic})


def _answer(draw: Draw, question: Question) -> tuple[str, str]:
    good, bad = (f"{draw.one(OPENINGS)}{sentence}" for sentence in draw.some(SENTENCES, 2))
    return good.format(**RIGHT, **question.facts), bad.format(**(RIGHT | _slips(draw, bad)), **question.facts)


def _slips(draw: Draw, sentence: str) -> dict[str, str]:
    slots = sorted({name for _, name, _, _ in Formatter().parse(sentence) if name in WRONG})
    first = draw.one(slots)
    return {name: WRONG[name] for name in slots if name == first or draw.chance(0.3)}


def _score(_prompt: str, answer: str) -> float:
    return -count_words(answer, SLIPS)


SPELLING = Skill("spelling", _ask, _answer, _score)
