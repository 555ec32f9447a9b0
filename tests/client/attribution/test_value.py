import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet
from typer.testing import CliRunner

from patronage_client.attribution import methods, value
from patronage_client.attribution.methods import METHODS, Method
from patronage_client.attribution.problem import Problem, Valuation, check_problem
from patronage_client.attribution.table import kept
from patronage_client.attribution.value import Request, value_pairs
from patronage_client.cli import owner
from patronage_protocol.development import development_terms
from patronage_protocol.errors import DataError, UsageError
from patronage_protocol.manifest import Manifest
from patronage_protocol.pair_files import read_pairs, write_pairs
from patronage_protocol.policy import load_base_model

Make = Callable[..., Problem]


def by_length(problem: Problem) -> Valuation:
    """A stand-in for a method: the number of characters of the chosen completion."""
    values = np.array([float(len(str(pair.chosen))) - 12 for pair in problem.pairs])
    return Valuation("by-length", "characters", values, ("counted",))


@pytest.fixture
def request_of(
    tmp_path: Path, some_pairs: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Request]:
    """A request for the stand-in method, with any field replaced."""
    monkeypatch.setitem(METHODS, "by-length", Method("by-length", "a stand-in", "nowhere:nothing"))
    monkeypatch.setattr(methods.Method, "load", lambda _: by_length)
    write_pairs(tmp_path / "pairs.jsonl", some_pairs("alice", 10))
    write_pairs(tmp_path / "validation.jsonl", some_pairs("dora", 3))

    def make(**changes: Any) -> Request:
        request = Request(
            data=tmp_path / "pairs.jsonl",
            out=tmp_path / "out",
            method="by-length",
            base_model="tiny",
            validation=tmp_path / "validation.jsonl",
            device="cpu",
        )
        return replace(request, **changes)

    return make


def test_values_are_written_as_tables_and_a_picture(request_of: Callable[..., Request]) -> None:
    found = value_pairs(request_of(keep=0.6))
    folder = request_of().out
    lines = [json.loads(line) for line in (folder / "values.jsonl").read_text().splitlines()]
    assert [line["value"] for line in lines] == found.valuation.values.tolist()
    assert {line["method"] for line in lines} == {"by-length"}
    assert lines[2]["place"].endswith("pairs.jsonl:3")
    assert sorted(line["rank"] for line in lines) == list(range(1, 11))
    assert parquet.read_table(folder / "values.parquet").to_pylist() == lines
    picture = (folder / "values.svg").read_text()
    assert picture.count("<rect") == 11
    assert "what each of 10 pairs is worth" in picture
    best = [
        pair for pair, line in zip(read_pairs(request_of().data).pairs, lines, strict=True) if line["kept"]
    ]
    assert len(best) == found.kept == 6
    assert list(read_pairs(folder / "kept.jsonl").pairs) == best
    assert not (folder / "work").exists()


def test_the_best_pairs_are_kept() -> None:
    valuation = Valuation("m", "u", np.array([3.0, -1.0, 2.0, 5.0, 0.0]))
    assert kept(valuation, 0.6) == (0, 2, 3)
    assert kept(valuation, 0.01) == (3,)


@pytest.fixture
def invited(tmp_path: Path, manifest_of: Callable[..., Manifest], some_pairs: Callable[..., Any]) -> Path:
    """A manifest of the tiny model with development pairs beside it."""
    public = some_pairs("dev", 3)
    write_pairs(tmp_path / "development.jsonl", public)
    manifest = manifest_of("ann", "bob").model_copy(
        update={"base_model": load_base_model("tiny").terms(), "development": development_terms(public)}
    )
    (tmp_path / "manifest.json").write_bytes(manifest.encode())
    return tmp_path


def test_the_development_pairs_of_the_round_are_measured_on(
    request_of: Callable[..., Request], invited: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Problem] = []
    monkeypatch.setattr(
        methods.Method, "load", lambda _: lambda problem: seen.append(problem) or by_length(problem)
    )
    value_pairs(request_of(validation=None, terms=invited / "manifest.json"))
    assert seen[0].validation == read_pairs(invited / "development.jsonl").pairs
    assert len(seen[0].pairs) == 10


def test_development_pairs_must_be_those_of_the_manifest_and_not_the_owners_own(
    request_of: Callable[..., Request], invited: Path, some_pairs: Callable[..., Any]
) -> None:
    request = request_of(validation=None, terms=invited / "manifest.json")
    write_pairs(request.data, [*some_pairs("alice", 5), some_pairs("dev", 3)[1]])
    with pytest.raises(UsageError, match="1 of 3 that are"):
        value_pairs(request)
    write_pairs(invited / "development.jsonl", some_pairs("dev", 2))
    with pytest.raises(DataError, match="the 3 development pairs of the manifest"):
        value_pairs(request)
    (invited / "development.jsonl").unlink()
    with pytest.raises(UsageError, match="put the operator's file there"):
        value_pairs(request)


def test_a_part_of_the_own_prompts_can_be_held_out(
    request_of: Callable[..., Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Problem] = []
    monkeypatch.setattr(value, "check_problem", lambda *_: None)
    monkeypatch.setattr(
        methods.Method, "load", lambda _: lambda problem: seen.append(problem) or by_length(problem)
    )
    value_pairs(request_of(validation=None, hold_out=0.5))
    (problem,) = seen
    everything = read_pairs(request_of().data).pairs
    assert problem.validation
    assert set(problem.pairs) | set(problem.validation) == set(everything)
    assert not {p.prompt for p in problem.pairs} & {p.prompt for p in problem.validation}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"validation": None}, "at least one validation pair"),
        ({"hold_out": 0.2}, "--validation or --hold-out"),
        ({"validation": None, "hold_out": 1.5}, "--hold-out between 0 and 1"),
        ({"keep": 0.0}, "--keep above 0"),
        ({"method": "divination"}, "expected a method of in-run"),
    ],
    ids=["no validation pairs", "two kinds of them", "a share above one", "nothing kept", "unknown method"],
)
def test_a_request_that_cannot_be_met_is_refused_in_one_line(
    request_of: Callable[..., Request], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        value_pairs(request_of(**changes))
    assert not request_of().out.exists()


def test_pairs_are_not_measured_on_themselves(some_pairs: Callable[..., Any]) -> None:
    with pytest.raises(UsageError, match=r"got 1 of 4 that are \(the first is number 4\)"):
        check_problem(some_pairs("alice"), (*some_pairs("dora", 3), some_pairs("alice")[2]))


def test_terms_come_from_a_toml_file(request_of: Callable[..., Request], tmp_path: Path) -> None:
    terms = tmp_path / "terms.toml"
    terms.write_text('[lora]\nrank = 2\ntarget_modules = ["up_proj"]\n[dpo]\nepochs = 3\n')
    assert value_pairs(request_of(terms=terms)).pairs == 10
    terms.write_text("[dpo]\nepochen = 3\n")
    with pytest.raises(DataError, match="epochen"):
        value_pairs(request_of(terms=terms))
    other = tmp_path / "manifest.json"
    other.write_text("{}")
    with pytest.raises(DataError, match="manifest"):
        value_pairs(request_of(terms=other))


def test_values_that_are_not_finite_are_an_error() -> None:
    with pytest.raises(UsageError, match="one finite value a pair"):
        Valuation("m", "u", np.array([1.0, np.nan]))


def test_the_methods_can_be_listed() -> None:
    shown = CliRunner().invoke(owner, ["value", "--list-methods"])
    assert shown.exit_code == 0
    assert set(METHODS) <= {line.split()[0] for line in shown.stdout.splitlines()}
