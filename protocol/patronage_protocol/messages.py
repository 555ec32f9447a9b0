"""What owners and the operator say to each other: statements, each sealed in an envelope by its author.

Every statement names the protocol version, consortium, round and manifest, so that none can be used in
another round or under other terms. Owners' statements go into the ledger as they were signed; the
operator's requests do not, since the ledger itself is the operator's word.
"""

from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from patronage_protocol.canonical import Canonical, Digest, Name, canonical_bytes, sha256
from patronage_protocol.envelopes import Envelope, seal
from patronage_protocol.errors import RemoteProtocolError
from patronage_protocol.keys import PrivateKey, PublicKey
from patronage_protocol.manifest import Manifest

__all__ = [
    "Acceptance",
    "Commitment",
    "Cosignature",
    "CosignatureRequest",
    "Privacy",
    "Question",
    "QuestionRequest",
    "ReceiptRequest",
    "Refusal",
    "Reveal",
    "RevealRequest",
    "Statement",
    "TrainRequest",
    "commitment",
    "read_statement",
    "sign_statement",
]

MAX_REASON = 500
MAX_NOTE = 524_288


class Statement(Canonical):
    """What all statements carry. `author` is the party that signs."""

    media_type: ClassVar[str]

    protocol: Literal[1] = 1
    consortium: Name
    round: Annotated[int, Field(gt=0)]
    manifest: Digest
    author: Name


class Acceptance(Statement):
    """An owner takes part under exactly these terms."""

    media_type = "application/vnd.patronage.acceptance.v1+json"


class Refusal(Statement):
    """An owner does not take part, and says why."""

    media_type = "application/vnd.patronage.refusal.v1+json"

    reason: Annotated[str, Field(min_length=1, max_length=MAX_REASON)]


class Commitment(Statement):
    """An owner has trained, and is bound to one adapter that nobody else can see yet."""

    media_type = "application/vnd.patronage.commitment.v1+json"

    commitment: Digest


class Privacy(Canonical):
    """Differential privacy of one training, as its owner states it; one pair is one record.

    Attributes:
        epsilon, delta: the guarantee, of the adapter of this round.
        noise_multiplier: the standard deviation of the noise over the clipping norm.
        clip: the norm to which the gradient of a pair was cut.
        sample_rate: the chance of each pair to be in a step's batch.
        steps: of the optimiser.
        accountant: how epsilon follows from the rest; `rdp` is Renyi accounting as in Opacus.
    """

    epsilon: Annotated[float, Field(gt=0)]
    delta: Annotated[float, Field(gt=0, lt=1)]
    noise_multiplier: Annotated[float, Field(gt=0)]
    clip: Annotated[float, Field(gt=0)]
    sample_rate: Annotated[float, Field(gt=0, le=1)]
    steps: Annotated[int, Field(gt=0)]
    accountant: Literal["rdp"]


class Reveal(Statement):
    """An owner opens its commitment. `pairs` is how many pairs it says it trained on.

    `privacy` is left out of the bytes where the training was not private.
    """

    media_type = "application/vnd.patronage.reveal.v1+json"

    adapter: Digest
    salt: Digest
    size: Annotated[int, Field(gt=0)]
    pairs: Annotated[int, Field(gt=0)]
    privacy: Privacy | None = None

    @model_serializer(mode="wrap")
    def _without_nothing(self, inner: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in inner(self).items() if value is not None}


class TrainRequest(Statement):
    """The operator asks an owner that accepted to train and commit."""

    media_type = "application/vnd.patronage.train-request.v1+json"

    owner: Name


class CosignatureRequest(Statement):
    """The operator asks a witness to cosign a head: the request of c2sp.org/tlog-witness, as text."""

    media_type = "application/vnd.patronage.cosignature-request.v1+json"

    owner: Name
    request: Annotated[str, Field(max_length=MAX_NOTE)]


class Cosignature(Statement):
    """A witness's answer: its signature line, or the head that it saw last if the request starts elsewhere.

    `line` ends in a newline and is empty where nothing was signed; `seen` is that head as the log signed it,
    and empty where there is none.
    """

    media_type = "application/vnd.patronage.cosignature.v1+json"

    line: Annotated[str, Field(max_length=MAX_NOTE)]
    seen: Annotated[str, Field(max_length=MAX_NOTE)]


class RevealRequest(Statement):
    """The operator asks for the adapter; the commitments, sorted by owner, are closed.

    `closed` is the receipt (c2sp.org/tlog-proof) of the entry `close` under the head that a quorum cosigned.
    """

    media_type = "application/vnd.patronage.reveal-request.v1+json"

    owner: Name
    commitments: tuple[tuple[Name, Digest], ...]
    closed: str


class QuestionRequest(Statement):
    """The operator asks which held-out pairs an owner wants to see."""

    media_type = "application/vnd.patronage.question-request.v1+json"

    owner: Name


class Question(Statement):
    """An owner asks for the held-out pairs of these indices, ascending; an empty list asks for none."""

    media_type = "application/vnd.patronage.question.v1+json"

    pairs: tuple[Annotated[int, Field(ge=0)], ...]


class ReceiptRequest(Statement):
    """The operator hands an owner the outcome: what it is paid and why, and the ledger's checkpoint."""

    media_type = "application/vnd.patronage.receipt.v1+json"

    owner: Name
    receipt: str


S = TypeVar("S", bound=Statement)


def commitment(*, consortium: str, round_number: int, owner: str, salt: str, adapter: str) -> str:
    """The digest an owner commits to.

    The owner's name is inside, or a commitment could be copied; the salt hides an adapter whose digest can be
    guessed.

    Args:
        consortium: the consortium's name.
        round_number: the round.
        owner: the committing owner's name.
        salt: 32 secret bytes, hexadecimal.
        adapter: SHA-256 of the adapter's bytes, hexadecimal.
    """
    opening = {
        "adapter": adapter,
        "consortium": consortium,
        "domain": "patronage commitment v1",
        "owner": owner,
        "round": round_number,
        "salt": salt,
    }
    return sha256(canonical_bytes(opening))


def sign_statement(statement: Statement, key: PrivateKey) -> Envelope:
    """Seal a statement with its author's key."""
    return seal(statement.media_type, statement.encode(), key)


def read_statement(
    envelope: Envelope, kind: type[S], *, manifest: Manifest, author: str, key: PublicKey
) -> S:
    """Open an envelope that must hold a `kind` of this round, signed by `author`.

    Raises:
        VerificationError: the signature is not of `key`.
        FormatError: the payload is not a `kind`.
        RemoteProtocolError: it is for another consortium, round, manifest or author.
    """
    statement = kind.decode(envelope.open(kind.media_type, key))
    expected = {
        "consortium": manifest.consortium,
        "round": manifest.round,
        "manifest": manifest.digest,
        "author": author,
    }
    for field, value in expected.items():
        if getattr(statement, field) != value:
            raise RemoteProtocolError(
                f"a statement with {field} {value}",
                got=str(getattr(statement, field)),
                do="it is not used; it belongs to another round or party",
                where=f"{kind.__name__.lower()} of {author}",
            )
    return statement
