"""Whose word stands behind a ledger: its keys, their changes, and a policy that is led along them."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from consortium import NEW, ORIGIN, Consortium, Rotated, new_key
from played import Scenario

from patronage_protocol.entries import KeyRotated
from patronage_protocol.errors import PatronageError, VerificationError
from patronage_protocol.keys import PrivateKey
from patronage_protocol.ledger.notes import VerifierKey
from patronage_protocol.ledger.publish import publish
from patronage_protocol.ledger.published import PublishedLedger, read_published
from patronage_protocol.ledger.store import Ledger
from patronage_protocol.ledger.trust import TrustPolicy
from patronage_protocol.rounds import Phase
from patronage_protocol.verify import Verdict, verify_ledger
from patronage_protocol.witnessing import witness_key, witness_policy

Keys = Callable[[str], PrivateKey]
Ledgers = Callable[..., Path]


def said(verdict: Verdict, *phases: str) -> list[str]:
    """The lines about these phases, in the order in which they are said."""
    return [check.what for check in verdict.checks if check.phase in phases]


@pytest.fixture
def two(scenarios: Mapping[str, Scenario]) -> Scenario:
    """A round of two owners on sixteen pairs."""
    healthy = scenarios["healthy"]
    return replace(healthy, owners={name: healthy.owners[name] for name in ("ash", "birch")}, pairs=16)


def test_a_ledger_without_an_entry_shows_nothing_and_is_not_verified(tmp_path: Path, key_of: Keys) -> None:
    with Ledger.create(tmp_path / "ledger.sqlite", ORIGIN, key_of("operator")) as ledger:
        publish(ledger, tmp_path / "ledger")
    with pytest.raises(VerificationError, match="a ledger with a round, got no entries"):
        verify_ledger(tmp_path / "ledger")


def test_a_blob_is_named_by_an_entry_and_an_entrys_blob_is_there(
    two: Scenario, ledger_of: Ledgers, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = ledger_of(two)
    honest = read_published(folder)

    def judge(blobs: Mapping[str, bytes]) -> None:
        forged = PublishedLedger(honest.entries, honest.signed, dict(blobs))  # type: ignore[arg-type]
        monkeypatch.setattr("patronage_protocol.verify.ledger.read_published", lambda _: forged)
        verify_ledger(folder)

    judge(honest.blobs)
    for stray in ("00" * 32, "ff" * 32):
        with pytest.raises(VerificationError, match=f"the blob {stray}"):
            judge({**honest.blobs, stray: b"what nobody named"})
    for missing in honest.blobs:
        with pytest.raises(VerificationError, match=f"the blob {missing}, which an entry names"):
            judge({digest: data for digest, data in honest.blobs.items() if digest != missing})


def test_the_verdict_tells_the_key_and_whether_the_verifier_gave_it(
    two: Scenario, ledger_of: Ledgers, key_of: Keys
) -> None:
    folder, key = ledger_of(two), VerifierKey.ed25519(ORIGIN, key_of("operator").public)
    unpinned, pinned = verify_ledger(folder), verify_ledger(folder, trust=key)
    assert (unpinned.key, unpinned.pinned, unpinned.trusted) == (key, False, {})
    assert (pinned.key, pinned.pinned, pinned.trusted) == (key, True, {})
    assert said(pinned, "trust", "keys") == said(unpinned, "trust", "keys") == []
    assert [len(entries) for entries in pinned.entries] == [len(pinned.ledger.entries)]


def test_a_policy_with_a_quorum_is_told_with_who_made_it_up(two: Scenario, ledger_of: Ledgers) -> None:
    folder = ledger_of(two)
    manifest = verify_ledger(folder).rounds[0].manifest
    verdict = verify_ledger(folder, trust=witness_policy(manifest))
    assert said(verdict, "trust") == ["the policy's quorum: orchard/ash, orchard/birch"]
    assert set(verdict.trusted) == {"orchard/ash", "orchard/birch"}
    unasked = TrustPolicy(witness_policy(manifest).logs, {b"ash": witness_key(manifest, "ash")}, {}, None)
    verdict = verify_ledger(folder, trust=unasked)
    assert (said(verdict, "trust"), set(verdict.trusted)) == ([], {"ash"})


def test_a_ledger_by_another_operator_whom_the_trusted_one_countersigned_is_refused(
    two: Scenario, ledger_of: Ledgers, key_of: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its head bears the signature that the verifier asks for; its terms are by somebody else."""
    folder = ledger_of(two)
    honest = read_published(folder)
    lines = honest.signed.checkpoint.sign(key_of("trusted")).note.signatures
    note = honest.signed.note.with_signatures(*lines)
    both = replace(honest, signed=replace(honest.signed, note=note))
    monkeypatch.setattr("patronage_protocol.verify.ledger.read_published", lambda _: both)
    assert verify_ledger(folder).checks
    trusted = VerifierKey.ed25519(ORIGIN, key_of("trusted").public)
    with pytest.raises(VerificationError) as refused:
        verify_ledger(folder, trust=trusted)
    theirs = VerifierKey.ed25519(ORIGIN, key_of("operator").public)
    assert refused.value.expected == f"a ledger by the operator of {trusted.text}"
    assert refused.value.got == f"manifests by the operator of {theirs.text}"


