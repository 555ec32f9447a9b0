"""The commands over ledgers and receipts, as a user runs them."""

import json
import sqlite3
from pathlib import Path

import pytest
from typer.testing import CliRunner

from patronage_protocol.cli import application
from patronage_protocol.errors import FormatError, UsageError, VerificationError
from patronage_protocol.keys import PrivateKey
from patronage_protocol.ledger.cosignatures import Ed25519Cosigner
from patronage_protocol.ledger.publish import publish
from patronage_protocol.ledger.receipts import make_receipt
from patronage_protocol.ledger.store import Ledger
from patronage_protocol.ledger.trust import flat_policy, read_trust

KEY = PrivateKey.from_seed(b"\xc1" * 32)
OWNER = Ed25519Cosigner("owner.example/one", PrivateKey.from_seed(b"\xc2" * 32))


def run(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(application(), [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name, last in (("one", b"paid 3"), ("other", b"paid 4")):
        with Ledger.create(tmp_path / f"{name}.sqlite", "log.example", KEY) as ledger:
            ledger.append([b"opened", last])
            head = ledger.checkpoint.checkpoint
            ledger.add_cosignatures(2, [OWNER.cosign(head, 7)])
            (tmp_path / f"{name}.tlog-proof").write_bytes(make_receipt(ledger, 1).encode())
            publish(ledger, tmp_path / name)
            ledger.append([b"more"])
            publish(ledger, tmp_path / f"{name}-later")
    (tmp_path / "log.vkey").write_text(ledger.verifier.text + "\n")
    policy = flat_policy(ledger.verifier, [OWNER.verifier], faulty=0)
    (tmp_path / "policy").write_bytes(policy.encode())
    return tmp_path


def test_a_sound_store_and_a_damaged_one_are_told_apart(place: Path) -> None:
    code, out = run("fsck", place / "one.sqlite")
    assert (code, "sound" in out) == (0, True)
    raw = sqlite3.connect(place / "one.sqlite")
    raw.execute("DROP TRIGGER entries_no_UPDATE")
    raw.execute("UPDATE entries SET data = x'00'")
    raw.commit()
    raw.close()
    code, out = run("fsck", place / "one.sqlite", "--json")
    assert code == 1
    assert json.loads(out)["sound"] is False
    assert len(json.loads(out)["problems"]) >= 2


def test_a_receipt_is_verified_against_a_policy_or_a_key(place: Path) -> None:
    receipt = ("verify", "--receipt", place / "one.tlog-proof")
    code, out = run(*receipt, "--trust", place / "policy", "--json")
    assert code == 0
    told = json.loads(out)["receipt"]
    assert (told["entry"], told["index"], told["witnesses"]) == ("paid 3", 1, ["owner.example/one"])
    assert run(*receipt, "--trust", place / "log.vkey")[0] == 0
    with pytest.raises(UsageError, match="whom you trust"):
        run(*receipt)
    text = (place / "one.tlog-proof").read_bytes()
    (place / "one.tlog-proof").write_bytes(text.replace(b"index 1", b"index 0"))
    code, out = run(*receipt, "--trust", place / "log.vkey", "--json")
    assert (code, json.loads(out)["verified"]) == (1, False)


@pytest.mark.parametrize(
    ("one", "other"), [("one/checkpoint", "other/checkpoint"), ("one", "other-later"), ("one-later", "other")]
)
def test_a_fork_is_proven_and_the_proof_is_checked(place: Path, one: str, other: str) -> None:
    words = ("--log", place / "log.vkey", "--out", place / "fork.proof")
    assert run("prove-equivocation", place / one, place / other, *words)[0] == 0
    code, out = run("check-equivocation", place / "fork.proof", "--log", place / "log.vkey")
    assert (code, out.startswith("PROVEN: log.example")) == (0, True)


def test_what_proves_no_fork_is_refused(place: Path) -> None:
    words = ("--log", place / "log.vkey", "--out", place / "fork.proof")
    with pytest.raises(VerificationError):
        run("prove-equivocation", place / "one", place / "one-later", *words)
    with pytest.raises(UsageError, match="published folder"):
        run("prove-equivocation", place / "one", place / "other-later" / "checkpoint", *words)
    assert not (place / "fork.proof").exists()


def test_a_trust_file_is_a_policy_or_one_key(place: Path) -> None:
    assert read_trust(place / "log.vkey").quorum is None
    assert read_trust(place / "policy").quorum is not None
    (place / "bad").write_text("not-a-key")
    with pytest.raises(FormatError):
        read_trust(place / "bad")
