import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patronage_protocol.errors import DataError, RemoteProtocolError, UsageError, VerificationError
from patronage_protocol.joining import Invitation, write_envelope
from patronage_protocol.keys import PrivateKey
from patronage_protocol.manifest import Manifest
from patronage_protocol.preferences import ChatMessage, PreferencePair
from patronage_protocol.quotes.features import DIMENSIONS, pair_features
from patronage_protocol.quotes.model import QuoteModel, Scored, draw_up, read_quote_model
from patronage_protocol.quotes.quote import quote
from patronage_protocol.quotes.student import FOLDS, fit_student, recall_of_top, spearman

KEY = PrivateKey.from_seed(b"\x05" * 32)
GOOD, BAD = ("please", "thanks", "gladly", "welcome"), ("no", "never", "nonsense", "away")


def polite(count: int, seed: int) -> tuple[list[PreferencePair], np.ndarray]:
    """Pairs whose worth is the number of polite words of the chosen completion less that of the rejected."""
    draw = np.random.default_rng(seed)
    pairs, scores = [], []
    for number in range(count):
        sides = [[*draw.choice(GOOD, draw.integers(0, 4)), *draw.choice(BAD, 2)] for _ in range(2)]
        pairs.append(
            PreferencePair(
                prompt=f"question {seed} {number}",
                chosen=f"0 {' '.join(sides[0])}",
                rejected=" ".join(sides[1]),
            )
        )
        scores.append(float(len(sides[0]) - len(sides[1])))
    return pairs, np.array(scores)


@pytest.fixture(scope="module")
def sample() -> tuple[list[PreferencePair], np.ndarray]:
    return polite(240, 0)


@pytest.fixture(scope="module")
def drawn(sample: tuple[list[PreferencePair], np.ndarray]) -> Callable[..., QuoteModel]:
    pairs, scores = sample
    prompts = [pair.prompt_digest for pair in pairs]
    student = fit_student(pair_features(pairs), scores, prompts)

    def make(manifest: Manifest) -> QuoteModel:
        scored = Scored(
            base_model=manifest.base_model,
            lora=manifest.lora.digest,
            dpo=manifest.dpo.digest,
            objective="ab" * 32,
        )
        return draw_up(student, scores, consortium="orchard", scored=scored, prompts=prompts)

    return make


@pytest.fixture
def model(drawn: Callable[..., QuoteModel], manifest_of: Callable[..., Manifest]) -> QuoteModel:
    return drawn(manifest_of("ann", "bob"))


def test_exchanging_the_labels_changes_the_sign_of_a_vector() -> None:
    pair = PreferencePair(prompt="why?", chosen="because it is so", rejected="no")
    turned = pair.model_copy(update={"chosen": pair.rejected, "rejected": pair.chosen})
    assert np.array_equal(pair_features([pair]), -pair_features([turned]))
    assert pair_features([pair]).any()


@settings(max_examples=50)
@given(st.text(min_size=1), st.text(min_size=1), st.text(min_size=1))
def test_any_text_has_a_finite_vector_that_does_not_depend_on_what_is_beside_it(
    prompt: str, chosen: str, rejected: str
) -> None:
    pair = PreferencePair.model_construct(prompt=prompt, chosen=chosen, rejected=rejected, source="")
    other = PreferencePair(prompt="p", chosen="c", rejected="r")
    rows = pair_features([other, pair])
    assert rows.shape == (2, DIMENSIONS)
    assert np.isfinite(rows).all()
    assert np.array_equal(rows[1], pair_features([pair])[0])


def test_messages_and_plain_text_of_one_wording_have_one_vector() -> None:
    plain = PreferencePair(prompt="q", chosen="yes", rejected="no")
    said = [(ChatMessage(role="user", content=text),) for text in ("q", "yes", "no")]
    chat = PreferencePair(prompt=said[0], chosen=said[1], rejected=said[2])
    assert np.array_equal(pair_features([plain]), pair_features([chat]))


def test_vectors_are_those_of_every_other_machine() -> None:
    row = pair_features([PreferencePair(prompt="p", chosen="c", rejected="r")])[0]
    assert np.flatnonzero(row).tolist() == ENTRIES


ENTRIES = [1604, 1718, 2943, 2957, 3372, 3550, 4636, 4846, 7648, 7920]


def test_a_student_ranks_pairs_that_it_has_not_seen(model: QuoteModel) -> None:
    pairs, scores = polite(100, 1)
    found = quote(model, pairs)
    assert spearman(scores, found.values) > 0.9
    assert model.accuracy.spearman > 0.9
    assert recall_of_top(scores, scores) == 1.0


def test_intervals_cover_about_as_often_as_they_say(model: QuoteModel) -> None:
    pairs, scores = polite(400, 2)
    found = quote(model, pairs, level=0.9)
    assert 0.84 <= (np.abs(found.values - scores) <= found.margin).mean() <= 0.96
    assert found.lower <= scores.mean() <= found.upper


