"""A hostile operator signs whatever it likes, and witnesses cosign it: they do not judge what entries mean.

Everything below is a ledger with a sound tree and good signatures. The verifier must refuse it by an error of
its own, whatever is in it: never by a traceback, and never not at all.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from patronage_protocol import verify
from patronage_protocol.canonical import canonical_bytes, sha256
from patronage_protocol.errors import PatronageError, UsageError
from patronage_protocol.keys import PrivateKey
from patronage_protocol.ledger.checkpoints import Checkpoint, SignedCheckpoint
from patronage_protocol.ledger.cosignatures import Ed25519Cosigner
from patronage_protocol.ledger.merkle import leaf_hash, root_of_leaves
from patronage_protocol.ledger.published import PublishedLedger, read_published
from patronage_protocol.manifest import Manifest
from patronage_protocol.witnessing import witness_name

Keys = Callable[[str], PrivateKey]

ODD_VALUES: tuple[Any, ...] = (None, -1, 2**53 - 1, 1e308, "", "9" * 400, [], {})


@dataclass
class Forger:
    """The entries and blobs of an honest ledger, to be changed and signed again."""

    entries: list[bytes]
    blobs: dict[str, bytes]
    manifest: Manifest
    keys: Keys
    monkeypatch: pytest.MonkeyPatch

    def verdict(self, entries: list[bytes], blobs: Mapping[str, bytes]) -> verify.Verdict:
        """What the verifier says of these, signed by the operator and cosigned by every witness."""
        head = Checkpoint(self.manifest.origin, len(entries), root_of_leaves(map(leaf_hash, entries)))
        lines = [
            Ed25519Cosigner(witness_name(self.manifest.consortium, owner), self.keys(owner)).cosign(
                head, 2**31
            )
            for owner in self.manifest.witness.owners
        ]
        note = head.sign(self.keys("operator")).note.with_signatures(*lines)
        forged = PublishedLedger(tuple(entries), SignedCheckpoint(head, note), dict(blobs))  # type: ignore[arg-type]
        self.monkeypatch.setattr("patronage_protocol.verify.ledger.read_published", lambda _: forged)
        return verify.verify_ledger(Path("forged"))

    def with_blob(self, kind: str, field: str, change: Callable[[bytes], bytes]) -> verify.Verdict:
        """The verdict after a change of the blob that an entry names, with every digest of it changed too."""
        entry = next(data for data in self.entries if json.loads(data)["kind"] == kind)
        old = json.loads(entry)[field]
        blobs = dict(self.blobs)
        data = change(blobs.pop(old))
        renamed = {
            digest: blob.replace(old.encode(), sha256(data).encode()) for digest, blob in blobs.items()
        }
        names = {digest: sha256(blob) for digest, blob in renamed.items()} | {old: sha256(data)}
        entries = self.entries
        for before, after in names.items():
            entries = [one.replace(before.encode(), after.encode()) for one in entries]
        return self.verdict(entries, {sha256(data): data} | {sha256(blob): blob for blob in renamed.values()})


@pytest.fixture
def forge(
    ledger_of: Callable[..., Path], key_of: Keys, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Forger]:
    def make(scenario: Any) -> Forger:
        folder = ledger_of(scenario)
        read = read_published(folder)
        blobs = dict(read.blobs)
        manifest = Manifest.decode(blobs[json.loads(read.entries[0])["manifest"]])
        shutil.rmtree(folder.parent)
        return Forger(list(read.entries), blobs, manifest, key_of, monkeypatch)

    return make


@pytest.fixture
def forger(forge: Callable[..., Forger], scenarios: Any) -> Forger:
    owners = {name: scenarios["healthy"].owners[name] for name in ("ash", "birch", "elm", "fir")}
    return forge(replace(scenarios["healthy"], owners=owners, pairs=40))


def test_what_was_not_changed_is_verified(forger: Forger) -> None:
    assert forger.verdict(forger.entries, forger.blobs).checks
    assert forger.with_blob("value", "shares", lambda data: data).checks


def test_a_head_that_another_key_signed_or_that_no_quorum_cosigned_is_refused(forger: Forger) -> None:
    other = replace(forger, keys=lambda name: forger.keys("mallory" if name == "operator" else name))
    unfinished = forger.entries[:-1]  # where no quorum looks at the signature of the log
    assert forger.verdict(unfinished, forger.blobs)
    for entries in (forger.entries, unfinished):
        assert refused(partial(other.verdict, entries, forger.blobs))
    witnesses = forger.manifest.witness
    few = witnesses.model_copy(update={"owners": witnesses.owners[: witnesses.quorum - 1]})
    alone = replace(forger, manifest=forger.manifest.model_copy(update={"witness": few}))
    assert refused(partial(alone.verdict, forger.entries, forger.blobs))


def test_shares_that_the_margins_do_not_give_are_refused_under_every_policy(
    scenarios: Any, payout_terms: Callable[..., Any], forge: Callable[..., Forger]
) -> None:
    owners = {name: scenarios["healthy"].owners[name] for name in ("ash", "birch")}
    for number, terms in enumerate(({"policy": "signed", "bond": 5}, {"policy": "clipped"})):
        changes = {"payout": payout_terms(**terms)}
        played = replace(scenarios["healthy"], owners=owners, pairs=40, changes=changes)
        forger = forge(played)
        digest = next(json.loads(e)["shares"] for e in forger.entries if json.loads(e)["kind"] == "value")
        honest = json.loads(forger.blobs[digest])
        for change in (
            {"shares": ["-1", "-1"]},
            {"shares": ["0", "0"]},
            {"shares": ["5", "-5"]},
            {"shares": [str(int(share) + 65) for share in honest["shares"]]},
            {"lower": ["1", "1"]},
            {"grand": "0"},
            {"grand": "9" * 400},
            {"shares": ["9" * 400, "-" + "9" * 400]},
            {"detectable": ["-1", "-1"]},
            {"players": honest["players"][::-1]},
            {"method": "polynomial", "gap": "99999"},
        ):
            forged = canonical_bytes({**honest, **change})
            judge = partial(forger.with_blob, "value", "shares", lambda _, forged=forged: forged)
            assert refused(judge), (number, change)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from leaves(inner, (*path, key))


def put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = put(copy[path[0]], path[1:], new)
    return copy


def without(value: Any, path: tuple[Any, ...]) -> Any:
    copy = dict(value) if isinstance(value, dict) else list(value)
    if len(path) == 1:
        del copy[path[0]]
    else:
        copy[path[0]] = without(copy[path[0]], path[1:])
    return copy


def variants(data: bytes) -> Iterator[bytes]:
    """A JSON text with one value replaced by something odd, or left out."""
    value = json.loads(data)
    for place, path in enumerate(leaves(value)):
        for turn in range(3):
            changed = canonical_bytes(put(value, path, ODD_VALUES[(3 * place + turn) % len(ODD_VALUES)]))
            if changed != data:
                yield changed
        if path:
            yield canonical_bytes(without(value, path))


def refused(judge: Callable[[], verify.Verdict]) -> bool:
    try:
        judge()
    except PatronageError as error:
        line, kind = str(error), type(error)
    else:
        return False
    assert "\n" not in line
    assert kind is not UsageError, f"a ledger that does not hold is no wrong usage: {line}"
    return True


@pytest.mark.slow
def test_no_value_in_an_entry_can_be_another(forger: Forger) -> None:
    taken = []
    for place, entry in enumerate(forger.entries):
        for changed in variants(entry):
            entries = [*forger.entries[:place], changed, *forger.entries[place + 1 :]]
            if not refused(partial(forger.verdict, entries, forger.blobs)):
                taken.append(changed.decode())
    assert [text for text in taken if not harmless(text)] == []


def harmless(text: str) -> bool:
    """The operator's word alone: the time of an entry, what intake measured, the adapter at the end."""
    entry = json.loads(text)
    return entry["kind"] in {"final", "intake"} or entry["time"] == 2**53 - 1


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "field"), [("open", "manifest"), ("value", "shares")])
def test_no_value_in_the_terms_or_in_the_shares_can_be_another(forger: Forger, kind: str, field: str) -> None:
    digest = next(json.loads(e)[field] for e in forger.entries if json.loads(e)["kind"] == kind)
    taken = [
        changed.decode()
        for changed in variants(forger.blobs[digest])
        if not refused(partial(forger.with_blob, kind, field, lambda _, changed=changed: changed))
    ]
    assert taken == []


