"""Verify a published ledger from bytes to minor units, offline, on the base install.

    ledger     every byte of every file is accounted for; tree and checkpoint agree; the operator's key signed
    open       the operator signed the manifest
    accept, commit, close, reveal, intake, evaluate, pay, final
               each entry passes the state machine that the operator itself ran; owners' signatures hold; each
               adapter digest opens its commitment
    keys       who changed its key between two rounds did so under the old key and the new one
    witness    a quorum of the manifest's witnesses cosigned the head at close and the head at final
    trust      the checkpoint satisfies the policy that the verifier brought, rotations followed
    value      shares, intervals and power recomputed from the margins
    pay        payouts recomputed from the shares, to the unit

What it cannot know is in `not_known`, and is printed with every verdict.
"""

from patronage_protocol.verify.ledger import verify_ledger
from patronage_protocol.verify.receipts import verify_receipt
from patronage_protocol.verify.verdict import Check, ReceiptVerdict, Verdict, not_known

__all__ = ["Check", "ReceiptVerdict", "Verdict", "not_known", "verify_ledger", "verify_receipt"]
