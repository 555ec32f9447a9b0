"""The state machine of a round: what may follow what, who may do what, and by when."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from by_hand import DISPUTE, HELD_OUT, NOW, Play, adapter_of, salt_of
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from pydantic import ValidationError

from patronage_protocol.entries import (
    Aborted,
    Accepted,
    Closed,
    Evaluated,
    Finished,
    Judged,
    Paid,
    Refunded,
    Valued,
    Witnessed,
    commitments_digest,
)
from patronage_protocol.errors import PatronageError, RemoteProtocolError, VerificationError
from patronage_protocol.evidence import MarginEvidence
from patronage_protocol.keys import PrivateKey
from patronage_protocol.ledger.checkpoints import SignedCheckpoint
from patronage_protocol.ledger.cosignatures import Ed25519Cosigner
from patronage_protocol.manifest import Manifest, StartTerms
from patronage_protocol.messages import (
    Acceptance,
)
from patronage_protocol.rounds import Phase, Round, Standing
from patronage_protocol.shares import compute_shares
from patronage_protocol.witnessing import check_quorum

Keys = Callable[[str], PrivateKey]
Manifests = Callable[..., Manifest]
Heads = Callable[..., SignedCheckpoint]


@pytest.fixture
def play(manifest_of: Manifests, key_of: Keys, cosigned_head: Heads) -> Play:
    return Play(manifest_of("ann", "bob", "cy"), key_of, cosigned_head)


def revealed(play: Play) -> Play:
    play.open()
    for step in (play.accept, play.commit):
        for owner in ("ann", "bob", "cy"):
            step(owner)
    play.close()
    play.witness()
    for owner in ("ann", "bob", "cy"):
        play.reveal(owner)
    return play


def test_a_round_goes_from_terms_to_payments(play: Play) -> None:
    assert revealed(play).state.phase is Phase.INTAKE
    play.judge("ann")
    play.judge("bob")
    assert play.judge("cy", reason="a copy").phase is Phase.SCORING
    assert play.evaluate().phase is Phase.VALUING
    assert play.value().phase is Phase.PAYING
    assert play.settle().phase is Phase.SETTLED
    final = play.finish()
    assert final.phase is Phase.FINAL
    assert final.settlement is not None
    amounts = {payment.owner: payment.amount for payment in final.settlement.payments}
    assert amounts == {"ann": 50_000, "bob": 50_000, "cy": 0}


def test_the_next_round_may_open_only_after_the_last_is_final(
    play: Play, manifest_of: Manifests, key_of: Keys
) -> None:
    revealed(play)
    play.manifest = manifest_of("ann", "bob", round=2)
    with pytest.raises(RemoteProtocolError, match="intake"):
        play.open()
    for owner in ("ann", "bob", "cy"):
        play.manifest = play.state.manifest
        play.judge(owner)
    play.evaluate()
    play.value()
    play.settle()
    play.finish()
    play.manifest = manifest_of("ann", "bob", round=2)
    with pytest.raises(RemoteProtocolError, match="open §witnessed"):
        play.open()
    play.witness("ann", "cy")
    play.manifest = manifest_of("ann", "bob", round=3)
    with pytest.raises(RemoteProtocolError, match="§next"):
        play.open()
    play.manifest = manifest_of("ann", "bob", round=2)
    play.open()
    play.accept("ann")
    assert [state.phase for state in play.rounds] == [Phase.FINAL, Phase.OPEN]


@pytest.fixture
def finished(play: Play) -> Play:
    """A round that is over, with three players of rank 2 and the adapter 0f0f..."""
    revealed(play)
    for owner in ("ann", "bob", "cy"):
        play.judge(owner)
    play.evaluate()
    play.value()
    play.settle()
    play.finish()
    play.witness("ann", "cy")
    return play


def start_of(**changes: Any) -> StartTerms:
    return StartTerms.model_validate({"round": 1, "adapter": "0f" * 32, "rank": 6, "alpha": 12.0, **changes})


def test_the_next_round_may_start_from_the_adapter_that_the_last_one_left(
    finished: Play, manifest_of: Manifests
) -> None:
    finished.manifest = manifest_of("ann", "bob", round=2, start=start_of())
    assert finished.open().manifest.start == start_of()


@pytest.mark.parametrize(
    "change",
    [
        {"adapter": "0e" * 32},
        {"adapter": "10" * 32},
        {"rank": 4, "alpha": 8.0},
        {"rank": 8, "alpha": 16.0},
        {"alpha": 6.0},
    ],
)
def test_a_round_starts_from_no_other_adapter(
    finished: Play, manifest_of: Manifests, change: dict[str, Any]
) -> None:
    finished.manifest = manifest_of("ann", "bob", round=2, start=start_of(**change))
    with pytest.raises(RemoteProtocolError, match="open §start"):
        finished.open()


def test_a_start_belongs_to_its_base_model_and_modules(finished: Play, manifest_of: Manifests) -> None:
    manifest = manifest_of("ann", "bob", round=2, start=start_of())
    wider = manifest.lora.groups[0].model_copy(update={"out_features": 7})
    others = (
        ("base_model", manifest.base_model.model_copy(update={"weights": "00" * 32})),
        ("base_model", manifest.base_model.model_copy(update={"weights": "0d" * 32})),
        ("lora", manifest.lora.model_copy(update={"groups": manifest.lora.groups * 2})),
        ("lora", manifest.lora.model_copy(update={"groups": (wider,)})),
    )
    for what, value in others:
        finished.manifest = manifest.model_copy(update={what: value})
        with pytest.raises(RemoteProtocolError, match="open §start"):
            finished.open()
    renamed = manifest.base_model.model_copy(update={"name": "another name for the same"})
    finished.manifest = manifest.model_copy(update={"base_model": renamed})
    finished.open()


def test_the_first_round_has_nothing_to_start_from(play: Play, manifest_of: Manifests) -> None:
    play.manifest = manifest_of("ann", "bob", round=2, start=start_of())
    with pytest.raises(RemoteProtocolError, match="no round has left an adapter"):
        play.open()
    with pytest.raises(ValueError, match="a round before it"):
        manifest_of("ann", "bob", round=1, start=start_of())


def test_a_manifest_that_its_operator_did_not_sign_opens_nothing(play: Play) -> None:
    with pytest.raises(VerificationError):
        play.open(signer="ann")


def test_a_ledger_begins_with_open(play: Play) -> None:
    with pytest.raises(RemoteProtocolError, match="open §first"):
        play.accept("ann")


def test_a_commitment_copied_from_another_owner_cannot_be_opened(play: Play) -> None:
    play.open()
    for owner in ("ann", "bob", "cy"):
        play.accept(owner)
    play.commit("ann")
    play.commit("bob", digest=play.commitment("ann"))
    play.commit("cy")
    play.close()
    play.witness()
    with pytest.raises(RemoteProtocolError, match="reveal §opening"):
        play.reveal("bob", adapter=adapter_of("ann"), salt=salt_of("ann"))


def test_an_adapter_other_than_the_committed_one_is_refused(play: Play) -> None:
    play.open()
    for owner in ("ann", "bob", "cy"):
        play.accept(owner)
        play.commit(owner)
    play.close()
    play.witness()
    others = [adapter_of(f"{number}") for number in range(8)]
    openings = {play.commitment("ann") < play.commitment("ann", adapter) for adapter in others}
    assert openings == {True, False}, "digests above the committed one, and below it"
    for adapter in others:
        with pytest.raises(RemoteProtocolError, match="reveal §opening"):
            play.reveal("ann", adapter=adapter)
    with pytest.raises(RemoteProtocolError, match="reveal §size"):
        play.reveal("ann", size=10_001)
    assert play.reveal("ann", size=10_000).reveals["ann"].size == 10_000


def test_a_statement_signed_by_somebody_else_is_refused(play: Play) -> None:
    play.open()
    for step in (play.accept, play.decline):
        with pytest.raises(VerificationError):
            step("ann", signer="bob")


@pytest.mark.parametrize(
    ("field", "value"),
    [("consortium", "meadow"), ("round", 2), ("manifest", "00" * 32), ("author", "bob")],
)
def test_a_statement_of_another_round_or_party_is_refused(play: Play, field: str, value: Any) -> None:
    play.open()
    with pytest.raises(RemoteProtocolError, match=f"a statement with {field}"):
        play.take(
            Accepted(
                time=NOW, owner="ann", statement=play.say("ann", Acceptance, signer="ann", **{field: value})
            )
        )


def test_somebody_outside_the_manifest_cannot_take_part(play: Play) -> None:
    play.open()
    for step in (play.accept, play.decline, play.forfeit):
        with pytest.raises(RemoteProtocolError, match="open §owners"):
            step("mallory")


def test_what_was_done_once_cannot_be_done_again(play: Play) -> None:
    play.open()
    play.accept("ann")
    with pytest.raises(RemoteProtocolError, match="accept §standing"):
        play.accept("ann")
    play.commit("ann")
    with pytest.raises(RemoteProtocolError, match="commit §standing"):
        play.commit("ann", digest="00" * 32)


def test_an_owner_that_declined_cannot_commit(play: Play) -> None:
    play.open()
    play.decline("ann")
    with pytest.raises(RemoteProtocolError, match="commit §standing"):
        play.commit("ann")


def test_late_statements_are_refused(play: Play) -> None:
    play.open()
    play.accept("ann")
    play.now = NOW + 100
    play.accept("bob")
    play.now = NOW + 101
    with pytest.raises(RemoteProtocolError, match="accept §deadline"):
        play.accept("cy")
    play.forfeit("cy")
    play.commit("ann")
    play.now = NOW + 201
    with pytest.raises(RemoteProtocolError, match="commit §deadline"):
        play.commit("bob")
    play.forfeit("bob")
    play.close()
    play.witness()
    play.now = NOW + 301
    with pytest.raises(RemoteProtocolError, match="reveal §deadline"):
        play.reveal("ann")
    assert play.forfeit("ann").phase is Phase.SCORING


def test_nobody_forfeits_before_its_deadline(play: Play) -> None:
    play.open()
    play.accept("ann")
    play.now = NOW + 100
    with pytest.raises(RemoteProtocolError, match="forfeit §deadline"):
        play.forfeit("bob")
    play.now = NOW + 200
    with pytest.raises(RemoteProtocolError, match="forfeit §deadline"):
        play.forfeit("ann")


def test_a_committed_owner_cannot_be_put_out_before_it_could_reveal(play: Play) -> None:
    play.open()
    play.accept("ann")
    play.commit("ann")
    play.now = NOW + 500
    with pytest.raises(RemoteProtocolError, match="forfeit §close"):
        play.forfeit("ann")


def test_the_operator_cannot_close_while_an_owner_may_still_commit(play: Play) -> None:
    play.open()
    play.accept("ann")
    with pytest.raises(RemoteProtocolError, match="close §waiting"):
        play.close()


def test_the_operator_cannot_leave_a_commitment_out_of_the_closed_list(play: Play) -> None:
    play.open()
    for owner in ("ann", "bob", "cy"):
        play.accept(owner)
        play.commit(owner)
    made = {owner: play.commitment(owner) for owner in ("ann", "bob")}
    with pytest.raises(RemoteProtocolError, match="close §list"):
        play.take(Closed(time=NOW, count=2, commitments=commitments_digest(made)))


def test_time_does_not_run_backwards(play: Play) -> None:
    play.open()
    play.now = NOW - 1
    with pytest.raises(RemoteProtocolError, match="accept §clock"):
        play.accept("ann")


def test_the_closed_list_must_be_the_ledgers_own_in_count_and_digest(play: Play) -> None:
    play.open()
    for owner in ("ann", "bob", "cy"):
        play.accept(owner)
        play.commit(owner)
    made = commitments_digest(play.state.commitments)
    for count, digest in (
        (2, made),
        (4, made),
        (3, "00" * 32),
        (3, "ff" * 32),
        (2, "ff" * 32),
        (4, "00" * 32),
    ):
        with pytest.raises(RemoteProtocolError, match="close §list"):
            play.take(Closed(time=NOW, count=count, commitments=digest))


def test_intake_judges_nobody_from_outside_and_a_cosine_at_the_threshold_is_a_copy(play: Play) -> None:
    revealed(play)
    with pytest.raises(RemoteProtocolError, match="open §owners"):
        play.judge("mallory")
    with pytest.raises(RemoteProtocolError, match="intake §copy"):
        play.judge("bob", cosine=0.99)
    with pytest.raises(RemoteProtocolError, match="intake §norm"):
        play.judge("bob", norm=10.000001)
    assert play.judge("bob", norm=10.0, cosine=0.98).standing["bob"] is Standing.ADMITTED


def test_a_round_with_exactly_its_minimum_of_players_goes_on(
    manifest_of: Manifests, key_of: Keys, cosigned_head: Heads
) -> None:
    play = revealed(Play(manifest_of("ann", "bob", "cy", min_players=3), key_of, cosigned_head))
    for owner in ("ann", "bob", "cy"):
        play.judge(owner)
    with pytest.raises(RemoteProtocolError, match="abort §players"):
        play.take(Aborted(time=NOW, reason="players", count=3))
    assert play.evaluate().phase is Phase.VALUING


def test_only_a_game_on_rewards_is_given_up_for_them(
    manifest_of: Manifests, key_of: Keys, cosigned_head: Heads, scenarios: Mapping[str, Any]
) -> None:
    rewards = scenarios["rewards"].changes["game"]
    play = revealed(Play(manifest_of("ann", "bob", "cy"), key_of, cosigned_head))
    for owner in ("ann", "bob", "cy"):
        play.judge(owner)
    with pytest.raises(RemoteProtocolError, match="abort §rewards"):
        play.take(Aborted(time=NOW, reason="rewards", count=3))
    play = revealed(Play(manifest_of("ann", "bob", "cy", game=rewards), key_of, cosigned_head))
    with pytest.raises(RemoteProtocolError, match="abort §phase"):
        play.take(Aborted(time=NOW, reason="rewards", count=3))
    for owner in ("ann", "bob", "cy"):
        play.judge(owner)
    with pytest.raises(RemoteProtocolError, match="abort §reason"):
        play.take(Aborted(time=NOW, reason="witnesses", count=0))
    with pytest.raises(RemoteProtocolError, match="abort §players"):
        play.take(Aborted(time=NOW, reason="rewards", count=2))
    assert play.take(Aborted(time=NOW, reason="rewards", count=3)).phase is Phase.PAYING
    play.settle()
    final = play.finish()
    assert final.settlement is not None
    assert (final.settlement.refund, final.settlement.refund_reason) == (100_000, "aborted")


def test_the_end_names_an_adapter_exactly_when_the_round_was_valued(play: Play) -> None:
    revealed(play)
    for owner in ("ann", "bob", "cy"):
        play.judge(owner)
    play.evaluate()
    play.value()
    play.settle()
    with pytest.raises(RemoteProtocolError, match="final §adapter"):
        play.take(Finished(time=NOW, adapter=None))


def closed(play: Play) -> Play:
    play.open()
    for owner in ("ann", "bob", "cy"):
        play.accept(owner)
        play.commit(owner)
    play.close()
    return play


def test_nobody_may_reveal_before_a_quorum_has_cosigned_the_close(play: Play) -> None:
    closed(play)
    with pytest.raises(RemoteProtocolError, match="reveal §phase"):
        play.reveal("ann")
    with pytest.raises(RemoteProtocolError, match="witness §quorum"):
        play.witness("bob")
    assert play.witness("ann", "cy").phase is Phase.REVEALING
    with pytest.raises(RemoteProtocolError, match="witness §phase"):
        play.witness()


def test_cosignatures_of_another_head_do_not_stand_behind_the_close(play: Play) -> None:
    play.open()
    for owner in ("ann", "bob", "cy"):
        play.accept(owner)
        play.commit(owner)
    earlier = play.cosigned_head(play.state, play.keys).encode().decode()
    play.close()
    with pytest.raises(RemoteProtocolError, match="witness §head"):
        play.take(Witnessed(time=NOW, checkpoint=earlier))


def test_a_cosignature_by_a_stolen_name_or_a_stranger_does_not_count(play: Play) -> None:
    closed(play)
    honest = play.cosigned_head(play.state, play.keys, "ann")
    head, note = honest.checkpoint, honest.note
    forged = Ed25519Cosigner("orchard/bob", play.keys("mallory")).cosign(head, NOW)
    with pytest.raises(RemoteProtocolError, match="witness §quorum"):
        play.take(Witnessed(time=NOW, checkpoint=note.with_signatures(forged).encode().decode()))
    relabelled = replace(
        play.cosigned_head(play.state, play.keys, "bob").note.signatures[1], name="orchard/cy"
    )
    with pytest.raises(RemoteProtocolError, match="witness §quorum"):
        play.take(Witnessed(time=NOW, checkpoint=note.with_signatures(relabelled).encode().decode()))
    all_of_them = play.cosigned_head(play.state, play.keys).note.with_signatures(forged)
    with pytest.raises(RemoteProtocolError, match="witness §lines"):
        play.take(Witnessed(time=NOW, checkpoint=all_of_them.encode().decode()))


def test_a_round_without_a_quorum_at_close_is_aborted_after_the_deadline_and_refunded(play: Play) -> None:
    closed(play)
    aborted = {"reason": "witnesses", "count": 1}
    with pytest.raises(RemoteProtocolError, match="abort §deadline"):
        play.take(Aborted.model_validate({"time": NOW + 50, **aborted}))
    with pytest.raises(RemoteProtocolError, match="abort §witnesses"):
        play.take(Aborted(time=NOW + 51, reason="witnesses", count=2))
    with pytest.raises(RemoteProtocolError, match="abort §reason"):
        play.take(Aborted(time=NOW + 51, reason="players", count=0))
    play.now = NOW + 51
    assert play.state.cosign_by == NOW + 50
    with pytest.raises(RemoteProtocolError, match="witness §deadline"):
        play.witness()
    assert play.take(Aborted.model_validate({"time": NOW + 51, **aborted})).phase is Phase.PAYING
    play.settle()
    with pytest.raises(RemoteProtocolError, match="final §adapter"):
        play.take(Finished(time=play.now, adapter="0f" * 32))
    final = play.finish()
    assert final.settlement is not None
    assert (final.settlement.refund, final.settlement.refund_reason) == (100_000, "aborted")
    assert not final.awaits_witnesses, "the next round may open without them"
    with pytest.raises(RemoteProtocolError, match="witness §standing"):
        play.witness()


def test_the_end_of_a_round_is_cosigned_once_and_however_late(play: Play) -> None:
    closed(play)
    play.witness()
    for owner in ("ann", "bob", "cy"):
        play.reveal(owner)
    for owner in ("ann", "bob", "cy"):
        play.judge(owner)
    play.evaluate()
    play.value()
    play.settle()
    play.finish()
    play.now += 10**6
    with pytest.raises(RemoteProtocolError, match="witness §quorum"):
        play.witness("ann")
    play.now += 10_000  # the end is later than declared, but never without them
    play.witness()
    with pytest.raises(RemoteProtocolError, match="witness §standing"):
        play.witness()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"quorum": 2}, "not more than half"),
        ({"quorum": 5}, "not more than half"),
        ({"faulty": 2}, "cannot make a quorum"),
        ({"owners": ("ann", "bob", "cy", "zed")}, "zed is no owner"),
        ({"owners": ("bob", "ann", "cy", "dan")}, "sorted"),
        ({"seconds": 101}, "seconds"),
    ],
)
def test_witness_terms_that_make_no_quorum_are_no_terms(
    manifest_of: Manifests, changes: dict[str, Any], problem: str
) -> None:
    terms = {"owners": ("ann", "bob", "cy", "dan"), "faulty": 1, "quorum": 3, "seconds": 50}
    manifest_of("ann", "bob", "cy", "dan", witness=terms)
    with pytest.raises(ValidationError, match=problem):
        manifest_of("ann", "bob", "cy", "dan", witness={**terms, **changes})


def settled(play: Play) -> Play:
    revealed(play)
    for owner in ("ann", "bob", "cy"):
        play.judge(owner)
    play.evaluate()
    play.value()
    play.settle()
    return play


@pytest.fixture
def disputed(manifest_of: Manifests, key_of: Keys, cosigned_head: Heads) -> Play:
    """A round that is settled, with terms under which held-out pairs may be asked for."""
    return settled(Play(manifest_of("ann", "bob", "cy", **DISPUTE), key_of, cosigned_head))


def test_a_round_ends_once_every_pair_that_was_asked_for_is_shown(disputed: Play) -> None:
    disputed.ask("ann", 0, 3)
    with pytest.raises(RemoteProtocolError, match="final §window"):
        disputed.finish()
    disputed.ask("bob", 3)
    disputed.ask("cy")
    for pair in (3, 0):
        with pytest.raises(RemoteProtocolError, match="final §shown"):
            disputed.finish()
        disputed.show(pair)
    final = disputed.finish()
    assert (final.phase, tuple(final.shown)) == (Phase.FINAL, (3, 0))


def test_a_round_ends_without_the_silent_when_the_window_is_over(disputed: Play) -> None:
    disputed.ask("ann", 1)
    disputed.now += 60
    with pytest.raises(RemoteProtocolError, match="final §window"):
        disputed.finish()
    disputed.now += 1
    with pytest.raises(RemoteProtocolError, match="ask §deadline"):
        disputed.ask("bob", 2)
    with pytest.raises(RemoteProtocolError, match="final §shown"):
        disputed.finish()
    disputed.show(1)
    assert disputed.finish().phase is Phase.FINAL


@pytest.mark.parametrize("pairs", [(0, 1, 2), (1, 0), (1, 1), (4,), (0, 4)])
def test_what_the_terms_do_not_let_ask_is_refused(disputed: Play, pairs: tuple[int, ...]) -> None:
    with pytest.raises(RemoteProtocolError, match="ask §pairs"):
        disputed.ask("ann", *pairs)
    disputed.ask("ann", 0)
    with pytest.raises(RemoteProtocolError, match="ask §standing"):
        disputed.ask("ann", 1)
    with pytest.raises(RemoteProtocolError, match="open §owners"):
        disputed.ask("mallory", 1)


def test_a_pair_is_asked_for_once_however_many_may_be(
    manifest_of: Manifests, key_of: Keys, cosigned_head: Heads
) -> None:
    terms = {**DISPUTE, "dispute": {"seconds": 60, "pairs": 3}}
    play = settled(Play(manifest_of("ann", "bob", "cy", **terms), key_of, cosigned_head))
    for pairs in ((0, 0, 1), (0, 1, 1), (0, 2, 1)):
        with pytest.raises(RemoteProtocolError, match="ask §pairs"):
            play.ask("ann", *pairs)
    assert play.ask("ann", 0, 1, 2).questions["ann"] == (0, 1, 2)


@pytest.mark.parametrize(
    "change",
    [
        {"index": 1},
        {"salt": "00" * 32},
        {"pair": HELD_OUT.pairs[1]},
        {"proof": HELD_OUT.open(1).proof},
        {"proof": ()},
    ],
    ids=["another place", "another salt", "another pair", "another proof", "no proof"],
)
def test_a_pair_that_is_not_the_committed_one_is_not_shown(disputed: Play, change: dict[str, Any]) -> None:
    disputed.ask("ann", 0, 1)
    with pytest.raises(RemoteProtocolError, match="show §root"):
        disputed.show(0, **change)
    with pytest.raises(RemoteProtocolError, match="show §asked"):
        disputed.show(2)
    disputed.show(0)
    with pytest.raises(RemoteProtocolError, match="show §asked"):
        disputed.show(0)


@pytest.mark.parametrize(
    ("clusters", "problem"),
    [
        ((0, 1, 1, 2), "one prompt of pairs 0 and 1, counted as two"),
        ((0, 1, 2, 2), "one prompt of pairs 0 and 1, counted as two"),
        ((0, 1, 0, 2), "two prompts of pairs 0 and 2, counted as one"),
        ((0, 0, 1, 2), None),
    ],
)
def test_opened_pairs_have_the_prompts_under_which_they_were_counted(
    manifest_of: Manifests,
    key_of: Keys,
    cosigned_head: Heads,
    clusters: tuple[int, ...],
    problem: str | None,
) -> None:
    """Held-out pairs 0 and 1 have one prompt; 2 and 3 have each its own."""
    play = revealed(Play(manifest_of("ann", "bob", "cy", **DISPUTE), key_of, cosigned_head))
    for owner in ("ann", "bob", "cy"):
        play.judge(owner)
    play.evaluate(clusters=clusters)
    play.value(clusters=clusters)
    play.settle()
    play.ask("ann", 0, 2)
    play.ask("bob", 1)
    play.ask("cy")
    play.show(0)
    last = 2 if problem is None or "two prompts" in problem else 1
    if problem is not None:
        with pytest.raises(RemoteProtocolError, match=f"show §prompt.*{problem}"):
            play.show(last)
        with pytest.raises(RemoteProtocolError, match="final §shown"):
            play.finish()
    else:
        play.show(2)
        play.show(1)
        assert play.finish().phase is Phase.FINAL


def test_without_terms_nobody_asks_and_the_round_ends_at_once(play: Play) -> None:
    assert settled(play).state.ask_by == 0
    with pytest.raises(RemoteProtocolError, match="ask §deadline"):
        play.ask("ann", 0)
    assert play.finish().phase is Phase.FINAL


def test_dispute_terms_are_whole_or_absent(manifest_of: Manifests) -> None:
    for terms in ({"seconds": 60, "pairs": 0}, {"seconds": 0, "pairs": 1}):
        with pytest.raises(ValidationError, match="or neither"):
            manifest_of("ann", "bob", dispute=terms)


def test_intake_cannot_admit_what_the_terms_exclude(play: Play) -> None:
    revealed(play)
    with pytest.raises(RemoteProtocolError, match="intake §norm"):
        play.judge("ann", norm=10.5)
    with pytest.raises(RemoteProtocolError, match="intake §norm"):
        play.judge("ann", norm=None)
    with pytest.raises(RemoteProtocolError, match="intake §copy"):
        play.judge("bob", cosine=0.995)


def test_a_rejection_says_why_and_an_admission_says_nothing(play: Play) -> None:
    revealed(play)
    for accepted, reason in ((True, "a friend"), (False, "")):
        entry = Judged(time=NOW, owner="ann", accepted=accepted, reason=reason, norm=1.0, nearest=None)
        with pytest.raises(RemoteProtocolError, match="intake §reason"):
            play.take(entry)


@pytest.mark.parametrize(
    "change",
    [
        {"players": ("ann", "bob"), "adapters": (adapter_of("ann"), adapter_of("bob"))},
        {"adapters": (adapter_of("bob"), adapter_of("ann"), adapter_of("cy"))},
        {"clusters": (0, 1, 2, 3)},
        {"clusters": (0, 1, 2), "sources": (0, 0, 0)},
        {"scale_bits": 20},
    ],
)
def test_margins_must_be_of_the_admitted_adapters_and_the_declared_pairs(
    play: Play, change: dict[str, Any]
) -> None:
    revealed(play)
    for owner in ("ann", "bob", "cy"):
        play.judge(owner)
    pairs = len(change.get("clusters", (0, 0, 1, 2)))
    header = play.evidence().header.model_copy(update=change)
    evidence = MarginEvidence.from_margins(header, np.ones((len(header.players), pairs)))
    with pytest.raises(RemoteProtocolError, match="evaluate §evidence"):
        play.take(Evaluated(time=NOW, margins=play.put(evidence.encode())))


def test_payments_that_differ_from_the_settlement_by_a_unit_are_refused(play: Play) -> None:
    revealed(play)
    for owner in ("ann", "bob", "cy"):
        play.judge(owner)
    play.evaluate()
    play.value()
    due = play.state.due(NOW)
    assert due is not None
    with pytest.raises(RemoteProtocolError, match="pay §settlement"):
        play.take(due.model_copy(update={"amount": due.amount + 1}))
    with pytest.raises(RemoteProtocolError, match="final §phase"):
        play.finish()


def test_shares_of_other_margins_are_refused(play: Play) -> None:
    revealed(play)
    for owner in ("ann", "bob", "cy"):
        play.judge(owner)
    play.evaluate()
    others = ("00" * 32, "ff" * 32)
    crowds = (("abe", "bob", "cy"), ("ann", "bob", "zoe"))
    for change in (*({"margins": digest} for digest in others), *({"players": crowd} for crowd in crowds)):
        shares = compute_shares(play.evidence(), play.manifest).model_copy(update=change)
        with pytest.raises(RemoteProtocolError, match="value §evidence"):
            play.take(Valued(time=NOW, shares=play.put(shares.encode())))


def test_a_round_below_its_declared_minimum_is_aborted_and_refunded(
    manifest_of: Manifests, key_of: Keys, cosigned_head: Heads
) -> None:
    play = Play(manifest_of("ann", "bob", "cy", min_players=4), key_of, cosigned_head)
    revealed(play)
    play.judge("ann")
    play.judge("bob")
    play.judge("cy", reason="NaN")
    with pytest.raises(RemoteProtocolError, match="evaluate §players"):
        play.evaluate()
    for count in (1, 3):
        with pytest.raises(RemoteProtocolError, match="abort §players"):
            play.take(Aborted(time=NOW, reason="players", count=count))
    play.take(Aborted(time=NOW, reason="players", count=2))
    play.settle()
    final = play.finish()
    assert final.settlement is not None
    assert (final.settlement.refund, final.settlement.refund_reason) == (100_000, "aborted")
    assert {payment.reason for payment in final.settlement.payments} == {"refunded", "rejected"}


def test_a_refund_is_due_behind_the_payments_and_cannot_be_kept(
    manifest_of: Manifests, key_of: Keys, cosigned_head: Heads
) -> None:
    play = Play(manifest_of("ann", "bob", "cy", min_players=4), key_of, cosigned_head)
    revealed(play)
    for owner in ("ann", "bob", "cy"):
        play.judge(owner)
    refund = Refunded(time=NOW, amount=100_000, reason="aborted")
    play.take(Aborted(time=NOW, reason="players", count=3))
    for owner in ("ann", "bob", "cy"):
        with pytest.raises(RemoteProtocolError, match="refund §settlement"):
            play.take(refund)
        play.take(Paid(time=NOW, owner=owner, amount=0, reason="refunded"))
    with pytest.raises(RemoteProtocolError, match="final §phase"):
        play.finish()
    with pytest.raises(RemoteProtocolError, match="refund §settlement"):
        play.take(refund.model_copy(update={"amount": 99_999}))
    assert play.take(refund).phase is Phase.SETTLED
    with pytest.raises(RemoteProtocolError, match="refund §phase"):
        play.take(refund)


def test_a_round_with_enough_players_cannot_be_aborted(play: Play) -> None:
    revealed(play)
    for owner in ("ann", "bob", "cy"):
        play.judge(owner)
    with pytest.raises(RemoteProtocolError, match="abort §players"):
        play.take(Aborted(time=NOW, reason="players", count=3))
    with pytest.raises(RemoteProtocolError, match="abort §reason"):
        play.take(Aborted(time=NOW + 51, reason="witnesses", count=0))


class AnyOrder(RuleBasedStateMachine):
    """Owners and operator act in any order; whatever the machine takes leaves a round that makes sense."""

    owners = st.sampled_from(["ann", "bob", "cy"])
    manifests: Manifests
    keys: Keys
    heads: Heads

    @initialize()
    def begin(self) -> None:
        self.play = Play(self.manifests("ann", "bob", "cy", min_players=2, **DISPUTE), self.keys, self.heads)
        self.play.open()

    def attempt(self, step: Callable[[], Round]) -> None:
        before = self.play.rounds
        try:
            step()
        except PatronageError:
            assert self.play.rounds is before, "a refused entry has no effect"

    @rule(owner=owners, step=st.sampled_from(["accept", "decline", "commit", "reveal", "forfeit", "judge"]))
    def an_owner_acts(self, owner: str, step: str) -> None:
        self.attempt(lambda: getattr(self.play, step)(owner))

    @rule(owner=owners)
    def intake_rejects(self, owner: str) -> None:
        self.attempt(lambda: self.play.judge(owner, reason="norm"))

    @rule(witnesses=st.sets(owners))
    def witnesses_cosign(self, witnesses: set[str]) -> None:
        self.attempt(lambda: self.play.witness(*sorted(witnesses)))

    @rule(owner=owners, pairs=st.sets(st.integers(0, 4), max_size=3))
    def an_owner_asks_for_pairs(self, owner: str, pairs: set[int]) -> None:
        self.attempt(lambda: self.play.ask(owner, *sorted(pairs)))

    @rule(pair=st.integers(0, 3))
    def the_operator_shows_a_pair(self, pair: int) -> None:
        self.attempt(lambda: self.play.show(pair))

    @rule(count=st.integers(0, 3))
    def the_operator_gives_up_waiting_for_witnesses(self, count: int) -> None:
        entry = Aborted(time=self.play.now, reason="witnesses", count=count)
        self.attempt(lambda: self.play.take(entry))

    @rule(step=st.sampled_from(["close", "settle", "finish"]))
    def the_operator_acts(self, step: str) -> None:
        self.attempt(getattr(self.play, step))

    @precondition(lambda self: self.play.state.phase in (Phase.SCORING, Phase.VALUING))
    @rule()
    def the_operator_values(self) -> None:
        if len(self.play.state.players) < 2:
            players = len(self.play.state.players)
            aborted = Aborted(time=self.play.now, reason="players", count=players)
            self.attempt(lambda: self.play.take(aborted))
        else:
            self.attempt(self.play.evaluate)
            self.attempt(self.play.value)

    @rule(seconds=st.integers(0, 120))
    def time_passes(self, seconds: int) -> None:
        self.play.now += seconds

    @invariant()
    def every_player_opened_its_own_commitment(self) -> None:
        state = self.play.state
        for owner in state.players:
            assert state.reveals[owner].adapter == adapter_of(owner)
            assert state.commitments[owner] == self.play.commitment(owner)

    @invariant()
    def nobody_opens_without_a_quorum_behind_the_close(self) -> None:
        state = self.play.state
        if state.reveals:
            assert len(check_quorum(state.witnessed[0], state.manifest)) >= 2
            assert state.aborted != "witnesses"

    @invariant()
    def what_was_asked_for_is_shown_by_the_end_and_nothing_else(self) -> None:
        state = self.play.state
        asked = {pair for pairs in state.questions.values() for pair in pairs}
        assert set(state.shown) <= asked
        if state.phase is Phase.FINAL:
            assert set(state.shown) == asked
            assert state.time > state.ask_by or len(state.questions) == 3

    @invariant()
    def nobody_opens_before_the_close(self) -> None:
        state = self.play.state
        if state.phase in (Phase.OPEN, Phase.CLOSED):
            assert not state.reveals
        if state.phase is Phase.SCORING:
            assert not state.owners(
                Standing.COMMITTED, Standing.REVEALED, Standing.INVITED, Standing.ACCEPTED
            )

    @invariant()
    def a_settled_round_spends_exactly_its_budget_on_all_owners(self) -> None:
        settlement = self.play.state.settlement
        if settlement is not None:
            assert sum(p.amount for p in settlement.payments) + settlement.refund == 100_000
            assert [p.owner for p in settlement.payments] == ["ann", "bob", "cy"]


def test_no_order_of_entries_leads_to_a_round_that_makes_no_sense(
    manifest_of: Manifests, key_of: Keys, cosigned_head: Heads
) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    class Machine(AnyOrder):
        manifests = staticmethod(manifest_of)
        keys = staticmethod(key_of)
        heads = staticmethod(cosigned_head)

    run_state_machine_as_test(Machine, settings=settings(max_examples=60, stateful_step_count=40))
