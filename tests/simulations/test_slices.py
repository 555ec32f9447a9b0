"""Rounds in which owners contribute held-out pairs, with the real code of both sides."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from patronage_client.explain import explain
from patronage_protocol.canonical import sha256
from patronage_protocol.evidence import MarginEvidence
from patronage_protocol.held_out import HeldOutOpening
from patronage_protocol.ledger.published import read_published
from patronage_protocol.manifest import DisputeTerms
from patronage_protocol.preferences import PreferencePair
from patronage_protocol.rounds import Round
from patronage_protocol.shares import compute_shares
from patronage_protocol.slices import Contribution
from patronage_protocol.verify import Verdict, verify_ledger
from patronage_server.report import read_report, render
from patronage_server.terms import RoundTerms, SliceChoice
from patronage_simulations.consortium import Consortium
from patronage_simulations.engines import run_local
from patronage_simulations.plans import Computing, plan_of_scenario
from patronage_simulations.progress import Progress
from patronage_simulations.scenarios import generate, load_scenario
from patronage_simulations.simulate import simulate

Trained = Callable[..., Consortium]


def pairs(who: str, number: int) -> tuple[PreferencePair, ...]:
    return tuple(
        PreferencePair(prompt=f"{who}'s {j}", chosen=f"yes {j}", rejected=f"no {j}", source="s0")
        for j in range(number)
    )


@pytest.fixture
def sliced(trained: Trained, terms: RoundTerms) -> Consortium:
    """Six pairs of the operator, two of ann and two of cy; every pair may be asked for."""
    changed = terms.model_copy(
        update={
            "slices": SliceChoice(most_percent=20),
            "dispute": DisputeTerms(seconds=600, pairs=10),
        }
    )
    slices = {"cy": pairs("cy", 2), "ann": pairs("ann", 2)}
    return trained({"ann": 1, "bob": 2, "cy": 3}, terms=changed, slices=slices)


def run(consortium: Consortium) -> Round:
    run_local(consortium, lambda _entry, _state: None)
    return verify_ledger(consortium.ledger).rounds[-1]


def openings(consortium: Consortium, state: Round) -> Iterator[HeldOutOpening]:
    blobs = read_published(consortium.ledger).blobs
    for data in blobs.values():
        if data.startswith(b'{"index":'):
            yield HeldOutOpening.decode(data)
    assert len(state.shown) == state.manifest.held_out_pairs


def test_contributed_pairs_are_scored_opened_and_verified(sliced: Consortium) -> None:
    final = run(sliced)
    assert [(part.owner, part.pairs) for part in final.manifest.slices.of] == [("ann", 2), ("cy", 2)]
    shown = {opening.index: opening.pair.prompt for opening in openings(sliced, final)}
    assert [shown[index] for index in range(6, 10)] == ["ann's 0", "ann's 1", "cy's 0", "cy's 1"]
    told = " ".join(explain(final.manifest))
    assert "Of these owners contributed: ann 2, cy 2; no owner is scored on its own." in told
    page = render(read_report(sliced.ledger)).decode()
    assert "Who was not scored on what" in page
    assert "owners contributed: ann 2, cy 2, and are not scored on their own" in page


@pytest.mark.parametrize("what", ["another", "none"])
def test_an_owner_declines_terms_that_ascribe_a_slice_to_it_that_it_did_not_make(
    sliced: Consortium, what: str
) -> None:
    home = sliced.folder / "owners" / "cy"
    (home / "slice.json").unlink()
    if what == "another":
        (home / "slice.json").write_bytes((sliced.folder / "owners" / "ann" / "slice.json").read_bytes())
    final = run(sliced)
    assert final.standing["cy"].value == "declined"
    assert final.players == ("ann", "bob")


def shares_without_slices(verdict: Verdict) -> dict[str, int]:
    """What the shares would be if all pairs were the operator's."""
    state = verdict.rounds[0]
    assert state.margins is not None
    evidence = MarginEvidence.decode(verdict.ledger.blobs[state.margins])
    pooled = MarginEvidence(evidence.header.model_copy(update={"slices": ()}), evidence.values)
    found = compute_shares(pooled, state.manifest)
    return dict(zip(found.players, found.shares, strict=True))


def test_owners_that_bring_pairs_like_their_own_earn_less_than_if_these_were_common(tmp_path: Path) -> None:
    """The preset as it is shipped: two owners with a skill each, and pairs of that skill in their slices."""
    scenario = load_scenario("tiny-slices")
    plan = plan_of_scenario(scenario, Computing(precision="float32", threads=1))
    simulate(plan, tmp_path / "run", engine="local", progress=Progress())
    verdict = verify_ledger(tmp_path / "run" / "ledger")
    published = verdict.rounds[0].shares
    assert published is not None
    shares = dict(zip(published.players, published.shares, strict=True))
    pooled = shares_without_slices(verdict)
    for owner in ("polite", "secret"):
        assert shares[owner] < 0.75 * pooled[owner]
    assert shares["both"] == pooled["both"]


def test_a_scenario_has_slices_apart_from_all_else_and_labelled_as_their_owner_labels() -> None:
    scenario = load_scenario("tiny-slices")
    flipped = scenario.owners[0].model_copy(update={"quality": "flipped", "fraction": 1.0})
    worse = scenario.model_copy(update={"owners": (flipped, *scenario.owners[1:])})
    made, other = generate(scenario), generate(worse)
    prompts = [pair.prompt_digest for part in (made.held_out, *made.slices.values()) for pair in part]
    assert len(set(prompts)) == len(prompts) == 64 + 24 + 24
    assert not {pair.prompt_digest for own in made.owners.values() for pair in own} & set(prompts)
    assert {pair.source for pair in made.slices["polite"]} == {"politeness"}
    for right, wrong in zip(made.slices["polite"], other.slices["polite"], strict=True):
        assert (right.chosen, right.rejected) == (wrong.rejected, wrong.chosen)


def test_the_same_seed_makes_the_same_slices(sliced: Consortium) -> None:
    kept = [home / "slice.json" for home in sliced.owners if (home / "slice.json").exists()]
    digests = [sha256(path.read_bytes()) for path in kept]
    taken = [sha256((sliced.operator / "slices" / f"{name}.json").read_bytes()) for name in ("ann", "cy")]
    assert digests == taken
    root = Contribution.draw_up("ann", pairs("ann", 2), b"\0" * 32).root
    assert root != sliced.manifest.slices.of[0].root
