import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from patronage_protocol.policy import load_base_model
from patronage_protocol.preferences import overlap
from patronage_simulations.studies import mislabelled
from patronage_simulations.studies.mislabelled import generate, roc_area, study


def test_the_area_counts_ordered_pairs_and_ties_half() -> None:
    wrong = np.array([True, False, True, False])
    assert roc_area(np.array([0.0, 1.0, 2.0, 3.0]), wrong) == 0.75
    assert roc_area(np.zeros(4), wrong) == 0.5


def test_one_label_in_five_is_wrong_and_no_prompt_is_on_two_sides() -> None:
    data = generate(0, pairs=40, validation=12, test=12)
    assert data.wrong.sum() == 8
    assert (len(data.pairs), len(data.validation), len(data.test)) == (40, 12, 12)
    assert not overlap(data.test, (*data.pairs, *data.validation)).prompts
    assert not overlap(data.validation, data.pairs).prompts


def test_a_study_finds_wrong_labels_trains_without_them_and_goes_on_where_it_was() -> None:
    base = load_base_model("tiny", device="cpu")
    data = generate(0, pairs=20, validation=8, test=4)
    found = list(study(base, data, seed=0, methods=["knn", "random"], removing=["random"]))
    areas = {one.method: one.value for one in found if one.what == "area"}
    assert areas["knn"] > 0.6
    assert {(one.method, one.removed) for one in found if one.what == "expected"} == {
        ("random", 0.1),
        ("random", 0.2),
        ("all", 0.0),
    }
    assert all(one.value != 0.5 for one in found if one.what == "expected")
    known = frozenset(one.key for one in found)
    again = study(base, data, seed=0, methods=["knn", "random"], removing=["random"], known=known)
    assert list(again) == []


def test_what_is_known_is_read_from_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "out.jsonl"
    sizes = ["--pairs", "20", "--validation", "8", "--test", "4", "--seeds", "0", "--removing"]
    call: Callable[[], None] = lambda: mislabelled.main(  # noqa: E731
        ["tiny", "--methods", "random", "--out", str(path), *sizes]
    )
    call()
    before = [json.loads(line)["method"] for line in path.read_text().splitlines()]
    assert before == ["random"]
    call()
    assert len(path.read_text().splitlines()) == 1
