"""The whole verdict on rounds of every kind, word for word: what an auditor reads, and relies on.

A line that is missing, or said of a round that it is not true of, misleads as much as a number does.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from by_hand import DISPUTE, Play
from played import SLICES, Scenario

from patronage_protocol.canonical import sha256
from patronage_protocol.entries import Aborted, Paid
from patronage_protocol.keys import PrivateKey
from patronage_protocol.ledger.checkpoints import SignedCheckpoint
from patronage_protocol.ledger.published import read_published
from patronage_protocol.manifest import GameTerms, Manifest, StartTerms
from patronage_protocol.rounds import Phase
from patronage_protocol.verify import verify_ledger

Ledgers = Callable[..., Path]
Scenarios = Mapping[str, Scenario]
Manifests = Callable[..., Manifest]
Keys = Callable[[str], PrivateKey]
Heads = Callable[..., SignedCheckpoint]

SECOND = re.compile(r"; by (polynomial|enumeration), within \de-1[0-9]$")
"""What the other method gave, to the last bits of double precision."""

ALONE = "shares, intervals, power by enumeration again, within 0 units of 2**-40"
BOTH = f"{ALONE}; by polynomial, to the last bits"


@dataclass(frozen=True)
class Told:
    """A published ledger read without the verifier, beside the lines of its verdict."""

    entries: tuple[Any, ...]
    lines: tuple[str, ...]

    @classmethod
    def of(cls, folder: Path) -> "Told":
        checks = verify_ledger(folder).checks
        lines = (SECOND.sub(r"; by \1, to the last bits", f"{check.phase}: {check.what}") for check in checks)
        return cls(tuple(map(json.loads, read_published(folder).entries)), tuple(lines))

    def digest(self, kind: str, name: str) -> str:
        """The first digits of the blob, or adapter, that the last entry of a kind names."""
        found = [str(entry[name]) for entry in self.entries if entry["kind"] == kind]
        return found[-1][:16] if found else "none"

    @property
    def paid(self) -> str:
        """The line of the payments, from the payments."""
        amounts = {"pay": 0, "refund": 0}
        for entry in self.entries:
            if entry["kind"] in amounts:
                amounts[entry["kind"]] += int(entry["amount"])
        return (
            f"pay: {amounts['pay']} paid, {amounts['refund']} refunded of 100000 minor units, "
            "recomputed to the unit"
        )

    def whole(self, blobs: int) -> str:
        return (
            f"ledger: {len(self.entries)} entries, {blobs} blobs: tree, tiles and files agree; "
            "checkpoint signed by operator/orchard"
        )

    def opened(self, owners: int, pairs: int, beside: str = "") -> str:
        return (
            f"open: manifest {self.digest('open', 'manifest')} signed by operator; {owners} owners, "
            f"{pairs} held-out pairs{beside}"
        )


def taken_part(accepted: int, declined: int, committed: int) -> tuple[str, str]:
    return (
        f"accept: {accepted} accepted and {declined} declined, each in its own signature",
        f"commit: {committed} commitments, each signed by its owner",
    )


def closed(committed: int, cosigned: str) -> str:
    return f"close: the list of {committed} commitments, before any was opened; cosigned by {cosigned}"


TWO = "ash, birch: 2 of 2, 2 needed"
FOUR = "ash, birch, cedar, dogwood: 4 of 4, 3 needed"


def lines_of_two(told: Told, end: str = "", start: str = "") -> tuple[str, ...]:
    """What is said of a round of the two that ran to its end."""
    return (
        told.opened(2, 16, start),
        *taken_part(2, 0, 2),
        closed(2, TWO),
        "reveal: 2 openings match their commitments, 0 forfeited",
        "intake: 2 admitted within the declared bounds, 0 rejected",
        f"evaluate: margins of 2 players on 16 pairs, {told.digest('evaluate', 'margins')}",
        f"value: {BOTH}",
        told.paid,
        f"final: consortium adapter {told.digest('final', 'adapter')}{end}",
    )


@pytest.fixture
def two(scenarios: Scenarios) -> Scenario:
    """A round of two owners on sixteen pairs."""
    healthy = scenarios["healthy"]
    return replace(healthy, owners={name: healthy.owners[name] for name in ("ash", "birch")}, pairs=16)


def test_a_round_that_ended_under_a_quorum(two: Scenario, ledger_of: Ledgers) -> None:
    told = Told.of(ledger_of(two))
    assert told.lines == (
        told.whole(blobs=3),
        *lines_of_two(told),
        f"witness: the end cosigned by {TWO}",
    )


def test_a_round_with_one_that_declined_one_that_was_silent_and_a_copy(
    scenarios: Scenarios, ledger_of: Ledgers
) -> None:
    told = Told.of(ledger_of(replace(scenarios["healthy"], pairs=16)))
    everybody = "ash, birch, cedar, dogwood, elm, fir, gum: 7 of 7, 5 needed"
    assert told.lines == (
        told.whole(blobs=3),
        told.opened(7, 16),
        *taken_part(6, 1, 5),
        closed(5, everybody),
        "reveal: 5 openings match their commitments, 1 forfeited",
        "intake: 4 admitted within the declared bounds, 1 rejected",
        f"evaluate: margins of 4 players on 16 pairs, {told.digest('evaluate', 'margins')}",
        f"value: {BOTH}",
        told.paid,
        f"final: consortium adapter {told.digest('final', 'adapter')}",
        f"witness: the end cosigned by {everybody}",
    )


LINES_BY_PHASE = {
    Phase.OPEN: 3,
    Phase.CLOSED: 4,
    Phase.REVEALING: 5,
    Phase.INTAKE: 5,
    Phase.SCORING: 6,
    Phase.VALUING: 7,
    Phase.PAYING: 9,
    Phase.SETTLED: 9,
}
"""How many phases have something to say where a round stops."""


@pytest.mark.parametrize("until", LINES_BY_PHASE)
def test_of_a_round_that_stopped_the_verdict_tells_what_happened_and_that_it_is_not_finished(
    until: Phase, two: Scenario, ledger_of: Ledgers
) -> None:
    told = Told.of(ledger_of(replace(two, until=until)))
    taking_part = taken_part(0, 0, 0) if until is Phase.OPEN else taken_part(2, 0, 2)
    close = closed(2, TWO).partition(";")[0] if until is Phase.CLOSED else closed(2, TWO)
    revealed = 0 if until is Phase.REVEALING else 2
    valued = until in (Phase.PAYING, Phase.SETTLED)
    by_phase = (
        told.opened(2, 16),
        *taking_part,
        close,
        f"reveal: {revealed} openings match their commitments, 0 forfeited",
        "intake: 2 admitted within the declared bounds, 0 rejected",
        f"evaluate: margins of 2 players on 16 pairs, {told.digest('evaluate', 'margins')}",
        f"value: {BOTH}",
        told.paid,
    )
    assert told.lines == (
        told.whole(blobs=3 if valued else 2 if until is Phase.VALUING else 1),
        *by_phase[: LINES_BY_PHASE[until]],
        f"{until.value}: the round is not finished",
    )
    assert told.paid.startswith(f"pay: {100_000 if until is Phase.SETTLED else 0} paid, 0 refunded")


def test_two_rounds_of_which_the_second_starts_from_the_adapter_that_the_first_one_left(
    two: Scenario, ledger_of: Ledgers
) -> None:
    adapter = sha256(b"the consortium's adapter")
    start = StartTerms(round=1, adapter=adapter, rank=4, alpha=8.0)
    told = Told.of(ledger_of(two, replace(two, changes={"start": start})))
    again = max(number for number, entry in enumerate(told.entries) if entry["kind"] == "open")
    first, second = Told(told.entries[:again], ()), Told(told.entries[again:], ())
    blobs = 4  # two manifests, and the second round's margins and shares are those of the first
    assert told.lines == (
        told.whole(blobs),
        *lines_of_two(first, f"; cosigned by {TWO}"),
        *lines_of_two(second, "", f"; starts from the adapter {adapter[:16]} of round 1"),
        f"witness: the end cosigned by {TWO}",
    )


def test_a_round_that_paid_nobody(scenarios: Scenarios, ledger_of: Ledgers) -> None:
    told = Told.of(ledger_of(scenarios["underpowered"]))
    assert told.lines[-3:] == (
        "pay: 0 paid, 100000 refunded of 100000 minor units, recomputed to the unit",
        f"final: consortium adapter {told.digest('final', 'adapter')}",
        f"witness: the end cosigned by {FOUR}",
    )


def test_a_round_that_too_few_players_were_left_in(scenarios: Scenarios, ledger_of: Ledgers) -> None:
    told = Told.of(ledger_of(scenarios["aborted"]))
    three = "ash, elm, fir: 3 of 3, 2 needed"
    assert told.lines == (
        told.whole(blobs=1),
        told.opened(3, 240),
        *taken_part(2, 1, 2),
        closed(2, three),
        "reveal: 2 openings match their commitments, 0 forfeited",
        "intake: 1 admitted within the declared bounds, 1 rejected",
        "pay: 0 paid, 100000 refunded of 100000 minor units, recomputed to the unit",
        "final: no adapter",
        f"witness: the end cosigned by {three}",
    )


@pytest.fixture
def play(manifest_of: Manifests, key_of: Keys, cosigned_head: Heads) -> Play:
    """A round that is closed, under terms by which pairs may be asked for; three owners have committed."""
    play = Play(manifest_of(*THREE, **DISPUTE), key_of, cosigned_head)
    play.open()
    for owner in THREE:
        play.accept(owner)
        play.commit(owner)
    play.close()
    return play


THREE = ("ann", "bob", "cy")


def test_a_round_that_no_quorum_of_witnesses_stood_behind(play: Play, published: Callable[..., Path]) -> None:
    play.now += play.manifest.witness.seconds + 1
    play.take(Aborted(time=play.now, reason="witnesses", count=1))
    play.settle()
    play.finish()
    told = Told.of(published(play))
    assert told.lines == (
        told.whole(blobs=1),
        told.opened(3, 4),
        *taken_part(3, 0, 3),
        "close: the list of 3 commitments, before any was opened",
        "pay: 0 paid, 100000 refunded of 100000 minor units, recomputed to the unit",
        "final: no adapter; aborted for want of witnesses, so no quorum stands behind its end",
    )


def test_a_refund_that_is_due_is_not_said_to_be_made(play: Play, published: Callable[..., Path]) -> None:
    play.now += play.manifest.witness.seconds + 1
    play.take(Aborted(time=play.now, reason="witnesses", count=1))
    while isinstance(due := play.state.due(play.now), Paid):
        play.take(due)
    assert Told.of(published(play)).lines[-2:] == (
        "pay: 0 paid, 0 refunded of 100000 minor units, recomputed to the unit",
        "paying: the round is not finished",
    )


def test_a_round_in_which_one_was_silent_at_the_end_and_others_asked(
    play: Play, published: Callable[..., Path]
) -> None:
    play.witness("ann", "cy")
    for owner in ("ann", "bob"):
        play.reveal(owner)
    play.now = play.manifest.deadlines.reveal + 1
    play.forfeit("cy")
    for owner in ("ann", "bob"):
        play.judge(owner)
    play.evaluate()
    play.value()
    play.settle()
    play.ask("ann", 0, 3)
    play.ask("cy", 3)
    play.ask("bob")
    for pair in (3, 0):
        play.show(pair)
    play.finish()
    play.witness("bob", "cy")
    told = Told.of(published(play))
    assert told.lines == (
        told.whole(blobs=5),
        told.opened(3, 4),
        *taken_part(3, 0, 3),
        closed(3, "ann, cy: 2 of 3, 2 needed"),
        "reveal: 2 openings match their commitments, 1 forfeited",
        "intake: 2 admitted within the declared bounds, 0 rejected",
        f"evaluate: margins of 2 players on 4 pairs, {told.digest('evaluate', 'margins')}",
        f"value: {BOTH}",
        told.paid,
        f"dispute: 3 owners asked; 2 held-out pairs opened, {PLACES}",
        f"final: consortium adapter {told.digest('final', 'adapter')}; cosigned by bob, cy: 2 of 3, 2 needed",
    )


PLACES = "in their places, with the prompts that they were counted under"


def test_slices_of_owners_and_who_was_not_scored_on_them(scenarios: Scenarios, ledger_of: Ledgers) -> None:
    told = Told.of(ledger_of(scenarios["slices"]))
    ash, dogwood = SLICES.of
    pairs = scenarios["slices"].pairs
    assert told.opened(4, pairs, ", of which owners contributed: ash 40, dogwood 20") in told.lines
    own = ", ".join(f"{part.owner} on {pairs - part.pairs} of {pairs} pairs" for part in (ash, dogwood))
    line = f"value: {ALONE}; nobody was scored on its own slice: {own}; by polynomial, to the last bits"
    assert line in told.lines


def test_margins_of_merged_adapters(two: Scenario, ledger_of: Ledgers) -> None:
    merged = GameTerms(composition="merged", utility="sigmoid", scale_bits=16)
    told = Told.of(ledger_of(replace(two, changes={"game": merged})))
    digest = told.digest("evaluate", "margins")
    assert f"evaluate: margins of all 3 coalitions of 2 players on 16 pairs, {digest}" in told.lines
    assert f"value: {ALONE}; no second method serves margins that do not add up" in told.lines


def test_pools_of_candidates(scenarios: Scenarios, ledger_of: Ledgers) -> None:
    folder = ledger_of(replace(scenarios["rewards"], pairs=16))
    told = Told.of(folder)
    shares = verify_ledger(folder).rounds[0].shares
    assert shares is not None
    assert shares.pool is not None
    digest = told.digest("evaluate", "margins")
    evaluated = "8 pools of 8 candidates, log-ratios of 4 players and rewards for helpful, harmless"
    assert f"evaluate: {evaluated}, {digest}" in told.lines
    least = f"{shares.pool.effective / 2**40:.1f} effective candidates"
    assert f"value: {ALONE}; at least {least}, fewest for {' + '.join(shares.pool.weakest)}" in told.lines
