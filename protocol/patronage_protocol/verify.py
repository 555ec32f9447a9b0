"""Verify a published ledger from bytes to minor units, offline, on the base install.

    ledger     every byte of every file is accounted for; tree and checkpoint agree; the operator's key signed
    open       the operator signed the manifest
    accept, commit, close, reveal, intake, evaluate, pay, final
               each entry passes the state machine that the operator itself ran; owners' signatures hold; each
               adapter digest opens its commitment
    witness    a quorum of the manifest's witnesses cosigned the head at close and the head at final
    trust      the checkpoint satisfies the policy that the verifier brought
    value      shares, intervals and power recomputed from the margins
    pay        payouts recomputed from the shares, to the unit

What it cannot know is in `NOT_KNOWN`, and is printed with every verdict.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

from patronage_protocol.canonical import Canonical
from patronage_protocol.entries import AnyEntry, Evaluated, Opened, Shown, Valued, decode_entry
from patronage_protocol.errors import UsageError, VerificationError
from patronage_protocol.evidence import (
    CoalitionEvidence,
    Evidence,
    MarginEvidence,
    PoolEvidence,
    read_evidence,
)
from patronage_protocol.fixed_point import to_float
from patronage_protocol.keys import PublicKey
from patronage_protocol.ledger.merkle import leaf_hash, root_of_leaves
from patronage_protocol.ledger.notes import VerifierKey
from patronage_protocol.ledger.published import PublishedLedger, read_published
from patronage_protocol.ledger.receipts import Receipt
from patronage_protocol.ledger.trust import TrustPolicy
from patronage_protocol.manifest import GameTerms, Manifest
from patronage_protocol.rounds import Phase, Round, Standing, follow
from patronage_protocol.shares import Shares, check_shares, compute_shares
from patronage_protocol.valuation import value
from patronage_protocol.valuation.engine import MethodChoice
from patronage_protocol.witnessing import check_quorum

__all__ = ["NOT_KNOWN", "Check", "ReceiptVerdict", "Verdict", "verify_ledger", "verify_receipt"]

MOST_FOR_SECOND = 16
"""Up to so many players a second method is no burden."""

SECOND_TOLERANCE = 1e-8

NOT_KNOWN = (
    "that training happened as declared, or on whose data",
    "that the data was lawful to use",
    "that the margins were measured on the declared base model and held-out pairs",
    "that no trigger hides in an adapter",
    "that nobody was shown another ledger by more liars than the quorum bears; compare checkpoints",
    "that the witnesses are different people, and who is behind a key",
)


class Check(Canonical):
    """One thing that was checked and held."""

    phase: str
    what: str


@dataclass(frozen=True)
class Verdict:
    """A ledger that holds.

    Attributes:
        ledger: what was read.
        rounds: the rounds that its entries add up to.
        entries: the entries of each round.
        checks: what was checked, in the order of the phases.
        key: the operator's key.
        pinned: whether that key was given, rather than taken from the ledger itself.
        trusted: witnesses of the policy that was given, and when each cosigned the checkpoint.
    """

    ledger: PublishedLedger
    rounds: tuple[Round, ...]
    entries: tuple[tuple[AnyEntry, ...], ...]
    checks: tuple[Check, ...]
    key: VerifierKey
    pinned: bool
    trusted: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ReceiptVerdict:
    """A receipt that holds: the entry in it is in the log. `witnesses` are those that were looked for."""

    receipt: Receipt
    entry: bytes
    witnesses: tuple[str, ...]
    checks: tuple[Check, ...]


def verify_ledger(folder: Path, *, trust: TrustPolicy | VerifierKey | None = None) -> Verdict:
    """Check everything that a published ledger claims.

    Args:
        folder: the published ledger.
        trust: whom the verifier trusts: a policy, or the operator's key alone; without it the ledger's own
            word is taken for its key and its witnesses.

    Raises:
        VerificationError, FormatError, RemoteProtocolError: it does not hold; says where.
        UnavailableError: it cannot be read.
    """
    ledger = read_published(folder)
    entries = [decode_entry(data) for data in ledger.entries]
    rounds: tuple[Round, ...] = ()
    by_round: list[list[AnyEntry]] = []
    for entry in entries:
        rounds = follow(rounds, entry, lambda digest: _blob(ledger, digest))
        if isinstance(entry, Opened):
            by_round.append([])
        by_round[-1].append(entry)
    if not rounds:
        raise VerificationError("a ledger with a round", got="no entries", do="ask the operator for it")
    _check_blobs(ledger, entries)
    policy = TrustPolicy((trust,), {}, {}, None) if isinstance(trust, VerifierKey) else trust
    key, trusted = _check_checkpoint(ledger, rounds, policy)
    checks = [
        Check(
            phase="ledger",
            what=f"{len(entries)} entries, {len(ledger.blobs)} blobs: tree, tiles and files agree; "
            f"checkpoint signed by {key.name}",
        )
    ]
    for state in rounds:
        checks += _check_round(state, ledger)
    if (last := rounds[-1]).awaits_witnesses and last.phase is Phase.FINAL:
        seen = check_quorum(ledger.signed, last.manifest)
        checks.append(Check(phase="witness", what=f"the end {_cosigned(seen, last)}"))
    if policy is not None and policy.quorum is not None:
        checks.append(Check(phase="trust", what=f"the policy's quorum: {', '.join(sorted(trusted))}"))
    return Verdict(
        ledger=ledger,
        rounds=rounds,
        entries=tuple(map(tuple, by_round)),
        checks=tuple(checks),
        key=key,
        pinned=trust is not None,
        trusted=trusted,
    )


def verify_receipt(
    data: bytes, *, trust: TrustPolicy | None = None, verdict: Verdict | None = None
) -> ReceiptVerdict:
    """Check a receipt alone, against a ledger that was verified, or both.

    Args:
        data: the bytes of the file.
        trust: whom the verifier trusts.
        verdict: a ledger to which the receipt must belong; where `trust` is missing, its key and the quorum
            of the round's own manifest are asked for.

    Raises:
        UsageError: neither is given.
        FormatError: it is no receipt.
        VerificationError, RemoteProtocolError: it does not hold, or is of another log than the ledger.
    """
    receipt = Receipt.parse(data)
    head = receipt.signed.checkpoint
    checks: list[str] = []
    witnesses: tuple[str, ...] = ()
    if trust is not None:
        entry = receipt.verify(trust)
        witnesses = tuple(sorted(trust.check(receipt.signed).times))
        checks.append(f"signed and witnessed as the trust file asks: {', '.join(witnesses) or 'no witness'}")
    elif verdict is not None:
        entry = receipt.verify(verdict.key)
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
    """The quorum that the manifest of the entry's round asks for."""
    numbers = accumulate(map(len, verdict.entries))
    place = next(place for place, end in enumerate(numbers) if receipt.index < end)
    state = verdict.rounds[place]
    return () if state.aborted == "witnesses" else check_quorum(receipt.signed, state.manifest)


