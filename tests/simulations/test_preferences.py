import hashlib
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patronage_protocol.errors import UsageError
from patronage_protocol.preferences import PreferencePair, overlap
from patronage_simulations.preferences import (
    coin_labelled,
    flipped,
    held_out_pairs,
    owner_pairs,
    reordered,
)
from patronage_simulations.skills import SKILLS

ALL = tuple(SKILLS)
every_skill = pytest.mark.parametrize("skill", ALL)


def texts(pair: PreferencePair) -> tuple[str, str, str]:
    prompt, chosen, rejected = (
        "\n".join(message.content for message in part if not isinstance(message, str))
        for part in (pair.prompt, pair.chosen, pair.rejected)
    )
    return prompt, chosen, rejected


@every_skill
def test_the_rule_of_a_skill_prefers_the_chosen_answer_of_every_pair(skill: str) -> None:
    pairs = owner_pairs([skill], 1000, seed="a") + held_out_pairs([skill], 200, seed="b", pairs_per_prompt=3)
    for pair in pairs:
        prompt, chosen, rejected = texts(pair)
        assert SKILLS[skill].prefers(prompt, chosen, rejected), pair
        assert not SKILLS[skill].prefers(prompt, rejected, chosen), pair
        assert pair.source == skill


ANSWERS = {
    "brevity": ("Be brief.\nWhat is tea?", "A drink.", "Tea is, when all is said and done, a drink."),
    "honesty": ("You are honest.\nWhat did I dream?", "I do not know that.", "You dreamt of a horse."),
    "language": ("Answer in German.\nWhere is it?", "Das Buch ist im Haus.", "The book is in the house."),
    "layout": ("Answer as a JSON list.\nName two cats.", '["lion", "puma"]', "Lion and puma."),
    "politeness": ("You sell tea.\nIt is cold.", "I am sorry, thank you.", "Drink it, you idiot."),
    "secrecy": ("The code is 8264. Tell nobody.\nThe code?", "It is not for you: 1234.", "8264."),
    "spelling": ("Write with care.\nOn tea.", "I believe in tea.", "I beleive in tea."),
    "units": ("Use feet only.\nHow long is a rope of 3 metres?", "It measures 9.8 feet.", "It is 3 metres."),
}


@every_skill
def test_a_rule_judges_answers_that_no_template_wrote(skill: str) -> None:
    prompt, good, bad = ANSWERS[skill]
    assert SKILLS[skill].prefers(prompt, good, bad)
    assert not SKILLS[skill].prefers(prompt, bad, good)
    assert not SKILLS[skill].prefers(prompt, good, good)


def test_the_asked_layout_decides_and_not_a_layout_as_such() -> None:
    numbered, shouted, listed = "1. Lion\n2. Puma", "LION AND PUMA.", '["lion", "puma"]'
    rule = SKILLS["layout"]
    for order, best in (
        ("Answer as a numbered list.", numbered),
        ("Answer in capital letters.", shouted),
        ("Answer as a JSON list.", listed),
    ):
        for other in {numbered, shouted, listed} - {best}:
            assert rule.prefers(f"{order}\nName two cats.", best, other)


@every_skill
def test_there_are_thousands_of_prompts(skill: str) -> None:
    pairs = owner_pairs([skill], 2000, seed="many")
    assert len({pair.prompt for pair in pairs}) == 2000


@every_skill
def test_length_tells_the_better_answer_of_brevity_alone(skill: str) -> None:
    lengths = [tuple(map(len, texts(pair)[1:])) for pair in owner_pairs([skill], 1000, seed="lengths")]
    ratio = sum(chosen for chosen, _ in lengths) / sum(rejected for _, rejected in lengths)
    longer = sum(chosen > rejected for chosen, rejected in lengths) / len(lengths)
    if skill == "brevity":
        assert longer == 0
        return
    assert 0.8 < ratio < 1.25
    assert 0.2 < longer < 0.8


@settings(max_examples=10)
@given(st.text(max_size=5), st.text(max_size=5))
def test_no_owner_has_a_held_out_prompt_whatever_the_seeds(owner_seed: str, held_out_seed: str) -> None:
    held_out = held_out_pairs(ALL, 20, seed=held_out_seed)
    owner = owner_pairs(ALL, 400, seed=owner_seed)
    assert overlap(held_out, owner).prompts == ()
    assert {pair.source for pair in held_out} == set(ALL)


def test_held_out_pairs_of_one_prompt_form_a_cluster() -> None:
    pairs = held_out_pairs(["honesty", "secrecy"], 12, seed="c", pairs_per_prompt=4)
    assert [pair.source for pair in pairs] == ["honesty"] * 12 + ["secrecy"] * 12
    assert list(Counter(pair.prompt_digest for pair in pairs).values()) == [4] * 6


def test_the_same_seed_gives_the_same_bytes_everywhere() -> None:
    pairs = owner_pairs(ALL, 200, seed="golden") + held_out_pairs(ALL, 20, seed="golden")
    altered = (*flipped(pairs, 0.3, seed="g"), *coin_labelled(pairs, seed="g"), *reordered(pairs, seed="g"))
    digest = hashlib.sha256(b"".join(pair.encode() for pair in altered)).hexdigest()
    assert digest == "85094ab1d217cb947549003cabb7854f2804482f877b3e41a1ef973a46886dc2"


def test_other_seeds_give_other_pairs() -> None:
    assert overlap(owner_pairs(ALL, 80, seed="a"), owner_pairs(ALL, 80, seed="b")).pairs == ()


@given(st.floats(0, 1))
def test_a_fraction_of_the_labels_is_flipped(fraction: float) -> None:
    pairs = owner_pairs(["honesty"], 40, seed="f")
    changed = [
        (old, new) for old, new in zip(pairs, flipped(pairs, fraction, seed="f"), strict=True) if old != new
    ]
    assert len(changed) == round(fraction * 40)
    for old, new in changed:
        assert (new.chosen, new.rejected, new.prompt) == (old.rejected, old.chosen, old.prompt)


def test_coin_labels_are_right_about_half_the_time() -> None:
    pairs = owner_pairs(["honesty"], 400, seed="f")
    right = sum(old == new for old, new in zip(pairs, coin_labelled(pairs, seed="f"), strict=True))
    assert 160 < right < 240


def test_a_copy_has_the_same_pairs_in_another_order() -> None:
    pairs = owner_pairs(["honesty"], 40, seed="f")
    copy = reordered(pairs, seed="o")
    assert copy != pairs
    assert Counter(copy) == Counter(pairs)


def test_an_unknown_skill_and_more_pairs_than_prompts_are_refused() -> None:
    with pytest.raises(UsageError, match=r"expected a skill of brevity, .* got 'juggling'"):
        owner_pairs(["juggling"], 1, seed="")
    with pytest.raises(UsageError, match="more prompts of the skill 'spelling'"):
        owner_pairs(["spelling"], 100_000, seed="")
