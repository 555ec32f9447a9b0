"""Whole rounds with the real code of both sides: honest ones, hostile ones, interrupted ones."""

import errno
import json
import os
import re
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, RecordDict
from typer.testing import CliRunner

from patronage_client.app import client_app
from patronage_client.owner import Owner
from patronage_protocol.adapters import encode
from patronage_protocol.canonical import sha256
from patronage_protocol.cli import application
from patronage_protocol.entries import AnyEntry, decode_entry
from patronage_protocol.envelopes import Envelope
from patronage_protocol.errors import (
    LocalProtocolError,
    PatronageError,
    RemoteProtocolError,
    UnavailableError,
    UsageError,
    VerificationError,
)
from patronage_protocol.held_out import HeldOutOpening
from patronage_protocol.keys import PrivateKey, PublicKey
from patronage_protocol.ledger.checkpoints import SignedCheckpoint
from patronage_protocol.ledger.notes import Note, VerifierKey
from patronage_protocol.ledger.published import read_published
from patronage_protocol.ledger.receipts import Receipt
from patronage_protocol.ledger.witness import make_memory
from patronage_protocol.manifest import DisputeTerms
from patronage_protocol.pair_files import read_pairs
from patronage_protocol.policy import shared_base_model
from patronage_protocol.rounds import Phase, Round
from patronage_protocol.verify import verify_ledger
from patronage_protocol.witnessing import check_quorum, witness_key, witness_policy
from patronage_server.app import server_app
from patronage_server.book import Book
from patronage_server.follow import entries_since
from patronage_server.terms import RoundTerms
from patronage_simulations import consortium as consortium_module
from patronage_simulations.consortium import Consortium, Plan, found
from patronage_simulations.engines import SimulatedClock, run_local
from patronage_simulations.grid import LocalGrid

Adapter = Callable[..., dict[str, np.ndarray]]
Trained = Callable[..., Consortium]


def silent(_entry: AnyEntry, _state: Round) -> None:
    """A listener that does nothing."""


def run(consortium: Consortium) -> Round:
    """Run the round to its end and return it as the published ledger tells it."""
    run_local(consortium, silent)
    return verify_ledger(consortium.ledger).rounds[-1]


def entries(consortium: Consortium) -> list[dict[str, Any]]:
    """The published entries without their times; of a cosigned head its size and who signed it."""
    ledger = read_published(consortium.ledger)
    return [_without_times(json.loads(entry)) for entry in ledger.entries]


def _without_times(entry: dict[str, Any]) -> dict[str, Any]:
    if entry["kind"] == "witness":
        signed = SignedCheckpoint.parse(entry["checkpoint"].encode())
        lines = [line.name for line in signed.note.signatures]
        entry = {**entry, "checkpoint": [signed.checkpoint.size, *lines]}
    return {**entry, "time": 0}


def test_an_honest_round_ends_in_a_ledger_that_verifies_and_receipts_that_stand_alone(
    trained: Trained,
) -> None:
    consortium = trained({"ann": 1, "bob": 2, "cy": 3})
    final = run(consortium)
    assert final.phase is Phase.FINAL
    assert final.players == ("ann", "bob", "cy")
    key = VerifierKey.ed25519(
        consortium.manifest.origin, PublicKey.from_base64(consortium.manifest.operator.key)
    )
    assert final.settlement is not None
    for home, payment in zip(consortium.owners, final.settlement.payments, strict=True):
        receipt = Receipt.parse((home / "rounds" / "orchard-1" / "receipt.tlog-proof").read_bytes())
        paid = decode_entry(receipt.verify(key))
        assert (paid.kind, paid.owner, paid.amount) == ("pay", home.name, payment.amount)  # type: ignore[union-attr]


def test_the_exported_adapter_is_the_one_that_the_ledger_names(trained: Trained) -> None:
    consortium = trained({"ann": 1, "bob": 2})
    final = run(consortium)
    exported = (consortium.folder / "adapter" / "adapter_model.safetensors").read_bytes()
    assert final.adapter == sha256(exported)


