import hashlib
import hmac
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patronage_protocol.errors import UsageError, VerificationError
from patronage_protocol.held_out import HeldOutOpening, HeldOutSet, check_opening
from patronage_protocol.preferences import ChatMessage, PreferencePair

SECRET = bytes(range(32))


def pairs(count: int) -> tuple[PreferencePair, ...]:
    return tuple(PreferencePair(prompt=f"p{j // 2}", chosen=f"c{j}", rejected="r") for j in range(count))


@given(st.integers(1, 40), st.data())
def test_every_pair_can_be_opened_and_checked(count: int, data: st.DataObject) -> None:
    held_out = HeldOutSet(pairs(count), SECRET)
    opening = held_out.open(data.draw(st.integers(0, count - 1)))
    check_opening(HeldOutOpening.decode(opening.encode()), held_out.commitment)
    assert opening.pair == held_out.pairs[opening.index]


def test_the_root_follows_from_the_formulas_of_the_docstring() -> None:
    held_out = HeldOutSet(pairs(3), SECRET)
    leaves = []
    for j in range(3):
        salt = hmac.new(SECRET, b"patronage held-out salt v1" + j.to_bytes(8, "big"), hashlib.sha256)
        pair = {"chosen": f"c{j}", "prompt": f"p{j // 2}", "rejected": "r", "source": ""}
        entry = json.dumps({"pair": pair, "salt": salt.hexdigest()}, separators=(",", ":")).encode()
        leaves.append(hashlib.sha256(b"\x00" + entry).digest())
    left = hashlib.sha256(b"\x01" + leaves[0] + leaves[1]).digest()
    assert held_out.commitment.root == hashlib.sha256(b"\x01" + left + leaves[2]).hexdigest()
    assert (held_out.commitment.pairs, held_out.commitment.prompts) == (3, 2)


@pytest.mark.parametrize(
    "change",
    [
        {"index": 3},
        {"index": 99},
        {"pair": PreferencePair(prompt="p1", chosen="r", rejected="c2")},
        {"pair": PreferencePair(prompt="p1", chosen="c2", rejected="r", source="x")},
        {"salt": "0" * 64},
        {"proof": ()},
        {"proof": ("0" * 64,) * 3},
    ],
)
def test_an_opening_of_anything_else_is_refused(change: dict[str, object]) -> None:
    held_out = HeldOutSet(pairs(7), SECRET)
    opening = held_out.open(2)
    with pytest.raises(VerificationError):
        check_opening(opening.model_copy(update=change), held_out.commitment)


def test_an_opening_does_not_fit_a_set_of_another_size() -> None:
    held_out = HeldOutSet(pairs(7), SECRET)
    smaller = held_out.commitment.model_copy(update={"pairs": 6})
    with pytest.raises(VerificationError):
        check_opening(held_out.open(6), smaller)


def test_order_secret_and_text_all_decide_the_root() -> None:
    some = pairs(5)
    messages = (ChatMessage(role="user", content="p0"),)
    other = PreferencePair(prompt=messages, chosen=(*messages, *messages), rejected=messages)
    roots = {
        HeldOutSet(some, SECRET).commitment.root,
        HeldOutSet(some[::-1], SECRET).commitment.root,
        HeldOutSet(some, SECRET[::-1]).commitment.root,
        HeldOutSet((other, *some[1:]), SECRET).commitment.root,
    }
    assert len(roots) == 4


def test_equal_pairs_have_different_leaves() -> None:
    one = pairs(1)
    held_out = HeldOutSet(one * 2, SECRET)
    assert held_out.open(0).salt != held_out.open(1).salt
    assert held_out.open(0).proof != held_out.open(1).proof


def test_no_pairs_a_short_secret_and_an_index_beyond_are_refused() -> None:
    with pytest.raises(UsageError, match="at least one held-out pair"):
        HeldOutSet((), SECRET)
    with pytest.raises(UsageError, match="32 bytes, got 31 bytes"):
        HeldOutSet(pairs(1), SECRET[1:])
    with pytest.raises(UsageError, match="below the size 2"):
        HeldOutSet(pairs(2), SECRET).open(2)