def _check_checkpoint(
    ledger: PublishedLedger, rounds: Sequence[Round], trust: TrustPolicy | None
) -> tuple[VerifierKey, Mapping[str, int]]:
    """The operator's key, which every manifest names and the policy lists, and what the policy found."""
    operator = rounds[0].manifest.operator
    claimed = VerifierKey.ed25519(rounds[0].manifest.origin, PublicKey.from_base64(operator.key))
    witnessed = None if trust is None else trust.check(ledger.signed)
    key = claimed if witnessed is None else witnessed.log
    ledger.authenticate(key)
    if key != claimed or any(state.manifest.operator != operator for state in rounds):
        raise VerificationError(
            f"every manifest by the operator of {key.text}",
            got="another operator",
            do="do not trust it; ask the operator about its key",
            where="open",
        )
    return key, {} if witnessed is None else witnessed.times


def _blob(ledger: PublishedLedger, digest: str) -> bytes:
    if digest not in ledger.blobs:
        raise VerificationError(
            f"the blob {digest}, which an entry names",
            got="no such file",
            do="fetch the whole ledger again, or do not trust it",
            where="ledger",
        )
    return ledger.blobs[digest]


_BLOBS: tuple[tuple[type[AnyEntry], str], ...] = (
    (Opened, "manifest"),
    (Evaluated, "margins"),
    (Valued, "shares"),
    (Shown, "opening"),
)
"""Kinds of entries that name a blob, and the field with its digest."""


def _check_blobs(ledger: PublishedLedger, entries: Iterable[AnyEntry]) -> None:
    named = {
        digest
        for entry in entries
        for digest in (getattr(entry, field) for kind, field in _BLOBS if isinstance(entry, kind))
    }
    if stray := set(ledger.blobs) - named:
        raise VerificationError(
            "only blobs that an entry names", got=f"the blob {min(stray)}", do="remove it or do not trust it"
        )