def test_the_same_seed_gives_the_same_round(trained: Trained, tmp_path: Path) -> None:
    first = trained({"ann": 1, "bob": 2})
    run(first)
    kept = first.folder.rename(tmp_path / "first")
    second = trained({"ann": 1, "bob": 2})
    run(second)
    # Deadlines are set by the clock, and everything that is signed names the manifest that holds them.
    shares = [read_published(folder / "ledger").blobs for folder in (kept, second.folder)]
    margins = [{d: b for d, b in blobs.items() if b"\n" in b} for blobs in shares]
    assert margins[0] == margins[1]


def with_nan(adapter: dict[str, np.ndarray]) -> bytes:
    data = bytearray(encode(adapter))
    data[-4:] = struct.pack("<f", float("nan"))
    return bytes(data)


def with_header(data: bytes, change: Callable[[str], str]) -> bytes:
    """The same file with another header."""
    (length,) = struct.unpack("<Q", data[:8])
    header = change(data[8 : 8 + length].decode().rstrip()).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + data[8 + length :]


def first_tensor_again(header: str) -> str:
    name = next(iter(json.loads(header)))
    return header.replace("{", '{"' + name + '":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},', 1)


BAD_ADAPTERS: dict[str, tuple[Callable[[dict[str, np.ndarray]], bytes], str]] = {
    "a value that is NaN": (with_nan, "finite"),
    "a tensor of another shape": (lambda a: encode({k: t[:, :1].copy() for k, t in a.items()}), "shape"),
    "tensors of another dtype": (
        lambda a: with_header(encode(a), lambda header: header.replace("F32", "F16")),
        "dtype|F16|float32",
    ),
    "a tensor too many": (lambda a: encode({**a, "zz.lora_A.weight": next(iter(a.values()))}), "zz"),
    "a tensor too few": (lambda a: encode(dict(list(a.items())[1:])), "lora"),
    "a JSON key twice": (lambda a: with_header(encode(a), first_tensor_again), "twice"),
    "a huge header": (lambda a: struct.pack("<Q", 2**40) + encode(a)[8:], "header"),
    "a norm beyond the cap": (lambda a: encode({k: 100 * t for k, t in a.items()}), "norm of dW"),
}


@pytest.mark.parametrize("fault", BAD_ADAPTERS)
def test_an_adapter_that_breaks_the_format_is_rejected_with_its_reason_and_the_round_goes_on(
    trained: Trained, adapter: Adapter, plan_of: Callable[..., Plan], tmp_path: Path, fault: str
) -> None:
    make, problem = BAD_ADAPTERS[fault]
    probe = trained({"ann": 1, "bob": 2, "eve": 3})
    bad = make(adapter(probe.manifest, 3))
    (probe.folder / "owners" / "eve" / "rounds" / "orchard-1" / "adapter.safetensors").write_bytes(bad)
    final = run(probe)
    assert final.players == ("ann", "bob")
    assert re.search(problem, final.verdicts["eve"].reason)
    assert final.settlement is not None
    assert {p.owner: p.reason for p in final.settlement.payments}["eve"] == "rejected"


def test_a_copy_is_rejected_even_behind_a_change_of_basis(
    trained: Trained, adapter: Adapter, rotated: Adapter
) -> None:
    consortium = trained({"ann": 1, "bob": 2, "mimic": 3})
    copied = rotated(adapter(consortium.manifest, 1), consortium.manifest.lora, seed=9)
    folder = consortium.folder / "owners" / "mimic" / "rounds" / "orchard-1"
    (folder / "adapter.safetensors").write_bytes(encode(copied))
    final = run(consortium)
    assert final.players == ("ann", "bob")
    verdict = final.verdicts["mimic"]
    assert verdict.nearest is not None
    assert verdict.nearest.owner == "ann"
    assert verdict.nearest.cosine == pytest.approx(1.0, abs=1e-6)


def test_an_owner_that_crashes_forfeits_and_the_others_are_paid(trained: Trained) -> None:
    consortium = trained({"ann": 1, "bob": 2, "cy": 3})
    home = consortium.folder / "owners" / "cy"
    shutil.rmtree(home / "rounds")
    (home / "rounds").write_text("in the way of the folder")
    final = run(consortium)
    assert final.players == ("ann", "bob")
    assert final.owners(*(s for s in final.standing.values() if s.value == "forfeited")) == ("cy",)


