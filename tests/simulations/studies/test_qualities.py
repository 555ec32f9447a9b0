from collections.abc import Iterator

import pytest
import torch

from patronage_protocol.policy import load_base_model
from patronage_simulations.scenarios import Scenario, load_scenario
from patronage_simulations.studies.qualities import Finding, study


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    return load_scenario("tiny")


@pytest.fixture(scope="module")
def findings(scenario: Scenario) -> Iterator[dict[str, Finding]]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield {finding.owner: finding for finding in study(scenario, load_base_model("tiny", device="cpu"))}
    torch.set_num_threads(before)


def test_the_qualities_of_the_tiny_scenario_are_told_apart(findings: dict[str, Finding]) -> None:
    clean, few, flipped = (findings[owner] for owner in ("clean", "few", "flipped"))
    assert clean.lower > few.upper
    assert few.lower > 0
    assert flipped.upper < 0


def test_a_copy_is_found_whatever_its_order_and_a_near_copy_too(
    scenario: Scenario, findings: dict[str, Finding]
) -> None:
    threshold = scenario.terms.intake.copy_cosine
    assert findings["mimic"].cosine == pytest.approx(1.0, abs=1e-6)
    assert findings["without-two"].cosine > threshold
    assert findings["four-exchanged"].cosine > threshold


def test_no_honest_owner_is_taken_for_a_copy(scenario: Scenario, findings: dict[str, Finding]) -> None:
    threshold = scenario.terms.intake.copy_cosine
    for owner in ("few", "flipped", "half-exchanged", "all-exchanged", "other-skills"):
        assert findings[owner].cosine < threshold - 0.1


def test_every_adapter_is_within_the_norm_of_the_scenario(
    scenario: Scenario, findings: dict[str, Finding]
) -> None:
    assert all(finding.norm < scenario.terms.intake.max_norm / 2 for finding in findings.values())


def test_a_finding_is_one_line(findings: dict[str, Finding]) -> None:
    assert str(findings["mimic"]).startswith("mimic              48 pairs   ||dW||  0.7")
    assert all("\n" not in str(finding) for finding in findings.values())
