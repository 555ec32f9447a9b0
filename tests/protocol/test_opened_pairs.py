"""What opened pairs can say against the counting of prompts, and what they cannot."""

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from patronage_protocol.held_out_terms import HeldOutTerms
from patronage_protocol.opened_pairs import against_clusters, against_counts

prompts = st.text("abcd", min_size=1, max_size=7)


def in_order(texts: str) -> list[int]:
    seen: dict[str, int] = {}
    return [seen.setdefault(text, len(seen)) for text in texts]


@given(texts=prompts, chosen=st.integers(1, 2**7 - 1))
def test_honest_clusters_and_counts_stand_whatever_is_opened(texts: str, chosen: int) -> None:
    opened = {index: text for index, text in enumerate(texts) if chosen >> index & 1}
    terms = HeldOutTerms(root="0c" * 32, pairs=len(texts), prompts=len(set(texts)))
    assert all(against_clusters(opened, index, in_order(texts)) is None for index in opened)
    assert against_counts(opened, terms) is None


@given(texts=prompts, others=st.text("abcd", min_size=7, max_size=7))
def test_every_wrong_count_of_two_opened_pairs_is_found(texts: str, others: str) -> None:
    counted, opened = in_order(others), dict(enumerate(texts))
    wrong = [
        (i, j)
        for i, j in combinations(range(len(texts)), 2)
        if (texts[i] == texts[j]) != (counted[i] == counted[j])
    ]
    found = {index for index in opened if against_clusters(opened, index, counted) is not None}
    assert found == {index for pair in wrong for index in pair}


@given(texts=prompts, unopened=st.integers(0, 3), number=st.integers(1, 8))
def test_counts_are_refused_just_where_no_set_of_such_counts_could_hold_what_was_opened(
    texts: str, unopened: int, number: int
) -> None:
    terms = HeldOutTerms(root="0c" * 32, pairs=len(texts) + unopened, prompts=number)
    distinct = len(set(texts))
    # What is not opened can bring from none to `unopened` new prompts.
    possible = distinct <= number <= distinct + unopened
    assert (against_counts(dict(enumerate(texts)), terms) is None) == possible
