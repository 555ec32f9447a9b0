"""Held-out pairs that owners contribute: committed, checked on arrival, and not held for or against them."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from patronage_protocol.canonical import canonical_bytes
from patronage_protocol.cli import application
from patronage_protocol.envelopes import seal
from patronage_protocol.errors import (
    DataError,
    FormatError,
    RemoteProtocolError,
    UsageError,
    VerificationError,
)
from patronage_protocol.evidence import (
    CoalitionEvidence,
    EvidenceHeader,
    MarginEvidence,
    SliceColumns,
    slice_columns,
)
from patronage_protocol.held_out import HeldOutSet, HeldOutSets, check_opening
from patronage_protocol.keys import PrivateKey
from patronage_protocol.manifest import (
    GameTerms,
    HeldOutTerms,
    Manifest,
    PayoutTerms,
    SlicesTerms,
)
from patronage_protocol.payout import settle
from patronage_protocol.preferences import ChatMessage, PreferencePair
from patronage_protocol.shares import check_shares, compute_shares
from patronage_protocol.slices import Contribution, check_apart
from patronage_protocol.verify import not_known, verify_ledger

Manifests = Callable[..., Manifest]
Keys = Callable[[str], PrivateKey]

OWN, ANN, CY = b"o" * 32, b"a" * 32, b"c" * 32


def pairs(who: str, number: int) -> tuple[PreferencePair, ...]:
    return tuple(PreferencePair(prompt=f"{who} {j}", chosen="yes", rejected=f"no {j}") for j in range(number))


@pytest.fixture
def sets() -> HeldOutSets:
    return HeldOutSets(
        HeldOutSet(pairs("operator", 5), OWN),
        {"cy": HeldOutSet(pairs("cy", 2), CY), "ann": HeldOutSet(pairs("ann", 3), ANN)},
    )


@pytest.fixture
def manifest(sets: HeldOutSets, manifest_of: Manifests) -> Manifest:
    slices = SlicesTerms(most_percent=30, of=sets.slices)
    return manifest_of("ann", "bob", "cy", held_out=sets.commitment, slices=slices)


@pytest.fixture
def header(manifest: Manifest) -> EvidenceHeader:
    return EvidenceHeader(
        players=("ann", "bob", "cy"),
        adapters=("0a" * 32, "0b" * 32, "0c" * 32),
        clusters=tuple(range(10)),
        sources=(0,) * 10,
        labels=("all",),
        slices=slice_columns(manifest),
        scale_bits=16,
    )


@pytest.fixture
def margins() -> np.ndarray:
    return np.random.default_rng(4).normal(0.3, 1.0, size=(3, 10))


def test_pairs_are_numbered_through_and_opened_under_the_root_of_their_own_set(
    sets: HeldOutSets, manifest: Manifest
) -> None:
    assert [part.owner for part in sets.slices] == ["ann", "cy"]
    assert sets.pairs == (*pairs("operator", 5), *pairs("ann", 3), *pairs("cy", 2))
    assert (manifest.held_out_pairs, len(manifest.held_out_sets)) == (10, 3)
    for index, pair in enumerate(sets.pairs):
        opening = sets.open(index)
        assert (opening.index, opening.pair) == (index, pair)
        check_opening(opening, *manifest.held_out_sets)
        for other in range(11):
            if other != index:
                with pytest.raises(VerificationError):
                    check_opening(opening.model_copy(update={"index": other}), *manifest.held_out_sets)
    with pytest.raises(UsageError, match="index"):
        sets.open(10)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"most_percent": 29}, "slice of ann is 3 of 10 held-out pairs.*29 %"),
        ({"most_percent": 0}, "most_percent"),
        ({"most_percent": 51}, "less than or equal to 50"),
        ({"of": "zed"}, "slice of zed, which is no owner"),
        ({"of": "twice"}, "distinct owners in sorted order"),
    ],
)
def test_slices_beyond_what_the_terms_allow_are_no_terms(
    manifest: Manifest, manifest_of: Manifests, change: dict[str, Any], problem: str
) -> None:
    fields = {**dict(manifest.slices), **change}
    ann, cy = manifest.slices.of
    if fields["of"] == "zed":
        fields["of"] = (ann, cy.model_copy(update={"owner": "zed"}))
    if fields["of"] == "twice":
        fields["of"] = (ann, ann)
    with pytest.raises(ValidationError, match=problem):
        manifest_of("ann", "bob", "cy", held_out=manifest.held_out, slices=fields)


def test_slices_need_prompts_of_the_operator_and_a_game_on_margins(
    manifest: Manifest, manifest_of: Manifests, scenarios: Mapping[str, Any]
) -> None:
    lonely = manifest.held_out.model_copy(update={"prompts": 1})
    with pytest.raises(ValidationError, match="two prompts of the operator's own"):
        manifest_of("ann", "bob", "cy", held_out=lonely, slices=manifest.slices)
    rewards = scenarios["rewards"].changes["game"]
    with pytest.raises(ValidationError, match="do not go with the utility reward"):
        manifest_of("ann", "bob", "cy", held_out=manifest.held_out, slices=manifest.slices, game=rewards)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"clusters": (0, 1, 2, 3, 4, 4, 5, 6, 7, 8)}, "share no prompt"),
        ({"clusters": (0, 1, 2, 3, 4, 5, 6, 7, 0, 8)}, "share no prompt"),
        ({"slices": [("ann", 5, 3)]}, "at the end"),
        ({"slices": [("ann", 5, 3), ("cy", 7, 2)]}, "at the end"),
        ({"slices": [("cy", 5, 3), ("ann", 8, 2)]}, "sorted order"),
        ({"slices": [("ann", 5, 3), ("ann", 8, 2)]}, "distinct"),
        ({"slices": [("ann", 0, 10)]}, "at the end"),
        ({"slices": [("ann", 8, 3)]}, "at the end"),
    ],
)
def test_evidence_with_other_slices_than_its_pairs_have_is_refused(
    header: EvidenceHeader, margins: np.ndarray, change: dict[str, Any], problem: str
) -> None:
    if "slices" in change:
        columns = [SliceColumns(owner=o, first=f, pairs=p) for o, f, p in change["slices"]]
        change = {"slices": tuple(columns)}
    MarginEvidence.from_margins(header, margins)
    with pytest.raises(FormatError, match=problem):
        MarginEvidence.from_margins(header.model_copy(update=change), margins)


@pytest.mark.parametrize("utility", ["sigmoid", "log_sigmoid", "win"])
@pytest.mark.parametrize("composition", ["sum", "merged"])
def test_the_published_shares_are_each_from_the_pairs_that_the_owner_is_scored_on(
    manifest: Manifest, header: EvidenceHeader, margins: np.ndarray, utility: str, composition: str
) -> None:
    """Cut the columns out by hand and value what is left without any slices."""
    game = GameTerms(composition=composition, utility=utility, scale_bits=16)  # type: ignore[arg-type]
    terms = manifest.model_copy(update={"game": game})
    kind: Any = MarginEvidence
    if composition == "merged":
        kind = CoalitionEvidence
        members = (np.arange(1, 8)[:, None] >> np.arange(3)) & 1
        margins = np.tanh(members @ margins)
    published = compute_shares(kind.from_margins(header, margins), terms)
    kept = {"ann": [0, 1, 2, 3, 4, 8, 9], "bob": list(range(10)), "cy": list(range(8))}
    for place, (owner, columns) in enumerate(kept.items()):
        part = header.model_copy(
            update={"clusters": tuple(range(len(columns))), "sources": (0,) * len(columns), "slices": ()}
        )
        alone = compute_shares(kind.from_margins(part, margins[:, columns]), terms)
        for name in ("shares", "lower", "upper", "detectable"):
            ours, theirs = getattr(published, name)[place], getattr(alone, name)[place]
            assert abs(ours - theirs) <= 2, (owner, name)
    whole = kind.from_margins(header.model_copy(update={"slices": ()}), margins)
    assert published.grand == compute_shares(whole, terms).grand
    assert abs(sum(published.shares) - published.grand) > 2**20
    assert published.gap <= 2


@pytest.mark.parametrize(
    "policy",
    [{"policy": "gated"}, {"policy": "clipped"}, {"policy": "signed", "bond": 500}]
    + [{"policy": "per_unit", "unit_price": price} for price in (10, 10**9)],
)
def test_payments_and_refund_are_the_budget_to_the_unit_though_shares_do_not_add_up(
    manifest: Manifest,
    header: EvidenceHeader,
    margins: np.ndarray,
    payout_terms: Callable[..., PayoutTerms],
    policy: dict[str, Any],
) -> None:
    skilled = margins + np.array([[2.0], [1.0], [-0.5]])
    shares = compute_shares(MarginEvidence.from_margins(header, skilled), manifest)
    terms = payout_terms(**policy, max_detectable_percent=10**6)
    settlement = settle(terms, shares, seed=manifest.seed, excluded={})
    assert any(payment.amount for payment in settlement.payments)
    assert sum(payment.amount for payment in settlement.payments) + settlement.refund == terms.budget


def test_by_unit_of_utility_a_payment_does_not_depend_on_the_own_slice(
    manifest: Manifest, header: EvidenceHeader, margins: np.ndarray, payout_terms: Callable[..., PayoutTerms]
) -> None:
    terms = payout_terms(policy="per_unit", unit_price=10_000, max_detectable_percent=10**6)
    paid = []
    for own in (-3.0, 3.0):
        changed = margins + np.array([[2.0], [1.0], [1.0]])
        changed[1:, 5:8] = own
        shares = compute_shares(MarginEvidence.from_margins(header, changed), manifest)
        settlement = settle(terms, shares, seed=manifest.seed, excluded={})
        paid.append({payment.owner: payment.amount for payment in settlement.payments})
    assert paid[0]["ann"] == paid[1]["ann"] > 0
    assert paid[0]["bob"] < paid[1]["bob"]


def test_an_owner_without_effect_elsewhere_is_paid_nothing_for_its_own_slice(
    manifest: Manifest, header: EvidenceHeader, margins: np.ndarray, payout_terms: Callable[..., PayoutTerms]
) -> None:
    useless = np.abs(margins)
    useless[0] = 0.0
    useless[0, 5:8] = 3.0
    shares = compute_shares(MarginEvidence.from_margins(header, useless), manifest)
    assert (shares.shares[0], shares.lower[0], shares.upper[0]) == (0, 0, 0)
    settlement = settle(payout_terms(max_detectable_percent=10**6), shares, seed=manifest.seed, excluded={})
    assert {payment.owner: payment.amount for payment in settlement.payments}["ann"] == 0


def test_a_ledger_with_slices_verifies_and_says_who_was_not_scored_on_what(
    ledger_of: Callable[..., Path], scenarios: Mapping[str, Any]
) -> None:
    folder = ledger_of(scenarios["slices"])
    said = {check.phase: check.what for check in verify_ledger(folder).checks}
    assert "240 held-out pairs, of which owners contributed: ash 40, dogwood 20" in said["open"]
    assert "nobody was scored on its own slice: ash on 200 of 240 pairs, dogwood on 220 of" in said["value"]
    assert "by polynomial" in said["value"]
    told = CliRunner().invoke(application(), ["verify", str(folder), "--json"])
    assert '"not_scored_on_own":{"ash":40,"dogwood":20}' in told.stdout.replace(" ", "").replace("\n", "")


def test_what_no_ledger_can_show_is_said_of_the_game_that_was_played(
    manifest: Manifest, manifest_of: Manifests, scenarios: Mapping[str, Any]
) -> None:
    plain, rewards = manifest_of("ann", "bob"), manifest_of("ann", "bob", **scenarios["rewards"].changes)

    def said(*manifests: Manifest) -> str:
        return "; ".join(not_known(manifests))

    assert ("margins" in said(plain), "candidates" in said(plain), "slices" in said(plain)) == (1, 0, 0)
    assert ("margins" in said(rewards), "candidates" in said(rewards)) == (0, 1)
    assert ("margins" in said(plain, rewards), "candidates" in said(plain, rewards)) == (1, 1)
    assert "slices that owners contributed are fair to the others" in said(rewards, manifest)
    assert "margins or rewards were measured as the terms declare" in said()
    assert {line for line in said().split("; ") if "measured" not in line} < set(said(plain).split("; "))


def test_shares_that_count_an_owners_own_slice_do_not_verify(
    ledger_of: Callable[..., Path], scenarios: Mapping[str, Any]
) -> None:
    """What an operator would publish that scored everybody on everything."""
    verdict = verify_ledger(ledger_of(scenarios["slices"]))
    state, blobs = verdict.rounds[0], verdict.ledger.blobs
    assert state.margins is not None
    assert state.shares is not None
    evidence = MarginEvidence.decode(blobs[state.margins])
    pooled = replace(evidence, header=evidence.header.model_copy(update={"slices": ()}))
    wrong = compute_shares(pooled, state.manifest)
    with pytest.raises(VerificationError, match="shares of ash"):
        check_shares(wrong, compute_shares(evidence, state.manifest))


@pytest.mark.parametrize(
    "slices",
    [
        (),
        (("ash", 180, 60),),
        (("ash", 180, 20), ("dogwood", 200, 40)),
        (("ash", 180, 40), ("birch", 220, 20)),
    ],
)
def test_evidence_must_have_the_slices_of_the_terms(
    ledger_of: Callable[..., Path],
    scenarios: Mapping[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    slices: tuple[tuple[str, int, int], ...],
) -> None:
    columns = tuple(SliceColumns(owner=o, first=f, pairs=p) for o, f, p in slices)
    monkeypatch.setattr("played.slice_columns", lambda _: columns)
    with pytest.raises(RemoteProtocolError, match="evaluate §evidence: expected evidence with slices"):
        ledger_of(scenarios["slices"])


def test_every_slice_has_the_prompts_that_its_owner_committed_to(
    ledger_of: Callable[..., Path], scenarios: Mapping[str, Any]
) -> None:
    scenario = scenarios["slices"]
    ash, dogwood = scenario.changes["slices"].of
    moved = SlicesTerms(
        most_percent=25,
        of=(ash.model_copy(update={"prompts": 19}), dogwood.model_copy(update={"prompts": 11})),
    )
    wrong = replace(scenario, changes={**scenario.changes, "slices": moved})
    with pytest.raises(RemoteProtocolError, match="prompts of the slice of ash 19, got 20"):
        ledger_of(wrong)


def test_a_contribution_is_signed_and_leads_to_its_root(key_of: Keys) -> None:
    made = Contribution.draw_up("ann", pairs("ann", 3))
    assert made.secret != Contribution.draw_up("ann", pairs("ann", 3)).secret
    envelope = made.seal(key_of("ann"))
    assert Contribution.claimed(envelope) == made
    made.require_signer(envelope, key_of("ann").public)
    assert made.held_out.commitment == HeldOutTerms(root=made.root, pairs=3, prompts=3)
    with pytest.raises(VerificationError, match="signed by"):
        made.require_signer(envelope, key_of("bob").public)


@pytest.mark.parametrize("change", [{"pairs": pairs("bob", 3)}, {"secret": "00" * 32}, {"root": "00" * 32}])
def test_a_contribution_of_other_pairs_than_were_committed_to_is_refused(
    key_of: Keys, change: dict[str, Any]
) -> None:
    made = Contribution.draw_up("ann", pairs("ann", 3)).model_copy(update=change)
    with pytest.raises(VerificationError, match="pairs of ann with the root"):
        Contribution.claimed(made.seal(key_of("ann")))


def test_another_file_is_no_contribution(key_of: Keys) -> None:
    with pytest.raises(DataError, match=r"slice\.json"):
        Contribution.claimed(seal("text/plain", b"{}", key_of("ann")))
    empty = {"protocol": 1, "owner": "ann", "root": "00" * 32, "secret": "00" * 32, "pairs": []}
    kind = Contribution.draw_up("ann", pairs("ann", 1)).seal(key_of("ann")).payloadType
    with pytest.raises(FormatError, match="pairs"):
        Contribution.claimed(seal(kind, canonical_bytes(empty), key_of("ann")))


def chat(role: str, said: str) -> PreferencePair:
    turn = (ChatMessage(role=role, content=said),)
    answers = [(ChatMessage(role="assistant", content=text),) for text in ("yes", "no")]
    return PreferencePair(prompt=turn, chosen=answers[0], rejected=answers[1])


@pytest.mark.parametrize("prompt", ["Operator 2", "operator   2.", "OPERATOR\n2!?"])
def test_a_prompt_that_is_held_out_already_is_refused_however_it_is_spelled(prompt: str) -> None:
    mine = (*pairs("ann", 2), PreferencePair(prompt=prompt, chosen="a", rejected="b"))
    with pytest.raises(DataError, match="1 pairs with prompts of the operator, the first of them pair 3"):
        check_apart("ann", mine, {"cy": pairs("cy", 3), "the operator": pairs("operator", 3)})
    check_apart("ann", pairs("ann", 3), {"the operator": pairs("operator", 3)})


def test_one_prompt_in_two_spellings_would_count_twice() -> None:
    several = PreferencePair(prompt="ann 0", chosen="another", rejected="answer")
    check_apart("ann", (*pairs("ann", 2), several), {})
    with pytest.raises(DataError, match="pair 3 with a prompt of an earlier pair in another spelling"):
        check_apart("ann", (*pairs("ann", 2), PreferencePair(prompt="Ann: 0", chosen="a", rejected="b")), {})


def test_who_says_it_and_signs_without_words_tell_prompts_apart() -> None:
    check_apart("ann", (chat("user", "Go"), chat("system", "Go"), chat("user", "+"), chat("user", "-")), {})
    with pytest.raises(DataError, match="pair 2"):
        check_apart("ann", (chat("user", "Go"), chat("user", "go.")), {})