def _check_round(state: Round, ledger: PublishedLedger) -> list[Check]:
    """One line a phase for a round whose entries have passed the state machine."""
    manifest, number = state.manifest, Counter(state.standing.values())
    accepted = len(manifest.owners) - number[Standing.INVITED] - number[Standing.DECLINED]
    lines = {
        "open": f"manifest {manifest.digest[:16]} signed by {manifest.operator.name}; "
        f"{len(manifest.owners)} owners, {manifest.held_out.pairs} held-out pairs{_start(manifest)}",
        "accept": f"{accepted} accepted and {number[Standing.DECLINED]} declined, each in its own signature",
        "commit": f"{len(state.commitments)} commitments, each signed by its owner",
    }
    if state.phase is not Phase.OPEN:
        lines["close"] = f"the list of {len(state.commitments)} commitments, before any was opened"
    if state.witnessed:
        seen = check_quorum(state.witnessed[0], manifest)
        lines["close"] += f"; {_cosigned(seen, state)}"
        forfeited = number[Standing.FORFEITED]
        lines["reveal"] = f"{len(state.reveals)} openings match their commitments, {forfeited} forfeited"
    if state.verdicts:
        rejected = number[Standing.REJECTED]
        lines["intake"] = f"{len(state.players)} admitted within the declared bounds, {rejected} rejected"
    if state.margins is not None:
        evidence = read_evidence(_blob(ledger, state.margins), manifest)
        lines["evaluate"] = f"{_scope(evidence)}, {state.margins[:16]}"
        if state.shares is not None:
            lines["value"] = _check_shares(state.shares, evidence, manifest)
    if state.settlement is not None:
        paid = sum(payment.amount for payment in state.settlement.payments)
        refund, budget = state.settlement.refund, manifest.payout.budget
        lines["pay"] = f"{paid} paid, {refund} refunded of {budget} minor units, recomputed to the unit"
    if state.questions:
        asked = len(state.questions)
        lines["dispute"] = f"{asked} owners asked; {len(state.shown)} held-out pairs opened, in their places"
    if state.phase is Phase.FINAL:
        lines["final"] = _end(state)
    else:
        lines[state.phase.value] = "the round is not finished"
    return [Check(phase=phase, what=what) for phase, what in lines.items()]


def _start(manifest: Manifest) -> str:
    start = manifest.start
    return "" if start is None else f"; starts from the adapter {start.adapter[:16]} of round {start.round}"


def _end(state: Round) -> str:
    line = f"consortium adapter {state.adapter[:16]}" if state.adapter else "no adapter"
    if len(state.witnessed) > 1:
        line += f"; {_cosigned(check_quorum(state.witnessed[1], state.manifest), state)}"
    if state.aborted == "witnesses":
        line += "; aborted for want of witnesses, so no quorum stands behind its end"
    return line


def _scope(evidence: Evidence) -> str:
    players = len(evidence.header.players)
    if isinstance(evidence, CoalitionEvidence):
        pairs = len(evidence.header.clusters)
        return f"margins of all {(1 << players) - 1} coalitions of {players} players on {pairs} pairs"
    if isinstance(evidence, MarginEvidence):
        return f"margins of {players} players on {len(evidence.header.clusters)} pairs"
    header = evidence.header
    return (
        f"{header.prompts} pools of {header.size} candidates, log-ratios of {players} players and rewards "
        f"for {', '.join(header.objectives)}"
    )


def _cosigned(owners: Sequence[str], state: Round) -> str:
    terms = state.manifest.witness
    return f"cosigned by {', '.join(owners)}: {len(owners)} of {len(terms.owners)}, {terms.quorum} needed"


def _check_shares(published: Shares, evidence: Evidence, manifest: Manifest) -> str:
    """Recompute by the method that was named, and the shares alone by the other one where the size allows."""
    try:
        recomputed = compute_shares(evidence, manifest, method=published.method)
    except UsageError as error:  # too many players for the method, say
        raise VerificationError(
            error.expected,
            got=error.got,
            do="do not trust it; no shares follow by that method",
            where="value",
        ) from error
    difference = check_shares(published, recomputed)
    line = f"shares, intervals, power by {published.method} again, within {difference} units of 2**-40"
    other: MethodChoice = "polynomial" if published.method == "enumeration" else "enumeration"
    if len(published.players) > MOST_FOR_SECOND:
        return f"{line}; too many players for a second method"
    if manifest.game.utility == "win":
        return f"{line}; no second method for this utility"
    if isinstance(evidence, CoalitionEvidence):
        return f"{line}; no second method serves margins that do not add up"
    if isinstance(evidence, PoolEvidence):
        return f"{line}; {_pools_in_words(published)}"
    assert isinstance(manifest.game, GameTerms), "evidence was read by the terms"
    second = value(evidence.margins, utility=manifest.game.utility, method=other, interval=None)
    gaps = [
        abs(to_float(ours) - theirs) for ours, theirs in zip(published.shares, second.shares, strict=True)
    ]
    if max(gaps) > SECOND_TOLERANCE:
        raise VerificationError(
            f"the same shares by {other}",
            got=f"a difference of {max(gaps):.1e}",
            do="do not trust it",
            where="value",
        )
    return f"{line}; by {other}, within {max(gaps):.0e}"


def _pools_in_words(published: Shares) -> str:
    assert published.pool is not None, "the pools were recomputed"
    weakest = " + ".join(published.pool.weakest) or "nobody"
    return f"at least {to_float(published.pool.effective):.1f} effective candidates, fewest for {weakest}"
