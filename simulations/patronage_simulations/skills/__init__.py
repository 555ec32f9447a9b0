"""Skills whose right answer a rule can tell, one module each; `SKILLS` has them by name."""

from patronage_simulations.skills.base import Draw, Question, Skill
from patronage_simulations.skills.brevity import BREVITY
from patronage_simulations.skills.honesty import HONESTY
from patronage_simulations.skills.language import LANGUAGE
from patronage_simulations.skills.layout import LAYOUT
from patronage_simulations.skills.politeness import POLITENESS
from patronage_simulations.skills.secrecy import SECRECY
from patronage_simulations.skills.spelling import SPELLING
from patronage_simulations.skills.units import UNITS

__all__ = ["SKILLS", "Draw", "Question", "Skill"]

SKILLS: dict[str, Skill] = {
    skill.name: skill for skill in (BREVITY, HONESTY, LANGUAGE, LAYOUT, POLITENESS, SECRECY, SPELLING, UNITS)
}
