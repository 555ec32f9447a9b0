import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from patronage_client.cli import owner
from patronage_client.quoting import QuoteRequest, make_quote
from patronage_protocol.errors import RemoteProtocolError, UsageError, VerificationError
from patronage_protocol.joining import Invitation, write_envelope
from patronage_protocol.keys import PrivateKey
from patronage_protocol.manifest import Manifest
from patronage_protocol.pair_files import write_pairs
from patronage_protocol.preferences import PreferencePair
from patronage_protocol.quotes.features import pair_features
from patronage_protocol.quotes.model import Scored, draw_up
from patronage_protocol.quotes.student import fit_student


def some_pairs(count: int) -> list[PreferencePair]:
    return [
        PreferencePair(prompt=f"q {k}", chosen="please " * (k % 4 + 1), rejected="no " * (k % 3 + 1))
        for k in range(count)
    ]


@pytest.fixture
def request_of(
    tmp_path: Path, manifest_of: Callable[..., Manifest], key_of: Callable[[str], PrivateKey]
) -> Callable[..., QuoteRequest]:
    """A request with the operator's quote model for a round of ann and bob, with any field replaced."""
    pairs = some_pairs(60)
    scores = np.array([float(k % 4 - k % 3) for k in range(60)])
    prompts = [pair.prompt_digest for pair in pairs]
    manifest = manifest_of("ann", "bob")
    scored = Scored(
        base_model=manifest.base_model,
        lora=manifest.lora.digest,
        dpo=manifest.dpo.digest,
        objective="ab" * 32,
    )
    student = fit_student(pair_features(pairs), scores, prompts)
    model = draw_up(student, scores, consortium="orchard", scored=scored, prompts=prompts)
    key = key_of("operator")
    write_envelope(tmp_path / "quote-model.json", model.seal(key))
    write_pairs(tmp_path / "pairs.jsonl", some_pairs(7))

    def make(**changes: object) -> QuoteRequest:
        request = QuoteRequest(
            model=tmp_path / "quote-model.json",
            data=tmp_path / "pairs.jsonl",
            operator_key=key.public.text,
            out=tmp_path / "quote.jsonl",
        )
        return replace(request, **changes)  # type: ignore[arg-type]

    return make


def invite(path: Path, manifest: Manifest, key: PrivateKey) -> Path:
    invitation = Invitation(
        address="care.example:8443", certificate="pem", bundle="cd" * 32, manifest=manifest
    )
    write_envelope(path, invitation.seal(key))
    return path


def test_a_quote_is_written_with_an_interval_a_pair(request_of: Callable[..., QuoteRequest]) -> None:
    found = make_quote(request_of())
    rows = [json.loads(line) for line in request_of().out.read_text().splitlines()]  # type: ignore[union-attr]
    assert len(rows) == 7
    assert all(row["lower"] < row["value"] < row["upper"] for row in rows)
    assert rows[0]["place"].endswith("pairs.jsonl:1")
    assert found.summary()["pairs"] == 7
    assert "7 pairs, mean value" in found.lines()[0]


def test_a_model_of_somebody_else_is_refused(
    request_of: Callable[..., QuoteRequest], key_of: Callable[[str], PrivateKey]
) -> None:
    with pytest.raises(VerificationError, match="an envelope signed by"):
        make_quote(request_of(operator_key=key_of("mallory").public.text))


def test_a_model_for_another_round_is_refused(
    request_of: Callable[..., QuoteRequest],
    manifest_of: Callable[..., Manifest],
    key_of: Callable[[str], PrivateKey],
    tmp_path: Path,
) -> None:
    right = invite(tmp_path / "right.json", manifest_of("ann", "bob"), key_of("operator"))
    assert make_quote(request_of(invitation=right)).summary()["pairs"] == 7
    changed = manifest_of("ann", "bob")
    other = changed.model_copy(
        update={"base_model": changed.base_model.model_copy(update={"weights": "ee" * 32})}
    )
    wrong = invite(tmp_path / "wrong.json", other, key_of("operator"))
    with pytest.raises(RemoteProtocolError, match="a quote model for the base model eeee"):
        make_quote(request_of(invitation=wrong))


def test_one_key_has_to_be_named(request_of: Callable[..., QuoteRequest], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="got neither"):
        make_quote(request_of(operator_key=None))
    with pytest.raises(UsageError, match="got both"):
        make_quote(request_of(home=tmp_path))


def test_the_command_prints_words_and_json(request_of: Callable[..., QuoteRequest]) -> None:
    request = request_of()
    arguments = ["quote", str(request.model), str(request.data), "--operator-key", str(request.operator_key)]
    said = CliRunner().invoke(owner, arguments, catch_exceptions=False)
    assert "average pairs of the sample" in said.stdout or "would harm" in said.stdout
    asked = CliRunner().invoke(owner, [*arguments, "--json"], catch_exceptions=False)
    found = json.loads(asked.stdout)
    assert found["schema_version"] == 1
    assert found["sample_pairs"] == 60
    assert len(found["mean"]) == 3
