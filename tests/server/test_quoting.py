"""The operator scores a public sample and signs the student of its scores."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from patronage_protocol.errors import UsageError
from patronage_protocol.keys import PublicKey
from patronage_protocol.pair_files import write_pairs
from patronage_protocol.policy import load_base_model
from patronage_protocol.preferences import PreferencePair
from patronage_protocol.quotes.model import read_quote_model
from patronage_protocol.quotes.quote import quote
from patronage_server.founding import Founding, found_operator
from patronage_server.home import OperatorHome
from patronage_server.network import NetworkConfig
from patronage_server.operator_cli import operator as commands
from patronage_server.quoting import QuoteSource, make_quote_model

CONFIG = NetworkConfig(name="operator", consortium="demo", address="127.0.0.1:18443", superlink_port=18092)


def some_pairs(who: str, count: int) -> list[PreferencePair]:
    return [
        PreferencePair(
            prompt=f"{who} asks {k}: ",
            chosen="please " * (k % 4 + 1) if k % 5 else "no" * (k % 3 + 1),
            rejected="no" * (k % 5 + 1) if k % 5 else "please " * (k % 4 + 1),
        )
        for k in range(count)
    ]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    write_pairs(tmp_path / "held-out.jsonl", some_pairs("heldout", 4))
    write_pairs(tmp_path / "sample.jsonl", some_pairs("sample", 60))
    write_pairs(tmp_path / "dev.jsonl", some_pairs("dev", 6))
    found_operator(tmp_path / "operator", Founding(CONFIG, "tiny", tmp_path / "held-out.jsonl"))
    return tmp_path / "operator"


def test_the_file_is_signed_and_quotes_pairs_from_their_text(home: Path, tmp_path: Path) -> None:
    arguments = ["quote-model", str(home), str(tmp_path / "sample.jsonl")]
    options = ["--objective", str(tmp_path / "dev.jsonl"), "--out", str(tmp_path / "quote.json"), "--json"]
    said = json.loads(CliRunner().invoke(commands, [*arguments, *options], catch_exceptions=False).stdout)
    key = PublicKey.from_base64(OperatorHome.load(home).key.public.text)
    model = read_quote_model(tmp_path / "quote.json", key)
    assert said["digest"] == model.digest
    assert model.pairs == 60
    assert model.scored.base_model == load_base_model("tiny").terms()
    polite, rude = some_pairs("stranger", 2)[1], some_pairs("stranger", 6)[5]
    values = quote(model, [polite, rude]).values
    assert values[0] > values[1]
    assert np.isfinite(values).all()


def test_the_held_out_pairs_are_no_objective(home: Path, tmp_path: Path) -> None:
    source = QuoteSource(tmp_path / "sample.jsonl", tmp_path / "held-out.jsonl")
    with pytest.raises(
        UsageError, match="share no prompt with the held-out pairs, on which rounds are scored"
    ):
        make_quote_model(OperatorHome.load(home), "demo", source, tmp_path / "quote.json")
    assert not (tmp_path / "quote.json").exists()


def test_a_sample_is_not_scored_on_itself(home: Path, tmp_path: Path) -> None:
    source = QuoteSource(tmp_path / "sample.jsonl", tmp_path / "sample.jsonl")
    with pytest.raises(UsageError, match="share no prompt with the sample, got 60 of 60"):
        make_quote_model(OperatorHome.load(home), "demo", source, tmp_path / "quote.json")


def test_a_sample_too_small_for_a_student_is_refused(home: Path, tmp_path: Path) -> None:
    write_pairs(tmp_path / "few.jsonl", some_pairs("few", 12))
    source = QuoteSource(tmp_path / "few.jsonl", tmp_path / "dev.jsonl")
    with pytest.raises(UsageError, match="at least 40 prompts"):
        make_quote_model(OperatorHome.load(home), "demo", source, tmp_path / "quote.json")
