import pytest
from hypothesis import given
from hypothesis import strategies as st

from patronage_protocol.errors import DataError
from patronage_protocol.preferences import ChatMessage, PreferencePair, overlap, pair_from_row, training_order


def message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


ASK = message("user", "Name a fruit.")
PLAIN = {"prompt": "Name a fruit.", "chosen": "A pear.", "rejected": "A car."}
CHAT = {
    "prompt": [ASK],
    "chosen": [message("assistant", "A pear.")],
    "rejected": [message("assistant", "A car.")],
}


def reason(row: object) -> str:
    with pytest.raises(DataError) as caught:
        pair_from_row(row)
    return caught.value.got


def test_a_plain_row_becomes_a_pair_of_strings() -> None:
    pair = pair_from_row(PLAIN)
    assert pair == PreferencePair(prompt="Name a fruit.", chosen="A pear.", rejected="A car.")
    assert not pair.conversational


def test_a_conversational_row_becomes_a_pair_of_messages() -> None:
    pair = pair_from_row(CHAT)
    assert pair.conversational
    assert pair.chosen == (ChatMessage(role="assistant", content="A pear."),)


def test_further_columns_are_ignored_and_a_string_source_is_kept() -> None:
    assert pair_from_row({**PLAIN, "score": 3.5, "source": "fruit"}).source == "fruit"
    assert pair_from_row({**PLAIN, "source": 7}).source == ""
    assert pair_from_row({**PLAIN, "source": "\ud800"}).source == ""


@pytest.mark.parametrize("prompt", [{}, {"prompt": None}, {"prompt": "Name a fruit."}])
def test_the_implicit_prompt_of_conversations_is_what_both_begin_with(prompt: dict[str, object]) -> None:
    row = {"chosen": [ASK, *CHAT["chosen"]], "rejected": [ASK, *CHAT["rejected"]], **prompt}
    assert pair_from_row(row) == pair_from_row(CHAT)


@given(
    st.lists(st.sampled_from("abc"), max_size=4),
    st.lists(st.sampled_from("abc"), max_size=4),
    st.lists(st.sampled_from("abc"), max_size=4),
)
def test_an_implicit_prompt_loses_no_message(shared: list[str], one: list[str], other: list[str]) -> None:
    row = {
        "chosen": [message("user", text) for text in shared + one],
        "rejected": [message("user", text) for text in shared + other],
    }
    try:
        pair = pair_from_row(row)
    except DataError:
        a, b = shared + one, shared + other
        assert a[: len(b)] == b or b[: len(a)] == a or a[0] != b[0]
        return
    for name, part in (("chosen", pair.chosen), ("rejected", pair.rejected)):
        assert isinstance(pair.prompt, tuple)
        assert isinstance(part, tuple)
        assert [m.model_dump() for m in pair.prompt + part] == row[name]
    assert pair.chosen[0] != pair.rejected[0]


def test_null_fields_of_a_message_are_no_content() -> None:
    chosen = [{**message("assistant", "A pear."), "tool_calls": None}]
    assert pair_from_row({**CHAT, "chosen": chosen}) == pair_from_row(CHAT)


@pytest.mark.parametrize(
    ("row", "got"),
    [
        ([1, 2], "a list instead of an object"),
        ("text", "a string instead of an object"),
        ({"prompt": "p", "chosen": "c"}, "a row without rejected"),
        ({}, "a row without prompt and chosen and rejected"),
        ({"chosen": "both begin", "rejected": "both end"}, "a row without prompt"),
        ({**PLAIN, "chosen": 7}, "chosen is a number instead of"),
        ({**PLAIN, "chosen": True}, "chosen is a truth value instead of"),
        ({**PLAIN, "prompt": {"text": "p"}}, "prompt is an object instead of"),
        ({**PLAIN, "chosen": " \n"}, "chosen is empty"),
        ({**PLAIN, "prompt": ""}, "prompt is empty"),
        ({**PLAIN, "rejected": "A pear."}, "chosen and rejected are identical"),
        ({**PLAIN, "chosen": "\ud83d"}, "half of a surrogate pair"),
        ({**CHAT, "chosen": []}, "chosen is empty"),
        ({**CHAT, "chosen": "A pear."}, "all strings or all lists of messages"),
        ({**CHAT, "chosen": ["A pear."]}, "a message of chosen that is not"),
        ({**CHAT, "chosen": [{"role": "assistant"}]}, "a message of chosen that is not"),
        ({**CHAT, "chosen": [{**ASK, "tool_calls": [1]}]}, "a message of chosen that is not"),
        ({**CHAT, "chosen": [message("assistant", "\udc00")]}, "half of a surrogate pair"),
        ({"chosen": CHAT["chosen"], "rejected": CHAT["rejected"]}, "conversations without a prompt"),
        ({"chosen": [ASK], "rejected": [ASK, ASK]}, "chosen is empty"),
    ],
)
def test_an_unusable_row_is_refused_with_its_reason(row: object, got: str) -> None:
    assert got in reason(row)


def test_overlap_finds_the_same_comparison_in_either_order_and_the_same_prompt() -> None:
    swapped = PreferencePair(prompt="p", chosen="b", rejected="a", source="elsewhere")
    held_out = [
        PreferencePair(prompt="q", chosen="a", rejected="b"),
        PreferencePair(prompt="p", chosen="a", rejected="b"),
        PreferencePair(prompt="p", chosen="a", rejected="c"),
    ]
    found = overlap(held_out, iter([swapped]))
    assert found.pairs == (1,)
    assert found.prompts == (1, 2)


def test_no_overlap_without_a_common_prompt() -> None:
    chat = pair_from_row(CHAT)
    assert overlap([chat], [pair_from_row(PLAIN)]).prompts == ()
    assert overlap([chat], [chat]).pairs == (0,)


def numbered(count: int) -> list[PreferencePair]:
    return [PreferencePair(prompt=f"p{k}", chosen="c", rejected="r", source=f"s{k}") for k in range(count)]


@given(st.permutations(numbered(12)), st.integers())
def test_the_training_order_does_not_depend_on_order_or_labels_in_the_file(
    shuffled: list[PreferencePair], seed: int
) -> None:
    pairs = numbered(12)
    unlabelled = [pair.model_copy(update={"source": ""}) for pair in shuffled]
    expected = [pairs[index].prompt for index in training_order(pairs, seed=seed)]
    assert [shuffled[index].prompt for index in training_order(shuffled, seed=seed)] == expected
    assert [unlabelled[index].prompt for index in training_order(unlabelled, seed=seed)] == expected


def test_leaving_a_pair_out_leaves_the_training_order_of_the_others() -> None:
    pairs = numbered(20)
    expected = [pairs[index].prompt for index in training_order(pairs, seed=1) if index != 7]
    fewer = pairs[:7] + pairs[8:]
    assert [fewer[index].prompt for index in training_order(fewer, seed=1)] == expected


def test_the_training_order_is_another_with_another_seed() -> None:
    pairs = numbered(20)
    assert training_order(pairs, seed=1) != training_order(pairs, seed=2)
    assert sorted(training_order(pairs, seed=1)) == list(range(20))
