"""`patronage owner quote`: what pairs would be worth, by a signed quote model. Needs no torch."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from patronage_client.home import OwnerHome
from patronage_protocol.canonical import sha256
from patronage_protocol.errors import UsageError
from patronage_protocol.files import write_atomic
from patronage_protocol.joining import Invitation, read_envelope
from patronage_protocol.keys import PublicKey
from patronage_protocol.pair_files import LoadedPairs, read_pairs
from patronage_protocol.quotes.model import QuoteModel, read_quote_model
from patronage_protocol.quotes.quote import Quote, quote

__all__ = ["QuoteRequest", "Quoted", "make_quote"]


@dataclass(frozen=True)
class QuoteRequest:
    """What the command was asked for; see its --help."""

    model: Path
    data: Path
    operator_key: str | None = None
    home: Path | None = None
    invitation: Path | None = None
    out: Path | None = None
    level: float = 0.9
    on_bad_row: Literal["stop", "skip"] = "stop"


@dataclass(frozen=True)
class Quoted:
    """A quote, and what it was made of."""

    model: QuoteModel
    loaded: LoadedPairs
    quote: Quote

    def summary(self) -> dict[str, Any]:
        """The quote as JSON values."""
        worth = self.quote.worth
        return {
            "consortium": self.model.consortium,
            "quote_model": sha256(self.model.encode()),
            "base_model": self.model.scored.base_model.name,
            "pairs": len(self.loaded.pairs),
            "skipped_rows": len(self.loaded.skipped),
            "level": self.quote.level,
            "mean": [self.quote.mean, self.quote.lower, self.quote.upper],
            "sample_mean": self.quote.average,
            "worth_in_sample_pairs": None if worth is None else list(worth),
            "known_text": float(self.quote.known.mean()),
            "sample_pairs": self.model.pairs,
            "sample_prompts": self.model.prompts,
            "spearman": self.model.accuracy.spearman,
            "top_decile_recall": self.model.accuracy.top_decile,
        }

    def rows(self) -> list[dict[str, Any]]:
        """A row a pair, in the order of the file."""
        found = self.quote
        return [
            {
                "place": place,
                "value": float(value),
                "lower": float(value - found.margin),
                "upper": float(value + found.margin),
                "rank": float(rank),
                "known": float(known),
            }
            for place, value, rank, known in zip(
                self.loaded.places, found.values, found.ranks, found.known, strict=True
            )
        ]

    def lines(self) -> list[str]:
        """The quote in words."""
        found, student = self.quote, self.model.accuracy
        mean = (
            f"{len(self.loaded.pairs)} pairs, mean value {found.mean:+.4g} "
            f"[{found.lower:+.4g}, {found.upper:+.4g}] ({found.level:.0%}); "
            f"an average pair of the sample: {found.average:+.4g}"
        )
        shares = (
            f"{(found.values < 0).mean():.0%} of your pairs would harm, {(found.ranks >= 0.9).mean():.0%} "
            f"are in the sample's top tenth, {found.known.mean():.0%} of your text is like the sample's"
        )
        told = (
            f"the student of {self.model.pairs} pairs: rank correlation {student.spearman:.2f}, "
            f"{student.top_decile:.0%} of the best tenth found, on prompts that it had not seen"
        )
        if found.worth is None:
            return [mean, shares, told]
        worth = "worth as much as {:.1f} [{:.1f}, {:.1f}] average pairs of the sample".format(*found.worth)
        return [mean, worth, shares, told]


def make_quote(request: QuoteRequest) -> Quoted:
    """Quote the pairs of a file.

    Raises:
        VerificationError: the operator did not sign the quote model or the invitation.
        RemoteProtocolError: the quote model is for another base model or other terms than the invitation.
        UsageError, DataError: an option or a file that cannot be used.
        UnavailableError: a file is missing.
    """
    key = _key(request)
    model = read_quote_model(request.model, key)
    if request.invitation is not None:
        model.check_round(Invitation.open(read_envelope(request.invitation), key))
    loaded = read_pairs(request.data, on_bad_row=request.on_bad_row)
    quoted = Quoted(model, loaded, quote(model, loaded.pairs, level=request.level))
    if request.out is not None:
        rows = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in quoted.rows())
        write_atomic(request.out, rows.encode())
    return quoted


def _key(request: QuoteRequest) -> PublicKey:
    if (request.operator_key is None) == (request.home is None):
        raise UsageError(
            "--operator-key KEY, or --home DIR whose owner.toml names it",
            got="neither" if request.home is None else "both",
            do="name the key that you have from a channel you trust",
        )
    if request.home is not None:
        keys = OwnerHome.load(request.home).operator.everywhere()
        signer = read_envelope(request.model).signatures[0].keyid
        return next((key for key in keys if key.keyid == signer), keys[0])
    return PublicKey.from_base64(str(request.operator_key))