def test_an_owner_with_another_base_model_declines_in_its_own_words(trained: Trained) -> None:
    consortium = trained({"ann": 1, "bob": 2, "cy": 3})
    config = consortium.folder / "owners" / "cy" / "owner.toml"
    config.write_text(config.read_text() + 'precision = "bfloat16"\n')
    final = run(consortium)
    assert final.standing["cy"].value == "declined"
    assert final.players == ("ann", "bob")


def test_an_owner_that_trusts_another_operator_does_not_answer(trained: Trained) -> None:
    consortium = trained({"ann": 1, "bob": 2, "cy": 3})
    config = consortium.folder / "owners" / "cy" / "owner.toml"
    stranger = consortium.manifest.owners[0].key
    config.write_text(config.read_text().replace(consortium.manifest.operator.key, stranger))
    final = run(consortium)
    assert final.standing["cy"].value == "forfeited"


class Interrupted(BaseException):
    """The operator's process ends here."""


def test_an_operator_that_is_interrupted_after_any_entry_goes_on_to_the_same_ledger(
    trained: Trained, terms: RoundTerms, tmp_path: Path
) -> None:
    disputable = terms.model_copy(update={"dispute": DisputeTerms(seconds=600, pairs=1)})
    consortium = trained({"ann": 1, "bob": 2, "mimic": 1}, terms=disputable)
    founded = tmp_path / "founded"
    shutil.copytree(consortium.folder, founded)
    run(consortium)
    expected = entries(consortium)
    assert {"witness", "ask", "show", "final"} <= {entry["kind"] for entry in expected}
    for last in range(len(expected)):
        shutil.rmtree(consortium.folder)
        shutil.copytree(founded, consortium.folder)
        seen: list[AnyEntry] = []

        def until(entry: AnyEntry, _state: Round, seen: list[AnyEntry] = seen, last: int = last) -> None:
            seen.append(entry)
            if len(seen) > last:
                raise Interrupted

        with pytest.raises(Interrupted):
            run_local(consortium, until)
        run(consortium)
        assert entries(consortium) == expected, f"interrupted after {seen[-1].kind}"


@pytest.mark.parametrize("last", range(6))
def test_an_operator_that_is_interrupted_among_cosignatures_goes_on_to_the_same_ledger(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, last: int
) -> None:
    """The witness has remembered and signed; its answer is lost with the operator."""
    consortium = trained({"ann": 1, "bob": 2, "cy": 3})
    cosign, calls = Owner.cosign, iter(range(10_000))

    def interrupted(owner: Owner, request: Envelope) -> Envelope:
        answer = cosign(owner, request)
        if next(calls) == last:
            raise Interrupted
        return answer

    monkeypatch.setattr(Owner, "cosign", interrupted)
    with pytest.raises(Interrupted):
        run_local(consortium, silent)
    final = run(consortium)
    assert final.phase is Phase.FINAL
    assert [check_quorum(head, final.manifest) for head in final.witnessed] == [("ann", "bob", "cy")]
    assert check_quorum(read_published(consortium.ledger).signed, final.manifest) == ("ann", "bob", "cy")


def forget(consortium: Consortium, *owners: str) -> None:
    """Take the memory of these witnesses away, without which they cosign nothing."""
    for owner in owners:
        memory = consortium.folder / "owners" / owner / "witness.sqlite"
        memory.rename(memory.with_name("kept.sqlite"))


def test_owners_see_the_held_out_pairs_that_they_ask_for_and_the_round_still_verifies(
    trained: Trained, terms: RoundTerms
) -> None:
    disputable = terms.model_copy(update={"dispute": DisputeTerms(seconds=600, pairs=2)})
    consortium = trained({"ann": 1, "bob": 2, "cy": 3}, terms=disputable)
    config = consortium.folder / "owners" / "cy" / "owner.toml"
    config.write_text(config.read_text() + "audit = 0\n")
    final = run(consortium)
    assert {owner: len(pairs) for owner, pairs in final.questions.items()} == {"ann": 2, "bob": 2, "cy": 0}
    assert set(final.shown) == {*final.questions["ann"], *final.questions["bob"]}
    ledger = read_published(consortium.ledger)
    shown = [entry["opening"] for entry in entries(consortium) if entry["kind"] == "show"]
    held_out = read_pairs(consortium.operator / "held-out.jsonl").pairs
    for digest in shown:
        opening = HeldOutOpening.decode(ledger.blobs[digest])
        assert opening.pair == held_out[opening.index]


