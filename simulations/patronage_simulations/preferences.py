"""Generated preference pairs: a skill, a number, a seed, and a known quality.

Held-out prompts are set apart by a hash of the prompt itself, so no owner of any scenario can hold one,
whatever the seeds. Pairs are conversational: the chat template applies. Nothing here is random beyond
the seed, on any machine.
"""

from collections.abc import Container, Iterator, Sequence
from hashlib import sha256

from patronage_protocol.errors import UsageError
from patronage_protocol.preferences import ChatMessage, PreferencePair
from patronage_simulations.skills import SKILLS, Draw, Question, Skill

__all__ = [
    "coin_labelled",
    "flipped",
    "held_out_pairs",
    "owner_pairs",
    "plain",
    "reordered",
    "reserved",
    "slice_pairs",
]

HELD_OUT_SHARE = 4
PATIENCE = 200


def reserved(prompt: str) -> bool:
    """Whether a prompt (`Question.text`) is for held-out pairs; so is one in `HELD_OUT_SHARE` prompts."""
    return sha256(prompt.encode()).digest()[0] % HELD_OUT_SHARE == 0


def owner_pairs(skills: Sequence[str], count: int, *, seed: str) -> tuple[PreferencePair, ...]:
    """`count` pairs of an owner, each with a prompt of its own, the skills in turn.

    Raises:
        UsageError: a skill is unknown or has too few prompts.
    """
    streams = [_stream(_skill(name), seed, held_out=False) for name in skills]
    return tuple(next(streams[k % len(streams)]) for k in range(count))


def held_out_pairs(
    skills: Sequence[str], pairs_per_skill: int, *, seed: str, pairs_per_prompt: int = 1
) -> tuple[PreferencePair, ...]:
    """Held-out pairs, skill after skill, with prompts that no owner can have.

    `pairs_per_prompt` > 1 gives several answers to one prompt. They are not independent: intervals are
    clustered by prompt.

    Raises:
        UsageError: a skill is unknown or has too few prompts.
    """
    pairs: list[PreferencePair] = []
    for name in skills:
        stream = _stream(_skill(name), seed, held_out=True, pairs_per_prompt=pairs_per_prompt)
        pairs.extend(next(stream) for _ in range(pairs_per_skill))
    return tuple(pairs)


def slice_pairs(
    skills: Sequence[str], count: int, *, seed: str, taken: Container[str]
) -> tuple[PreferencePair, ...]:
    """`count` held-out pairs, the skills in turn, with prompts of their own that are not among `taken`.

    Args:
        skills: of the owner that contributes them.
        count: how many.
        seed: of the draws.
        taken: the digests of prompts that are held out already.

    Raises:
        UsageError: a skill is unknown or has too few prompts.
    """
    streams = [
        (pair for pair in _stream(_skill(name), seed, held_out=True) if pair.prompt_digest not in taken)
        for name in skills
    ]
    return tuple(next(streams[k % len(streams)]) for k in range(count))


def flipped(pairs: Sequence[PreferencePair], fraction: float, *, seed: str) -> tuple[PreferencePair, ...]:
    """The same pairs with chosen and rejected exchanged in `fraction` of them, rounded to whole pairs."""
    wrong = set(Draw(f"{seed}/flip").some(range(len(pairs)), round(fraction * len(pairs))))
    return tuple(_exchanged(pair) if k in wrong else pair for k, pair in enumerate(pairs))


def coin_labelled(pairs: Sequence[PreferencePair], *, seed: str) -> tuple[PreferencePair, ...]:
    """The same pairs, each label decided by a fair coin: the work of somebody who did not look."""
    draw = Draw(f"{seed}/coin")
    return tuple(_exchanged(pair) if draw.chance(0.5) else pair for pair in pairs)


def reordered(pairs: Sequence[PreferencePair], *, seed: str) -> tuple[PreferencePair, ...]:
    """The same pairs in another order: what a copy of somebody's data looks like."""
    return tuple(Draw(f"{seed}/order").some(pairs, len(pairs)))


def plain(pairs: Sequence[PreferencePair]) -> tuple[PreferencePair, ...]:
    """The same pairs as plain text: the messages of the prompt on one line, then the answer."""
    return tuple(
        PreferencePair(
            prompt=f"{_said(pair.prompt)}\n",
            chosen=_said(pair.chosen),
            rejected=_said(pair.rejected),
            source=pair.source,
        )
        for pair in pairs
    )


def _said(part: str | tuple[ChatMessage, ...]) -> str:
    return part if isinstance(part, str) else " ".join(message.content for message in part)


def _skill(name: str) -> Skill:
    if name not in SKILLS:
        raise UsageError(f"a skill of {', '.join(sorted(SKILLS))}", got=repr(name), do="correct the scenario")
    return SKILLS[name]


def _stream(
    skill: Skill, seed: str, *, held_out: bool, pairs_per_prompt: int = 1
) -> Iterator[PreferencePair]:
    draw = Draw(f"{seed}/{skill.name}")
    seen: set[str] = set()
    misses = 0
    while misses < PATIENCE:
        question = skill.ask(draw)
        if question.text in seen or reserved(question.text) != held_out:
            misses += 1
            continue
        misses = 0
        seen.add(question.text)
        yield from _judged(skill, draw, question, pairs_per_prompt)
    raise UsageError(
        f"more prompts of the skill {skill.name!r}",
        got=f"no new one after {len(seen)}",
        do="ask for fewer pairs",
    )


def _judged(skill: Skill, draw: Draw, question: Question, count: int) -> Iterator[PreferencePair]:
    prompt = (_turn("system", question.system), _turn("user", question.user))
    for _ in range(count):
        good, bad = skill.answer(draw, question)
        yield PreferencePair(
            prompt=prompt,
            chosen=(_turn("assistant", good),),
            rejected=(_turn("assistant", bad),),
            source=skill.name,
        )


def _turn(role: str, content: str) -> ChatMessage:
    return ChatMessage(role=role, content=content)


def _exchanged(pair: PreferencePair) -> PreferencePair:
    return pair.model_copy(update={"chosen": pair.rejected, "rejected": pair.chosen})
