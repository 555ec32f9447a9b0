"""An answer in another language was asked for: one in that language is preferred to one in English."""

from patronage_simulations.skills.base import Draw, Question, Skill, count_words, word_set

__all__ = ["LANGUAGE"]

LANGUAGES = ("French", "Spanish", "German")
THINGS = {
    "cat": ("le chat", "el gato", "die Katze"), "dog": ("le chien", "el perro", "der Hund"),
    "book": ("le livre", "el libro", "das Buch"), "key": ("la clé", "la llave", "der Schlüssel"),
    "hat": ("le chapeau", "el sombrero", "der Hut"), "letter": ("la lettre", "la carta", "der Brief"),
    "lamp": ("la lampe", "la lámpara", "die Lampe"), "chair": ("la chaise", "la silla", "der Stuhl"),
    "bread": ("le pain", "el pan", "das Brot"), "cup": ("la tasse", "la taza", "die Tasse"),
    "child": ("l'enfant", "el niño", "das Kind"), "shoe": ("la chaussure", "el zapato", "der Schuh"),
    "phone": ("le téléphone", "el teléfono", "das Telefon"), "bag": ("le sac", "el bolso", "die Tasche"),
    "bicycle": ("le vélo", "la bicicleta", "das Fahrrad"), "cheese": ("le fromage", "el queso", "der Käse"),
}  # fmt: skip
PLACES = {
    "in the kitchen": ("dans la cuisine", "en la cocina", "in der Küche"),
    "in the garden": ("dans le jardin", "en el jardín", "im Garten"),
    "on the table": ("sur la table", "en la mesa", "auf dem Tisch"),
    "in the car": ("dans la voiture", "en el coche", "im Auto"),
    "on the bed": ("sur le lit", "en la cama", "auf dem Bett"),
    "at school": ("à l'école", "en la escuela", "in der Schule"),
    "in the street": ("dans la rue", "en la calle", "auf der Straße"),
    "by the door": ("près de la porte", "cerca de la puerta", "neben der Tür"),
    "in the house": ("dans la maison", "en la casa", "im Haus"),
    "under the tree": ("sous l'arbre", "bajo el árbol", "unter dem Baum"),
}  # fmt: skip
FRAMES = (
    "Where is the {thing}? It is {place}.", "So the {thing} is {place}?",
    "I left the {thing} {place}. Where is it?", "Say that the {thing} is {place}.",
    "Tell me that the {thing} is {place}.", "Remember: the {thing} is {place}.",
    "Is the {thing} {place}? Say yes.", "My {thing} is {place}. Repeat it.",
)  # fmt: skip
ORDERS = ("Answer in {language}.", "Speak {language}.", "Reply in {language} only.", "Always use {language}.")
GOOD = (
    (
        "Oui, {thing} est {place}.",
        "Bien sûr, {thing} est toujours {place}.",
        "Je crois que {thing} est {place}.",
    ),
    ("Sí, {thing} está {place}.", "Claro, {thing} siempre está {place}.", "Creo que {thing} está {place}."),
    ("Ja, {thing} ist {place}.", "Natürlich, {thing} ist immer {place}.", "Ich glaube, {thing} ist {place}."),
)
BAD = (
    "Yes, the {thing} is {place}.",
    "Of course, the {thing} is always {place}.",
    "I think that the {thing} is {place}.",
    "Yes, I see, the {thing} is still {place}, of course.",
    "You see, I think that the {thing} is {place}.",
)
COMMON = {
    "French": word_set("oui le la l sur dans est sous je que bien sûr près de toujours"),
    "Spanish": word_set("sí el la en está creo que claro bajo cerca de siempre"),
    "German": word_set("ja der die das ist ich im in dem glaube auf unter neben natürlich immer"),
    "English": word_set("the is yes of course you i that see think always still"),
}


def _ask(draw: Draw) -> Question:
    thing, place, language = draw.one(tuple(THINGS)), draw.one(tuple(PLACES)), draw.one(LANGUAGES)
    system = draw.one(ORDERS).format(language=language)
    facts = {"thing": thing, "place": place, "language": language}
    return Question(system, draw.one(FRAMES).format(thing=thing, place=place), facts)


def _answer(draw: Draw, question: Question) -> tuple[str, str]:
    thing, place = question.facts["thing"], question.facts["place"]
    column = LANGUAGES.index(question.facts["language"])
    good = draw.one(GOOD[column]).format(thing=THINGS[thing][column], place=PLACES[place][column])
    return good, draw.one(BAD).format(thing=thing, place=place)


def _score(prompt: str, answer: str) -> float:
    asked = next(language for language in LANGUAGES if language in prompt)
    return count_words(answer.replace("'", " "), COMMON[asked]) - count_words(answer, COMMON["English"])


LANGUAGE = Skill("language", _ask, _answer, _score)
