"""Statistics and pictures of studies whose answers are known."""

import json
from xml.etree import ElementTree

import numpy as np
import pytest

from patronage_simulations.fidelity import rules
from patronage_simulations.fidelity.figure import figure
from patronage_simulations.fidelity.findings import Findings, find
from patronage_simulations.fidelity.margins import SeedMargins, StudyMargins
from patronage_simulations.fidelity.measures import shares_of
from patronage_simulations.fidelity.tables import markdown

SOLO = np.abs(np.random.default_rng(3).normal(size=(3, 12))) * np.array([[0.1], [0.3], [0.6]])
ADDITIVE = rules.policy(SOLO)
ORDERS = (0, 1, 2), (2, 1, 0)


def study(*unions: np.ndarray, **parts: object) -> StudyMargins:
    return StudyMargins(
        owners=("ann", "bob", "cyd"),
        sizes=(4, 8, 12),
        clusters=np.arange(12) // 2,
        scale_bits=20,
        budget=100_000,
        seeds={seed: SeedMargins(union, **parts) for seed, union in enumerate(unions)},
    )


def sigmoid(findings: tuple[Findings, ...]) -> Findings:
    return next(found for found in findings if found.utility == "sigmoid")


def part(found: Findings, name: str) -> float:
    return next(part.mean for part in found.parts if part.name == name)


def test_arithmetic_is_without_error_where_margins_add_up() -> None:
    found = sigmoid(find(study(ADDITIVE)))
    rule = next(rule for rule in found.rules if rule.rule == "policy:sum")
    assert rule.error == pytest.approx(0.0, abs=1e-12)
    assert rule.reaches_target
    assert (rule.lower, rule.upper) == (pytest.approx(0, abs=1e-12), pytest.approx(0, abs=1e-12))
    assert part(found, "all of it") == pytest.approx(0.0, abs=1e-12)
    assert part(found, "held-out pairs") > 0


def test_a_mean_misses_where_margins_add_up() -> None:
    found = sigmoid(find(study(ADDITIVE)))
    mean = next(rule for rule in found.rules if rule.rule == "policy:mean")
    assert mean.error > 0.3
    assert not mean.reaches_target


def test_what_other_seeds_tell_keeps_the_owners_and_the_grand_coalition_of_ones_own() -> None:
    other = ADDITIVE * 1.5
    found = sigmoid(find(study(ADDITIVE, other)))
    rule = next(rule for rule in found.rules if rule.rule == "retrained elsewhere")
    margins = other.copy()
    known = [0, 1, 2, 4, 7]
    margins[known] = ADDITIVE[known]
    truth, expected = (shares_of(one, "sigmoid", scale_bits=20).mean(axis=1) for one in (ADDITIVE, margins))
    assert rule.seeds[0].error == pytest.approx(np.linalg.norm(expected - truth) / np.linalg.norm(truth))
    assert "retrained elsewhere" not in [one.rule for one in sigmoid(find(study(ADDITIVE))).rules]


def test_truths_that_differ_by_their_seed_alone_give_the_seed_noise() -> None:
    found = sigmoid(find(study(ADDITIVE, ADDITIVE * 1.1)))
    one, other = (np.array(shares) for shares in found.truth.values())
    expected = np.linalg.norm(one - other) / np.sqrt(np.linalg.norm(one) * np.linalg.norm(other))
    assert part(found, "seed") == pytest.approx(expected)
    rule = next(rule for rule in found.rules if rule.rule == "policy:sum")
    assert rule.error == pytest.approx(0.0, abs=1e-12), "each within its own seed"
    assert rule.across == pytest.approx(expected, rel=0.05), "and no nearer than the noise across seeds"


def test_the_error_is_split_between_sequence_and_arithmetic() -> None:
    union, sequence = ADDITIVE.copy(), ADDITIVE.copy()
    union[-1] *= 1.5
    sequences = {ORDERS[0]: sequence, ORDERS[1]: sequence}
    found = sigmoid(find(study(union, sequences=sequences, composed={"weights:sum": ADDITIVE * 1.1})))
    assert part(found, "arithmetic") == pytest.approx(0.0, abs=1e-12)
    assert part(found, "order") == pytest.approx(0.0, abs=1e-12)
    assert part(found, "union or sequence") == pytest.approx(part(found, "all of it"))
    assert part(found, "scale") ** 2 + part(found, "shape") ** 2 == pytest.approx(
        part(found, "all of it") ** 2
    )
    assert part(found, "weights") > 0


def test_findings_are_json_and_tables_name_every_rule_and_part() -> None:
    measured = study(ADDITIVE, ADDITIVE * 1.2, composed={"weights:sum": ADDITIVE})
    findings = find(measured)
    json.dumps([found.as_json() for found in findings], allow_nan=False)
    text = markdown(measured, findings)
    for found in findings:
        assert f"`{found.utility}`" in text
    for rule in findings[0].rules:
        assert f"| `{rule.rule}` |" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all(row.endswith("|") for row in rows)


def test_figures_are_xml_with_a_row_for_every_rule() -> None:
    for found in find(study(ADDITIVE, ADDITIVE * 1.2)):
        drawn = figure(found, {"policy:sum": {seed: list(shares) for seed, shares in found.truth.items()}})
        root = ElementTree.fromstring(drawn)
        texts = {element.text for element in root.iter() if element.tag.endswith("text")}
        assert {rule.rule for rule in found.rules} <= texts
        assert {"target", "seed noise", "n trainings"} <= texts