@pytest.mark.slow
def test_no_header_and_no_number_of_the_margins_can_be_another(forger: Forger) -> None:
    digest = next(json.loads(e)["margins"] for e in forger.entries if json.loads(e)["kind"] == "evaluate")
    header, _, matrix = forger.blobs[digest].partition(b"\n")
    changes = [changed + b"\n" + matrix for changed in variants(header)]
    for value in (-(2**31), -(2**31) + 1, 2**31 - 1, 0):
        for place in (0, len(matrix) // 8 * 4, len(matrix) - 4):
            raw = value.to_bytes(4, "little", signed=True)
            changes.append(header + b"\n" + matrix[:place] + raw + matrix[place + 4 :])
    changes += [header, header + b"\n", header + b"\n" + matrix[:-4], header + b"\n" + matrix + bytes(4)]
    taken = [
        changed
        for changed in changes
        if not refused(partial(forger.with_blob, "evaluate", "margins", lambda _, changed=changed: changed))
    ]
    assert [data for data in taken if not renames_sources(data, header)] == []


def renames_sources(changed: bytes, header: bytes) -> bool:
    """The operator's word alone: what a report calls the sources of the held-out pairs."""
    new, old = json.loads(changed.partition(b"\n")[0]), json.loads(header)
    names = new["labels"]
    assert len(names) == len(old["labels"])
    assert all(isinstance(name, str) for name in names)
    return bool(new | {"labels": []} == old | {"labels": []})


def test_no_entry_can_be_dropped_doubled_or_swapped(forger: Forger) -> None:
    taken = []
    for place in range(len(forger.entries)):
        before, entry, after = forger.entries[:place], forger.entries[place], forger.entries[place + 1 :]
        for how, entries in (
            ("dropped", [*before, *after]),
            ("doubled", [*before, entry, entry, *after]),
            ("swapped", [*before, *after[:1], entry, *after[1:]]),
        ):
            if entries != forger.entries and not refused(partial(forger.verdict, entries, forger.blobs)):
                taken.append((how, json.loads(entry)["kind"]))
    assert taken == [("dropped", "final")], "which leaves a round that is not finished, and said to be so"


def test_no_blob_can_be_left_out_or_added(forger: Forger) -> None:
    for digest in forger.blobs:
        fewer = {key: blob for key, blob in forger.blobs.items() if key != digest}
        assert refused(partial(forger.verdict, forger.entries, fewer))
    assert refused(lambda: forger.verdict(forger.entries, {**forger.blobs, sha256(b"more"): b"more"}))


def test_a_method_that_cannot_value_so_many_players_verifies_nothing(
    forge: Callable[..., Forger], scenarios: Any
) -> None:
    forger = forge(scenarios["crowd"])
    digest = next(json.loads(e)["shares"] for e in forger.entries if json.loads(e)["kind"] == "value")
    honest = json.loads(forger.blobs[digest])
    assert (len(honest["players"]), honest["method"]) == (24, "polynomial")
    forged = canonical_bytes({**honest, "method": "enumeration"})
    assert refused(partial(forger.with_blob, "value", "shares", lambda _: forged))
