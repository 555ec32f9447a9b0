"""A receipt checked alone, against a ledger that was verified, or both."""

from itertools import accumulate

from patronage_protocol.errors import UsageError, VerificationError
from patronage_protocol.ledger.merkle import leaf_hash, root_of_leaves
from patronage_protocol.ledger.receipts import Receipt
from patronage_protocol.ledger.trust import TrustPolicy
from patronage_protocol.verify.verdict import Check, ReceiptVerdict, Verdict
from patronage_protocol.witnessing import check_quorum

__all__ = ["verify_receipt"]


def verify_receipt(
    data: bytes, *, trust: TrustPolicy | None = None, verdict: Verdict | None = None
) -> ReceiptVerdict:
    """Check a receipt alone, against a ledger that was verified, or both.

    Args:
        data: the bytes of the file.
        trust: whom the verifier trusts.
        verdict: a ledger to which the receipt must belong; where `trust` is missing, the key that it had
            then and the quorum that its round's manifest asks for are required.

    Raises:
        UsageError: neither is given.
        FormatError: it is no receipt.
        VerificationError, RemoteProtocolError: it does not hold, or is of another log than the ledger.
    """
    receipt = Receipt.parse(data)
    head = receipt.signed.checkpoint
    checks: list[str] = []
    witnesses: tuple[str, ...] = ()
    keys = None if verdict is None else verdict.rounds[-1].keys
    if trust is not None:
        policy = trust if keys is None else keys.policy_at(trust, head.size)
        entry = receipt.verify(policy)
        witnesses = tuple(sorted(policy.check(receipt.signed).times))
        checks.append(f"signed and witnessed as the trust file asks: {', '.join(witnesses) or 'no witness'}")
    elif keys is not None:
        entry = receipt.verify(keys.log.verifier_at(head.size))
    else:
        raise UsageError(
            "a trust file or a ledger beside the receipt", got="neither", do="add --trust FILE or the ledger"
        )
    checks.append(f"entry {receipt.index} of the {head.size} under the head of {head.origin}")
    if verdict is not None:
        checks += _belongs(receipt, verdict)
        witnesses = witnesses or _witnesses_of(receipt, verdict)
    return ReceiptVerdict(
        receipt, entry, witnesses, tuple(Check(phase="receipt", what=what) for what in checks)
    )


def _belongs(receipt: Receipt, verdict: Verdict) -> list[str]:
    """The receipt's head is a head of this very ledger; a receipt from a fork convicts the operator."""
    head, entries = receipt.signed.checkpoint, verdict.ledger.entries
    if head.size > len(entries) or root_of_leaves(map(leaf_hash, entries[: head.size])) != head.root:
        raise VerificationError(
            f"a receipt whose head of {head.size} entries the ledger continues",
            got=f"a ledger of {len(entries)} entries that does not",
            do="keep both: unless the ledger is older, they prove a fork (patronage prove-equivocation)",
            where="receipt",
        )
    return ["the ledger continues that head, so both are of one log"]


def _witnesses_of(receipt: Receipt, verdict: Verdict) -> tuple[str, ...]:
    """The quorum that the manifest of the head's round asks for.

    That is a later round than the entry's where the receipt was made later, perhaps with other witnesses.
    """
    ends = accumulate(map(len, verdict.entries))
    size = receipt.signed.checkpoint.size
    state = verdict.rounds[next(place for place, end in enumerate(ends) if size <= end)]
    return () if state.aborted == "witnesses" else check_quorum(receipt.signed, state.manifest)