def test_a_quote_is_told_in_average_pairs_of_the_sample(model: QuoteModel) -> None:
    pairs, _ = polite(50, 3)
    found = quote(model, pairs)
    if found.average > 0:
        assert found.worth is not None
        assert found.worth[0] == pytest.approx(50 * found.mean / found.average)
    else:
        assert found.worth is None
    assert ((found.ranks >= 0) & (found.ranks <= 1)).all()


def test_text_unlike_the_sample_is_told_as_unknown(model: QuoteModel) -> None:
    strange = PreferencePair(prompt="Ω", chosen="ξψ ζθκλ", rejected="щж юяэы")
    known = quote(model, polite(5, 4)[0]).known.mean()
    assert quote(model, [strange]).known[0] < known


def test_ranks_of_ties_are_their_mean() -> None:
    assert spearman(np.array([1.0, 1.0, 2.0]), np.array([5.0, 5.0, 9.0])) == pytest.approx(1.0)
    assert spearman(np.array([1.0, 2.0, 3.0]), np.array([3.0, 2.0, 1.0])) == pytest.approx(-1.0)


def test_a_signed_model_is_read_back(model: QuoteModel, tmp_path: Path) -> None:
    write_envelope(tmp_path / "quote-model.json", model.seal(KEY))
    assert read_quote_model(tmp_path / "quote-model.json", KEY.public) == model
    assert model.matrix.shape == (FOLDS + 1, DIMENSIONS)


def test_a_model_of_another_signer_is_refused(model: QuoteModel, tmp_path: Path) -> None:
    write_envelope(tmp_path / "quote-model.json", model.seal(KEY))
    other = PrivateKey.from_seed(b"\x06" * 32).public
    with pytest.raises(VerificationError, match="an envelope signed by"):
        read_quote_model(tmp_path / "quote-model.json", other)


def test_another_kind_of_statement_is_refused(model: QuoteModel, tmp_path: Path) -> None:
    from patronage_protocol.envelopes import seal

    write_envelope(tmp_path / "other.json", seal("application/json", model.encode(), KEY))
    with pytest.raises(VerificationError, match="quote-model"):
        read_quote_model(tmp_path / "other.json", KEY.public)


def changed(model: QuoteModel, **fields: Any) -> bytes:
    return json.dumps(
        {**model.model_dump(mode="json"), **fields}, sort_keys=True, separators=(",", ":")
    ).encode()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"weights": "AAAA"}, "weights"),
        ({"features": "word-vectors"}, "features"),
        ({"pairs": 3}, "a score and a residual for each of 3 pairs"),
        ({"schema_version": 2}, "schema_version"),
    ],
)
def test_a_damaged_model_is_refused_in_one_line(
    model: QuoteModel, tmp_path: Path, fields: dict[str, Any], said: str
) -> None:
    from patronage_protocol.envelopes import seal
    from patronage_protocol.quotes.model import QUOTE_MODEL_TYPE

    write_envelope(tmp_path / "bad.json", seal(QUOTE_MODEL_TYPE, changed(model, **fields), KEY))
    with pytest.raises(DataError, match="expected a quote model") as caught:
        read_quote_model(tmp_path / "bad.json", KEY.public)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_that_are_no_numbers_are_refused(model: QuoteModel) -> None:
    from patronage_protocol.strict import base64_text

    nothing = np.full((FOLDS + 1) * DIMENSIONS, np.nan, dtype="<f4")
    with pytest.raises(ValueError, match="not finite"):
        QuoteModel.model_validate({**model.model_dump(), "weights": base64_text(nothing.tobytes())})


def test_a_model_for_another_base_model_is_refused(
    model: QuoteModel, drawn: Callable[..., QuoteModel], manifest_of: Callable[..., Manifest]
) -> None:
    manifest = manifest_of("ann", "bob")
    invitation = Invitation(
        address="care.example:8443", certificate="pem", bundle="cd" * 32, manifest=manifest
    )
    model.check_round(invitation)
    other = manifest.model_copy(
        update={"base_model": manifest.base_model.model_copy(update={"weights": "ff" * 32})}
    )
    with pytest.raises(RemoteProtocolError, match="a quote model for the base model 0a0a"):
        drawn(other).check_round(invitation)


def test_a_sample_that_is_too_small_or_says_nothing_is_refused(
    sample: tuple[list[PreferencePair], np.ndarray],
) -> None:
    pairs, scores = sample
    with pytest.raises(
        UsageError, match="at least 40 prompts whose pairs differ in their scores, got 20 prompts"
    ):
        fit_student(pair_features(pairs[:20]), scores[:20], [pair.prompt_digest for pair in pairs[:20]])
    with pytest.raises(UsageError, match="differ in their scores"):
        fit_student(pair_features(pairs), np.ones(240), [pair.prompt_digest for pair in pairs])


def test_no_pairs_and_a_level_beyond_the_sample_are_refused(model: QuoteModel) -> None:
    with pytest.raises(UsageError, match="at least one pair to quote, got none"):
        quote(model, [])
    with pytest.raises(UsageError, match=r"at most 0\.996, which a sample of 240 pairs can support"):
        quote(model, polite(1, 5)[0], level=0.999)
