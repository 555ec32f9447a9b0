"""A round whose coalitions are merged in weight space, from terms to report, verified as published."""

from collections.abc import Callable

import numpy as np

from patronage_protocol.adapters import decode
from patronage_protocol.evidence import CoalitionEvidence, read_evidence
from patronage_protocol.fixed_point import to_float
from patronage_protocol.manifest import GameTerms
from patronage_protocol.pair_files import read_pairs
from patronage_protocol.policy import shared_base_model, tokenize_pairs
from patronage_protocol.verify import verify_ledger
from patronage_server.composition import AdapterSet, WeightArithmetic
from patronage_server.report import read_report, save
from patronage_server.terms import RoundTerms
from patronage_simulations.consortium import Consortium
from patronage_simulations.engines import run_local


def test_a_merged_round_pays_by_models_that_were_really_composed(
    trained: Callable[..., Consortium], terms: RoundTerms
) -> None:
    game = GameTerms(composition="merged", utility="sigmoid", scale_bits=20)
    consortium = trained({"ann": 1, "bob": 2, "cyd": 3}, terms=terms.model_copy(update={"game": game}))
    run_local(consortium, lambda *_: None)
    verdict = verify_ledger(consortium.ledger)
    state = verdict.rounds[-1]
    words = {check.phase: check.what for check in verdict.checks}
    assert words["evaluate"].startswith("margins of all 7 coalitions of 3 players on 6 pairs")
    assert "no second method" in words["value"]
    evidence = read_evidence(verdict.ledger.blobs[state.margins], state.manifest)
    assert isinstance(evidence, CoalitionEvidence)

    manifest, home = state.manifest, consortium.folder / "operator"
    base = shared_base_model("tiny", precision="float32")
    adapters = {
        owner: decode(
            (home / "adapters" / f"{owner}.safetensors").read_bytes(), manifest.lora, max_bytes=2**24
        )
        for owner in state.players
    }
    pairs = tokenize_pairs(
        base, read_pairs(home / "held-out.jsonl").pairs, max_length=manifest.dpo.max_length
    )
    model = WeightArithmetic(AdapterSet(base, manifest.lora, adapters)).coalition(
        np.array([True, False, True])
    )
    np.testing.assert_allclose(evidence.reals[0b101], model.margins(pairs, manifest.dpo.beta), atol=1e-4)
    assert np.abs(evidence.reals[7] - evidence.reals[[1, 2, 4]].sum(axis=0)).max() > 1e-3

    assert state.shares is not None
    total = sum(to_float(share) for share in state.shares.shares)
    assert abs(total - to_float(state.shares.grand)) < 1e-9
    report = read_report(consortium.ledger)
    assert report.coalitions is not None
    assert abs(report.coalitions.grand - total) < 1e-9
    assert len(report.coalitions.every) == 8
    assert report.saturation is None
    page = save(report, consortium.folder / "report.html")
    assert b"ann + cyd" in page or b"all but bob" in page