def test_a_witness_that_lost_its_memory_does_not_stop_a_quorum_of_the_others(trained: Trained) -> None:
    consortium = trained({"ann": 1, "bob": 2, "cy": 3})
    forget(consortium, "ann")
    final = run(consortium)
    assert final.players == ("ann", "bob", "cy")
    assert check_quorum(final.witnessed[0], final.manifest) == ("bob", "cy")
    assert check_quorum(read_published(consortium.ledger).signed, final.manifest) == ("bob", "cy")


def test_a_close_without_a_quorum_aborts_the_round_before_anybody_reveals(trained: Trained) -> None:
    consortium = trained({"ann": 1, "bob": 2, "cy": 3})
    forget(consortium, "ann", "bob")
    final = run(consortium)
    assert final.aborted == "witnesses"
    assert final.reveals == {}
    assert not (consortium.operator / "adapters").exists()
    assert final.settlement is not None
    assert final.settlement.refund == final.manifest.payout.budget
    assert {payment.amount for payment in final.settlement.payments} == {0}
    said = {check.phase: check.what for check in verify_ledger(consortium.ledger).checks}
    assert "aborted for want of witnesses" in said["final"]


def test_no_owner_reveals_to_an_operator_that_shows_no_quorum(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    consortium = trained({"ann": 1, "bob": 2, "cy": 3})
    honest = Book.closing_receipt

    def without_witnesses(book: Book) -> str:
        receipt = Receipt.parse(honest(book).encode())
        note = Note(receipt.signed.note.text, receipt.signed.note.signatures[:2])
        signed = SignedCheckpoint(receipt.signed.checkpoint, note)
        return replace(receipt, signed=signed).encode().decode()

    monkeypatch.setattr(Book, "closing_receipt", without_witnesses)
    final = run(consortium)
    assert final.reveals == {}
    assert final.aborted == "players"
    reasons = [entry["reason"] for entry in entries(consortium) if entry["kind"] == "forfeit"]
    assert all("witness §quorum" in reason for reason in reasons)
    assert len(reasons) == 3


def test_an_end_without_a_quorum_is_published_once_enough_witnesses_are_back(trained: Trained) -> None:
    consortium = trained({"ann": 1, "bob": 2, "cy": 3})

    def after_the_close(entry: AnyEntry, _state: Round) -> None:
        if entry.kind == "evaluate":
            forget(consortium, "ann", "bob")

    with pytest.raises(UnavailableError, match="nothing was published"):
        run_local(consortium, after_the_close)
    assert not (consortium.ledger / "checkpoint").exists()
    memory = consortium.folder / "owners" / "ann" / "witness.sqlite"
    memory.with_name("kept.sqlite").rename(memory)
    final = run(consortium)
    assert check_quorum(read_published(consortium.ledger).signed, final.manifest) == ("ann", "cy")


def test_a_final_head_without_its_quorum_does_not_verify(trained: Trained) -> None:
    consortium = trained({"ann": 1, "bob": 2, "cy": 3})
    run(consortium)
    signed = read_published(consortium.ledger).signed
    for kept in (1, 2):
        note = Note(signed.note.text, signed.note.signatures[:kept])
        (consortium.ledger / "checkpoint").write_bytes(note.encode())
        with pytest.raises(RemoteProtocolError, match="witness §quorum"):
            verify_ledger(consortium.ledger)


def test_an_operator_whose_store_is_older_than_what_a_witness_saw_stops(trained: Trained) -> None:
    consortium = trained({"ann": 1, "bob": 2, "cy": 3})
    store = consortium.operator / "ledger.sqlite"

    def back_up(entry: AnyEntry, _state: Round) -> None:
        if entry.kind == "commit":
            for path in consortium.operator.glob("ledger.sqlite*"):
                shutil.copy(path, path.with_name(path.name.replace("ledger", "backup")))

    run_local(consortium, back_up)
    for path in consortium.operator.glob("backup.sqlite*"):
        shutil.copy(path, path.with_name(path.name.replace("backup", "ledger")))
    shutil.rmtree(consortium.ledger)
    (consortium.folder / "second-place" / "head").unlink()
    assert store.exists()
    with pytest.raises(LocalProtocolError, match="old backup"):
        run_local(consortium, silent)
    assert not consortium.ledger.exists()


def test_a_restored_backup_is_refused_by_the_second_place_before_anything_is_signed(trained: Trained) -> None:
    consortium = trained({"ann": 1, "bob": 2, "cy": 3})
    store = consortium.operator / "ledger.sqlite"

    def back_up(entry: AnyEntry, _state: Round) -> None:
        if entry.kind == "reveal":
            for path in consortium.operator.glob("ledger.sqlite*"):
                shutil.copy(path, path.with_name(path.name.replace("ledger", "backup")))

    run_local(consortium, back_up)
    head = (consortium.folder / "second-place" / "head").read_bytes()
    for path in consortium.operator.glob("backup.sqlite*"):
        shutil.copy(path, path.with_name(path.name.replace("backup", "ledger")))
    restored = entries_since(store, 0)
    with pytest.raises(VerificationError, match="restore the missing entries from the published files"):
        run_local(consortium, silent)
    assert entries_since(store, 0) == restored
    assert (consortium.folder / "second-place" / "head").read_bytes() == head


def test_a_trust_file_of_an_owner_verifies_ledger_and_receipt_and_refuses_others(
    trained: Trained, tmp_path: Path
) -> None:
    consortium = trained({"ann": 1, "bob": 2, "cy": 3})
    final = run(consortium)
    ann = consortium.folder / "owners" / "ann"
    policy = tmp_path / "consortium.policy"
    policy.write_text(patronage("owner", "trust", ann)[1])
    assert policy.read_bytes() == witness_policy(final.manifest).encode()
    receipt = ann / "rounds" / "orchard-1" / "receipt.tlog-proof"
    for words in (
        [consortium.ledger, "--trust", policy],
        ["--receipt", receipt, "--trust", policy],
        [consortium.ledger, "--receipt", receipt],
        [consortium.ledger, "--receipt", receipt, "--trust", policy],
    ):
        code, out = patronage("verify", *words, "--json")
        assert (code, json.loads(out)["verified"]) == (0, True), words
    assert json.loads(out)["receipt"]["witnesses"] == ["orchard/ann", "orchard/bob", "orchard/cy"]
    assert sorted(json.loads(out)["trusted_witnesses"]) == ["orchard/ann", "orchard/bob", "orchard/cy"]
    demanding = policy.read_bytes().replace(b"QUORUM 2 ", b"QUORUM 3 ")
    stranger = VerifierKey.cosigner("orchard/ann", PrivateKey.from_seed(bytes(32)).public).text
    own = witness_key(final.manifest, "ann").text
    policy.write_bytes(demanding.replace(own.encode(), stranger.encode()))
    for words in ([consortium.ledger], ["--receipt", receipt]):
        code, out = patronage("verify", *words, "--trust", policy, "--json")
        assert code == 1
        assert "quorum" in json.loads(out)["error"]["expected"]


def test_a_receipt_of_a_fork_does_not_belong_to_the_ledger(trained: Trained, tmp_path: Path) -> None:
    consortium = trained({"ann": 1, "bob": 2})
    run(consortium)
    receipt = consortium.folder / "owners" / "ann" / "rounds" / "orchard-1" / "receipt.tlog-proof"
    kept = tmp_path / "receipt.tlog-proof"
    kept.write_bytes(receipt.read_bytes())
    for owner in consortium.owners:
        (owner / "witness.sqlite").unlink()
        make_memory(owner / "witness.sqlite")
    for path in (consortium.operator / "ledger.sqlite", consortium.folder / "second-place" / "head"):
        path.unlink()
    shutil.rmtree(consortium.ledger)
    run_engine_later(consortium)
    code, out = patronage("verify", consortium.ledger, "--receipt", kept, "--json")
    assert code == 1
    assert "does not" in json.loads(out)["error"]["got"]
    assert patronage("verify", consortium.ledger, "--receipt", receipt, "--json")[0] == 0


def run_engine_later(consortium: Consortium) -> None:
    """The same round once more, a few seconds later, so that no entry is the same."""
    clock = SimulatedClock()
    clock.sleep(5)
    app = server_app(lambda _context: consortium.operator, clock=clock, listener=silent)
    contexts = {
        node: Context(node, node, {"patronage-home": str(home)}, RecordDict(), {})
        for node, home in enumerate(consortium.owners, start=1)
    }
    app(LocalGrid(client_app(), contexts), Context(1, 0, {}, RecordDict(), {}))


def patronage(*words: object) -> tuple[int, str]:
    """Run a command in this process: its exit status and what it printed."""
    result = CliRunner().invoke(application(), [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout


@pytest.mark.parametrize("write", range(0, 24, 3))
def test_a_full_disk_leaves_a_ledger_that_verifies_or_none_that_claims_to_be(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, write: int
) -> None:
    consortium = trained({"ann": 1, "bob": 2})
    fsync, calls = os.fsync, iter(range(10_000))

    def full_after_some(descriptor: int) -> None:
        if next(calls) >= write:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full_after_some)
    with pytest.raises(UnavailableError, match="No space left on device"):
        run_local(consortium, silent)
    monkeypatch.undo()
    with pytest.raises((UnavailableError, VerificationError)):
        verify_ledger(consortium.ledger)
    assert run(consortium).phase is Phase.FINAL, "with room again the round goes on"


def refused(ledger: Path) -> bool:
    """Whether a verifier turns a ledger down, in a way that a command reports in one line."""
    try:
        verify_ledger(ledger)
    except PatronageError:
        return True
    return False


@pytest.mark.parametrize("every", [101, pytest.param(1, marks=pytest.mark.slow)])
def test_a_ledger_with_one_changed_byte_in_any_file_is_refused(trained: Trained, every: int) -> None:
    consortium = trained({"ann": 1, "bob": 2})
    run(consortium)
    places = [
        (path, k)
        for path in sorted(consortium.ledger.rglob("*"))
        if path.is_file()
        for k in range(path.stat().st_size)
    ]
    accepted = []
    for path, k in places[::every]:
        data = path.read_bytes()
        path.write_bytes(data[:k] + bytes([data[k] ^ 1 << k % 8]) + data[k + 1 :])
        if not refused(consortium.ledger):
            accepted.append((path.name, k))
        path.write_bytes(data)
    assert accepted == []
    assert not refused(consortium.ledger)


def test_a_missing_or_additional_file_is_refused(trained: Trained) -> None:
    consortium = trained({"ann": 1, "bob": 2})
    run(consortium)
    for path in [path for path in sorted(consortium.ledger.rglob("*")) if path.is_file()]:
        data = path.read_bytes()
        path.unlink()
        assert refused(consortium.ledger), path
        path.write_bytes(data)
        extra = path.with_name("extra")
        extra.write_bytes(data)
        assert refused(consortium.ledger), extra
        extra.unlink()
    stray = consortium.ledger / "blobs" / "sha256" / sha256(b"stray")
    stray.write_bytes(b"stray")
    assert refused(consortium.ledger), "a blob that no entry names"


def test_one_owner_alone_is_no_consortium(plan_of: Callable[..., Plan], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least two owners"):
        found(tmp_path / "run", plan_of("ann"), shared_base_model("tiny", precision="float32"), now=0)
    assert not (tmp_path / "run").exists()


def test_two_owners_with_one_key_are_refused(
    plan_of: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        consortium_module, "_key", lambda _seed, name: PrivateKey.from_seed(name[:1].encode() * 32)
    )
    with pytest.raises(UsageError, match=r"ann\w* and ann\w* have the same key"):
        found(tmp_path / "run", plan_of("ann", "anna"), shared_base_model("tiny", precision="float32"), now=0)


def test_a_folder_that_is_not_empty_is_not_used(plan_of: Callable[..., Plan], tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="name another with --out"):
        found(tmp_path, plan_of("ann", "bob"), shared_base_model("tiny", precision="float32"), now=0)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
