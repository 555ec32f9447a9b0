"""A slice: held-out pairs that an owner contributes, as it hands them to the operator ahead of the terms.

The owner salts the pairs with a secret of its own and commits to them as an operator does to its own
(`held_out`). The file that it hands over holds pairs, secret and root, in a DSSE envelope that it signs; the
operator needs all of it, to score the pairs and to open them in a dispute. The manifest has the root alone.
On arrival the root is computed again. No prompt may be held out already, nor be spelled in two ways, since
either would count twice; prompts are compared by their words alone. A paraphrase is not found.
"""

import re
import secrets
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import Field

from patronage_protocol.canonical import Canonical, Digest, Name
from patronage_protocol.envelopes import Envelope, seal
from patronage_protocol.errors import DataError, UsageError, VerificationError
from patronage_protocol.held_out import SECRET_BYTES, HeldOutSet
from patronage_protocol.keys import PrivateKey, PublicKey
from patronage_protocol.preferences import PreferencePair

__all__ = ["MAX_PAIRS", "Contribution", "check_apart"]

CONTRIBUTION_TYPE = "application/vnd.patronage.slice.v1+json"
MAX_PAIRS = 100_000

_WORD = re.compile(r"\w+")


class Contribution(Canonical):
    """What an owner hands to the operator.

    Attributes:
        owner: who contributes.
        root: of the salted Merkle tree over the pairs.
        secret: from which the salts follow; nobody but owner and operator may know it.
        pairs: in their order.
    """

    protocol: Literal[1] = 1
    owner: Name
    root: Digest
    secret: Digest
    pairs: Annotated[tuple[PreferencePair, ...], Field(min_length=1, max_length=MAX_PAIRS)]

    @classmethod
    def draw_up(cls, owner: str, pairs: Sequence[PreferencePair], secret: bytes | None = None) -> Self:
        """A contribution of these pairs; the secret is drawn unless it is given.

        Raises:
            UsageError: no pairs, too many of them, or a secret that is too short.
        """
        if len(pairs) > MAX_PAIRS:
            raise UsageError(f"a slice of at most {MAX_PAIRS} pairs", got=f"{len(pairs)}", do="choose some")
        chosen = secrets.token_bytes(SECRET_BYTES) if secret is None else secret
        held_out = HeldOutSet(tuple(pairs), chosen)
        return cls(owner=owner, root=held_out.commitment.root, secret=chosen.hex(), pairs=held_out.pairs)

    @classmethod
    def claimed(cls, envelope: Envelope) -> Self:
        """What an envelope holds, whoever signed it, with its pairs checked against its root.

        Raises:
            DataError: it is another kind of file.
            FormatError: it is no contribution.
            VerificationError: its pairs have another root.
        """
        if envelope.payloadType != CONTRIBUTION_TYPE:
            raise DataError(
                "a slice of held-out pairs",
                got=f"an envelope of type {envelope.payloadType[:80]!r}",
                do="name the slice.json that an owner made",
            )
        contribution = cls.decode(envelope.unverified_payload)
        root = contribution.held_out.commitment.root
        if root != contribution.root:
            raise VerificationError(
                f"pairs of {contribution.owner} with the root {contribution.root}",
                got=root,
                do="ask the owner to make the slice again",
                where="slice",
            )
        return contribution

    def require_signer(self, envelope: Envelope, key: PublicKey) -> None:
        """Check that its owner's key signed it.

        Raises:
            VerificationError: another key did.
        """
        envelope.open(CONTRIBUTION_TYPE, key)

    def seal(self, key: PrivateKey) -> Envelope:
        """Sign it."""
        return seal(CONTRIBUTION_TYPE, self.encode(), key)

    @cached_property
    def held_out(self) -> HeldOutSet:
        """The pairs and the secret that salts them."""
        return HeldOutSet(self.pairs, bytes.fromhex(self.secret))


def check_apart(
    owner: str, pairs: Sequence[PreferencePair], others: Mapping[str, Sequence[PreferencePair]]
) -> None:
    """Refuse a slice with a prompt that is held out already, or that it has in two spellings.

    Args:
        owner: whose slice it is.
        pairs: of the slice.
        others: whose pairs to what pairs, such as "the operator" and "ash".

    Raises:
        DataError: says how many prompts, and where the first is.
    """
    spellings: dict[str, str] = {}
    for number, pair in enumerate(pairs, start=1):
        if spellings.setdefault(_words(pair), pair.prompt_digest) != pair.prompt_digest:
            raise _refused(owner, f"pair {number} with a prompt of an earlier pair in another spelling")
    for whose, known in others.items():
        taken = {_words(pair) for pair in known}
        if shared := [number for number, pair in enumerate(pairs, start=1) if _words(pair) in taken]:
            raise _refused(
                owner, f"{len(shared)} pairs with prompts of {whose}, the first of them pair {shared[0]}"
            )


def _refused(owner: str, got: str) -> DataError:
    return DataError(
        f"a slice of {owner} with prompts that nobody has held out, each in one spelling",
        got=got,
        do="ask the owner for other pairs; what it is told of yours is not held out any more",
    )


def _words(pair: PreferencePair) -> str:
    """The prompt without case, spaces and punctuation; as it stands where nothing else is in it."""
    if isinstance(pair.prompt, str):
        texts = [("", pair.prompt)]
    else:
        texts = [(message.role, message.content) for message in pair.prompt]
    parts = [f"{role}: {' '.join(_WORD.findall(text.casefold())) or text}" for role, text in texts]
    return "\n".join(parts)