def test_the_end_of_an_unfinished_ledger_is_not_said_to_be_witnessed(
    two: Scenario, ledger_of: Ledgers
) -> None:
    assert said(verify_ledger(ledger_of(replace(two, until=Phase.CLOSED))), "witness") == []


def changes(consortium: Consortium) -> list[tuple[int, str]]:
    """The number of each entry that rotated a key, and whose."""
    return [
        (number, entry.party)
        for number, entry in enumerate(consortium.entries())
        if isinstance(entry, KeyRotated)
    ]


def test_every_change_of_a_key_is_told_with_its_entry(consortium: Consortium, tmp_path: Path) -> None:
    consortium.round().ended().rotate("quince", new_key("quince 2")).revoke("ash")
    revoked = consortium.size - 1
    ((rotated, _),) = changes(consortium)
    with consortium.ledger(tmp_path / "ledger.sqlite") as ledger:
        publish(ledger, tmp_path / "ledger")
    verdict = verify_ledger(tmp_path / "ledger")
    assert said(verdict, "keys") == [
        f"quince's key changed at entry {rotated}, signed by the old key and the new one",
        f"ash's key revoked at entry {revoked}, signed by itself",
    ]
    assert revoked == rotated + 1


def led(gone: str, new: str) -> str:
    return f"your file names earlier keys of {gone}; followed by their own rotations to {new}; renew the file"


def test_a_policy_that_was_led_along_rotations_is_told_which_keys_to_renew(rotated: Rotated) -> None:
    operator = VerifierKey.ed25519(ORIGIN, new_key("operator 2").public)
    ash = VerifierKey.cosigner("orchard/ash", NEW.public)
    quorum = "the policy's quorum: orchard/ash, orchard/quince"
    verdict = verify_ledger(rotated.folder, trust=rotated.first_policy)
    assert said(verdict, "trust") == [
        quorum,
        led(f"{ORIGIN}, orchard/ash", ", ".join(sorted((operator.text, ash.text)))),
    ]
    assert (verdict.key, verdict.pinned) == (operator, True)
    key = rotated.first_policy.logs[0]
    assert said(verify_ledger(rotated.folder, trust=key), "trust") == [led(ORIGIN, operator.text)]
    renewed = witness_policy(rotated.consortium.state.manifest)
    assert said(verify_ledger(rotated.folder, trust=renewed), "trust") == [quorum]
    assert said(verify_ledger(rotated.folder, trust=operator), "trust") == []
    either = TrustPolicy((key, operator), {}, {}, None)
    known = led(ORIGIN, "keys that it names already")
    assert said(verify_ledger(rotated.folder, trust=either), "trust") == [known]


def test_the_policy_is_followed_to_the_size_of_the_ledger_and_no_further(
    consortium: Consortium, tmp_path: Path
) -> None:
    """The rotation of the very last entry counts for the head above it; that of an owner as well."""
    first = witness_policy(consortium.round().state.manifest)
    consortium.ended().rotate("operator", new_key("operator 2"))
    with consortium.ledger(tmp_path / "ledger.sqlite") as ledger:
        publish(ledger, tmp_path / "ledger")
    log = TrustPolicy(first.logs, {}, {}, None)
    verdict = verify_ledger(tmp_path / "ledger", trust=log)
    assert verdict.key == VerifierKey.ed25519(ORIGIN, new_key("operator 2").public)
    assert said(verdict, "trust") == [led(ORIGIN, verdict.key.text)]
    stranger = TrustPolicy((VerifierKey.ed25519(ORIGIN, NEW.public),), {}, {}, None)
    with pytest.raises(PatronageError, match="a log of the policy"):
        verify_ledger(tmp_path / "ledger", trust=stranger)


def test_of_three_rounds_each_has_its_entries_and_the_last_ones_keys_count(
    consortium: Consortium, tmp_path: Path
) -> None:
    first = witness_policy(consortium.round().state.manifest)
    consortium.ended().rotate("operator", new_key("operator 2")).round()
    consortium.ended().rotate("ash", NEW).round()
    with consortium.ledger(tmp_path / "ledger.sqlite") as ledger:
        publish(ledger, tmp_path / "ledger")
    verdict = verify_ledger(tmp_path / "ledger", trust=first)
    assert verdict.entries == tuple(tuple(play.entries) for play in consortium.plays)
    assert [state.manifest.round for state in verdict.rounds] == [1, 2, 3]
    operator = VerifierKey.ed25519(ORIGIN, new_key("operator 2").public)
    ash = VerifierKey.cosigner("orchard/ash", NEW.public)
    assert verdict.key == operator
    assert set(verdict.trusted) == {"orchard/ash", "orchard/quince"}
    assert said(verdict, "trust")[-1] == led(
        f"{ORIGIN}, orchard/ash", ", ".join(sorted((operator.text, ash.text)))
    )
