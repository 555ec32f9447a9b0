"""A published ledger checked whole: its files, its entries, and whose word stands behind them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from patronage_protocol.entries import (
    AnyEntry,
    Evaluated,
    KeyRevoked,
    KeyRotated,
    Opened,
    Shown,
    Valued,
    decode_entry,
)
from patronage_protocol.errors import VerificationError
from patronage_protocol.key_ring import KeyRing
from patronage_protocol.ledger.notes import VerifierKey
from patronage_protocol.ledger.published import PublishedLedger, read_published
from patronage_protocol.ledger.trust import TrustPolicy
from patronage_protocol.rounds import Phase, Round, follow
from patronage_protocol.verify.phases import check_round, cosigned
from patronage_protocol.verify.verdict import Check, Verdict
from patronage_protocol.witnessing import check_quorum

__all__ = ["verify_ledger"]


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
    key, trusted = _check_checkpoint(ledger, rounds[-1].keys, policy)
    checks = [
        Check(
            phase="ledger",
            what=f"{len(entries)} entries, {len(ledger.blobs)} blobs: tree, tiles and files agree; "
            f"checkpoint signed by {key.name}",
        )
    ]
    for state in rounds:
        checks += check_round(state, lambda digest: _blob(ledger, digest))
    checks += _key_changes(entries)
    if (last := rounds[-1]).awaits_witnesses and last.phase is Phase.FINAL:
        seen = check_quorum(ledger.signed, last.manifest)
        checks.append(Check(phase="witness", what=f"the end {cosigned(seen, last)}"))
    if policy is not None and policy.quorum is not None:
        checks.append(Check(phase="trust", what=f"the policy's quorum: {', '.join(sorted(trusted))}"))
    if policy is not None and policy != (followed := rounds[-1].keys.policy_at(policy, len(entries))):
        checks.append(Check(phase="trust", what=_followed(policy, followed)))
    return Verdict(
        ledger=ledger,
        rounds=rounds,
        entries=tuple(map(tuple, by_round)),
        checks=tuple(checks),
        key=key,
        pinned=trust is not None,
        trusted=trusted,
    )


def _check_checkpoint(
    ledger: PublishedLedger, keys: KeyRing, trust: TrustPolicy | None
) -> tuple[VerifierKey, Mapping[str, int]]:
    """The key that the operator had at this head, and what the policy found when it knows that key."""
    size = ledger.signed.checkpoint.size
    witnessed = None if trust is None else keys.policy_at(trust, size).check(ledger.signed)
    key = keys.log.verifier_at(size)
    ledger.authenticate(key)
    if witnessed is not None and witnessed.log != key:
        raise VerificationError(
            f"a ledger by the operator of {witnessed.log.text}",
            got=f"manifests by the operator of {key.text}",
            do="do not trust it; ask the operator about its key",
            where="open",
        )
    return key, {} if witnessed is None else witnessed.times


def _key_changes(entries: Sequence[AnyEntry]) -> Iterator[Check]:
    for number, entry in enumerate(entries):
        if isinstance(entry, KeyRotated):
            what = f"{entry.party}'s key changed at entry {number}, signed by the old key and the new one"
            yield Check(phase="keys", what=what)
        if isinstance(entry, KeyRevoked):
            yield Check(phase="keys", what=f"{entry.party}'s key revoked at entry {number}, signed by itself")


def _followed(policy: TrustPolicy, followed: TrustPolicy) -> str:
    """That keys of a policy have had successors, and which."""
    old, now = ({*one.logs, *one.witnesses.values()} for one in (policy, followed))
    gone = ", ".join(sorted(key.name for key in old - now))
    new = ", ".join(sorted(key.text for key in now - old)) or "keys that it names already"
    return f"your file names earlier keys of {gone}; followed by their own rotations to {new}; renew the file"


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
