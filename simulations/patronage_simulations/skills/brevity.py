"""One short sentence was asked for: the shorter answer is preferred. The only skill that length decides."""

from patronage_simulations.skills.base import Draw, Question, Skill

__all__ = ["BREVITY"]

WORK = {
    "baker": "bakes bread", "teacher": "teaches children", "nurse": "cares for the sick",
    "pilot": "flies planes", "farmer": "grows food", "plumber": "repairs pipes",
    "tailor": "sews clothes", "judge": "decides cases", "dentist": "treats teeth",
    "miner": "digs for ore", "painter": "paints walls", "sailor": "works on ships",
    "barber": "cuts hair", "chef": "cooks meals", "florist": "sells flowers", "mason": "builds walls",
    "porter": "carries luggage", "cobbler": "mends shoes", "weaver": "makes cloth",
    "roofer": "covers roofs", "surgeon": "operates on patients", "cashier": "takes payments",
    "gardener": "tends plants", "librarian": "lends books", "carpenter": "works with wood",
    "butcher": "cuts meat", "waiter": "serves food", "firefighter": "puts out fires",
    "astronomer": "studies stars", "translator": "translates texts", "courier": "delivers parcels",
    "beekeeper": "keeps bees", "blacksmith": "shapes iron", "optician": "fits glasses",
    "locksmith": "opens locks", "glazier": "fits windows", "potter": "makes pots",
    "vet": "treats animals",
}  # fmt: skip
FRAMES = (
    "What does a {job} do{when}?", "Tell me what a {job} does{when}.",
    "What is the work of a {job}{when}?", "Explain the job of a {job}{when}.",
    "How does a {job} spend the day{when}?", "What is a {job} for{when}?",
)  # fmt: skip
WHEN = (
    "", " in winter", " in summer", " in a village", " in a city", " on a Monday", " these days",
    " in a small town", " at the weekend", " in spring", " in autumn", " in a big company",
    " by the sea", " in the mountains",
)  # fmt: skip
ORDERS = ("Answer in one short sentence.", "Be brief.", "Keep it short.", "Use few words.", "Be concise.")
GOOD = (
    "A {job} {work}.",
    "A {job} usually {work}.",
    "The {job} {work}.",
    "Mostly, a {job} {work}.",
    "He or she {work}.",
)
OPENINGS = (
    "That is a good question.",
    "Well, where should I begin?",
    "Let me explain this in detail.",
    "There is a lot to be said here.",
    "I have often thought about it.",
)
CLOSINGS = (
    "As you may know, a {job} {work}, and of course much more.",
    "In general, and on the whole, a {job} {work}.",
    "To sum it up, one might say that a {job} {work}.",
    "Most people would agree that a {job} {work}.",
)


def _ask(draw: Draw) -> Question:
    job = draw.one(tuple(WORK))
    user = draw.one(FRAMES).format(job=job, when=draw.one(WHEN))
    return Question(draw.one(ORDERS), user, {"job": job, "work": WORK[job]})


def _answer(draw: Draw, question: Question) -> tuple[str, str]:
    rambling = f"{draw.one(OPENINGS)} {draw.one(CLOSINGS)}"
    return draw.one(GOOD).format(**question.facts), rambling.format(**question.facts)


def _score(_prompt: str, answer: str) -> float:
    return -len(answer.split())


BREVITY = Skill("brevity", _ask, _answer, _score)
