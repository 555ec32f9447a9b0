"""The file of a quote model: one DSSE envelope, signed by the operator, with the student as plain numbers.

Weights are base64 of little-endian float32 inside canonical JSON (RFC 8785): nothing in the file can be
run, and it has one spelling. What an owner needs to judge a quote stands beside them: which base model and
training the scores are for, how large the sample was, and how well the student did on prompts that it had
not seen.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from patronage_protocol.canonical import Canonical, Digest, Name
from patronage_protocol.envelopes import Envelope, seal
from patronage_protocol.errors import DataError, FormatError, RemoteProtocolError
from patronage_protocol.joining import Invitation, read_envelope
from patronage_protocol.keys import PrivateKey, PublicKey
from patronage_protocol.manifest import BaseModelTerms
from patronage_protocol.quotes.features import DIMENSIONS
from patronage_protocol.quotes.student import FOLDS, Student, recall_of_top, spearman
from patronage_protocol.strict import base64_bytes, base64_text

__all__ = ["QUOTE_MODEL_TYPE", "Accuracy", "QuoteModel", "Scored", "draw_up", "read_quote_model"]

QUOTE_MODEL_TYPE = "application/vnd.patronage.quote-model.v1+json"

_FLOAT32 = np.dtype("<f4")
Real = Annotated[float, Field(ge=-1e300, le=1e300)]
Count = Annotated[int, Field(gt=0)]


class Scored(Canonical):
    """What the scores are of: LinFiK at the start of a round with these terms.

    Attributes:
        base_model: the large model.
        lora, dpo: digests of the terms under which pairs were scored.
        objective: SHA-256 over the public pairs on which the objective was measured.
    """

    base_model: BaseModelTerms
    lora: Digest
    dpo: Digest
    objective: Digest


class Accuracy(Canonical):
    """How the student did on prompts that it had not seen.

    Attributes:
        spearman: rank correlation with the large model's scores.
        top_decile: of the best tenth by score, the part found in the best tenth by prediction.
        residuals: absolute errors, ascending: their quantiles are the intervals of single pairs.
    """

    spearman: Annotated[float, Field(ge=-1, le=1)]
    top_decile: Annotated[float, Field(ge=0, le=1)]
    residuals: Annotated[tuple[Annotated[Real, Field(ge=0)], ...], Field(min_length=1)]


class QuoteModel(Canonical):
    """A student with its terms.

    Attributes:
        scores: of the sample by the large model, ascending; a quote is told as a rank among them.
        pairs, prompts: the size of the sample.
        weights: (FOLDS + 1, DIMENSIONS) float32 numbers, little-endian, base64.
    """

    schema_version: Literal[1] = 1
    features: Literal["hashed-n-grams-1"] = "hashed-n-grams-1"
    consortium: Name
    scored: Scored
    pairs: Count
    prompts: Count
    scores: tuple[Real, ...]
    accuracy: Accuracy
    weights: str

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if not len(self.scores) == len(self.accuracy.residuals) == self.pairs:
            raise ValueError(f"a score and a residual for each of {self.pairs} pairs")
        for what, numbers in (("scores", self.scores), ("residuals", self.accuracy.residuals)):
            if list(numbers) != sorted(numbers):
                raise ValueError(f"{what} are not ascending")
        size = (FOLDS + 1) * DIMENSIONS * _FLOAT32.itemsize
        data = base64_bytes(self.weights, what="weights")
        if len(data) != size:
            raise ValueError(f"weights of {len(data)} bytes instead of {size}")
        if not np.isfinite(_numbers(data)).all():
            raise ValueError("weights are not finite")
        return self

    @property
    def matrix(self) -> NDArray[np.float64]:
        """The weights, shape (FOLDS + 1, DIMENSIONS): from the whole sample first."""
        return _numbers(base64_bytes(self.weights, what="weights")).reshape(FOLDS + 1, DIMENSIONS)

    def seal(self, key: PrivateKey) -> Envelope:
        """Sign it."""
        return seal(QUOTE_MODEL_TYPE, self.encode(), key)

    @classmethod
    def open(cls, envelope: Envelope, operator: PublicKey) -> Self:
        """Read a quote model that `operator` signed.

        Raises:
            VerificationError: somebody else signed it, or it is another kind of statement.
            FormatError: it is no quote model of this version.
        """
        return cls.decode(envelope.open(QUOTE_MODEL_TYPE, operator))

    def check_round(self, invitation: Invitation) -> None:
        """Make sure that the scores are for the round of an invitation.

        Raises:
            RemoteProtocolError: they are for another base model or other terms; names what differs.
        """
        manifest = invitation.manifest
        wanted = {
            "base model": (manifest.base_model.weights, self.scored.base_model.weights),
            "tokenizer": (manifest.base_model.tokenizer, self.scored.base_model.tokenizer),
            "LoRA terms": (manifest.lora.digest, self.scored.lora),
            "DPO terms": (manifest.dpo.digest, self.scored.dpo),
        }
        for what, (theirs, ours) in wanted.items():
            if theirs != ours:
                raise RemoteProtocolError(
                    f"a quote model for the {what} {theirs[:16]} of round {manifest.round}",
                    got=f"one for {ours[:16]}",
                    do="ask the operator for the quote model of this round",
                    where="quote model",
                )


def draw_up(
    student: Student, scores: NDArray[np.float64], *, consortium: str, scored: Scored, prompts: Sequence[str]
) -> QuoteModel:
    """The model of a student that was fitted to `scores`, shape (n,)."""
    wrong = np.sort(np.abs(student.left_out - scores))
    return QuoteModel(
        consortium=consortium,
        scored=scored,
        pairs=len(scores),
        prompts=len(set(prompts)),
        scores=tuple(np.sort(scores).tolist()),
        accuracy=Accuracy(
            spearman=spearman(scores, student.left_out),
            top_decile=recall_of_top(scores, student.left_out),
            residuals=tuple(wrong.tolist()),
        ),
        weights=base64_text(student.weights.astype(_FLOAT32).tobytes()),
    )


def read_quote_model(path: Path, operator: PublicKey) -> QuoteModel:
    """The quote model in a file.

    Raises:
        UnavailableError: it cannot be read.
        DataError: it holds something else.
        VerificationError: the operator did not sign it.
    """
    try:
        return QuoteModel.open(read_envelope(path), operator)
    except FormatError as error:
        raise DataError(
            "a quote model", got=error.got, do="ask the operator for the file again", where=str(path)
        ) from error


def _numbers(data: bytes) -> NDArray[np.float64]:
    return np.frombuffer(data, dtype=_FLOAT32).astype(np.float64)
