"""Receipts (https://c2sp.org/tlog-proof@v1): a file that shows alone that an entry is in a ledger.

    c2sp.org/tlog-proof@v1
    extra <base64>            here: the entry itself, so that nothing else is needed
    index <decimal>
    <base64 hash>...          from the leaf's sibling to the root's child

    <signed checkpoint>

The extra line is not authenticated by the format. Here it is the entry, and so the proof authenticates it.
"""

from dataclasses import dataclass
from typing import Self

from patronage_protocol.errors import FormatError, UsageError, VerificationError
from patronage_protocol.ledger import merkle
from patronage_protocol.ledger.checkpoints import SignedCheckpoint
from patronage_protocol.ledger.notes import MAX_NOTE_BYTES, VerifierKey
from patronage_protocol.ledger.store import Ledger
from patronage_protocol.ledger.tiles import MAX_ENTRY_BYTES
from patronage_protocol.ledger.trust import TrustPolicy
from patronage_protocol.strict import base64_bytes, base64_text, decimal, shortened, utf8

__all__ = ["MAX_RECEIPT_BYTES", "Receipt", "make_receipt"]

MAX_RECEIPT_BYTES = MAX_NOTE_BYTES + 2 * MAX_ENTRY_BYTES + 4096
MAX_PROOF_HASHES = 63
_HEADER = "c2sp.org/tlog-proof@v1"


@dataclass(frozen=True)
class Receipt:
    """An entry's place in a tree and the head of that tree.

    Attributes:
        index: number of the entry, from 0.
        proof: the inclusion proof, 32 bytes each.
        signed: the checkpoint, with whatever cosignatures it had.
        extra: the entry, or None where it is kept elsewhere.
    """

    index: int
    proof: tuple[bytes, ...]
    signed: SignedCheckpoint
    extra: bytes | None = None

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a receipt, which must be exactly what `encode` writes. Nothing is verified.

        Raises:
            FormatError: names the first thing that is wrong.
        """
        if len(data) > MAX_RECEIPT_BYTES:
            raise FormatError(
                f"a receipt of at most {MAX_RECEIPT_BYTES} bytes", got=str(len(data)), do="refuse it"
            )
        head, border, checkpoint = data.partition(b"\n\n")
        lines = utf8(head, what="a receipt").split("\n")
        if not border or lines[0] != _HEADER:
            raise FormatError(
                f"a receipt that begins with {_HEADER}", got=repr(shortened(lines[0])), do="check the file"
            )
        extra = None
        if len(lines) > 1 and lines[1].startswith("extra "):
            extra = base64_bytes(lines.pop(1).removeprefix("extra "), what="the extra data")
        if len(lines) < 2 or not lines[1].startswith("index ") or len(lines) > 2 + MAX_PROOF_HASHES:
            raise FormatError(
                "an index line and at most 63 hashes", got="other lines", do="refuse the receipt"
            )
        index = decimal(lines[1].removeprefix("index "), what="the index of a receipt")
        proof = tuple(base64_bytes(line, what="a hash of the proof", length=32) for line in lines[2:])
        return cls(index, proof, SignedCheckpoint.parse(checkpoint), extra)

    def encode(self) -> bytes:
        """The bytes of the file; give it the ending `.tlog-proof`."""
        lines = [_HEADER]
        if self.extra is not None:
            lines.append(f"extra {base64_text(self.extra)}")
        lines += [f"index {self.index}", *map(base64_text, self.proof), "", ""]
        return "\n".join(lines).encode() + self.signed.encode()

    def verify(self, trust: TrustPolicy | VerifierKey, entry: bytes | None = None) -> bytes:
        """Check everything and return the entry that is shown to be in the ledger.

        Args:
            trust: a policy, or the log's key where no witness is asked for.
            entry: the entry, if the receipt does not carry it; if both are there they must be the same.

        Raises:
            UsageError: the entry is neither given nor in the receipt.
            VerificationError: the checkpoint is not signed as `trust` asks, or the entry is not in its tree
                or not the one in the receipt.
        """
        if entry is not None and self.extra not in {None, entry}:
            raise VerificationError(
                "the entry that the receipt carries", got="another", do="do not trust it", where="receipt"
            )
        entry = self.extra if entry is None else entry
        if entry is None:
            raise UsageError("the entry, or a receipt that carries it", got="neither", do="give the entry")
        if isinstance(trust, TrustPolicy):
            trust.check(self.signed)
        else:
            self.signed.verify(trust)
        checkpoint = self.signed.checkpoint
        merkle.verify_inclusion(
            merkle.leaf_hash(entry), self.index, checkpoint.size, self.proof, checkpoint.root
        )
        return entry


def make_receipt(ledger: Ledger, index: int) -> Receipt:
    """The receipt of entry `index` under the latest checkpoint, with the entry in it.

    Raises:
        UsageError: there is no such entry.
    """
    signed = ledger.checkpoint
    proof = ledger.inclusion_proof(index, signed.checkpoint.size)
    return Receipt(index, proof, signed, ledger.entry(index))
