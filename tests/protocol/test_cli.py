"""The command line, as a script sees it: exit statuses, one clear line, one JSON object."""

import json
import os
import re
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from patronage_protocol import cli
from patronage_protocol.keys import PrivateKey
from patronage_protocol.ledger.notes import VerifierKey
from patronage_protocol.ledger.publish import publish
from patronage_protocol.ledger.receipts import make_receipt
from patronage_protocol.ledger.store import Ledger

KEY = PrivateKey.from_seed(b"\xd1" * 32)
OTHER = PrivateKey.from_seed(b"\xd2" * 32)


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def told(self) -> dict[str, Any]:
        """The one JSON object on stdout."""
        (line,) = self.out.splitlines()
        value: dict[str, Any] = json.loads(line)
        assert value["schema_version"] == 1
        return value

    @property
    def complaint(self) -> str:
        """The one line on stderr of a command that failed and printed nothing else."""
        assert self.out == ""
        (line,) = self.err.splitlines()
        assert "Traceback" not in line
        return line


Run = Callable[..., Ended]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`patronage WORDS...`, through the same door as the console script."""

    def go(*words: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["patronage", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        seen = capsys.readouterr()
        return Ended(int(ended.value.code or 0), seen.out, seen.err)

    return go


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Two forks of one log, published, with stores, receipts and the key."""
    for name, last in (("one", b"paid 3"), ("other", b"paid 4")):
        with Ledger.create(tmp_path / f"{name}.sqlite", "log.example", KEY) as ledger:
            ledger.append([b"opened", last])
            (tmp_path / f"{name}.tlog-proof").write_bytes(make_receipt(ledger, 1).encode())
            publish(ledger, tmp_path / name)
            (tmp_path / "log.vkey").write_text(ledger.verifier.text + "\n")
    with Ledger.create(tmp_path / "stranger.sqlite", "log.example", OTHER) as ledger:
        (tmp_path / "stranger.vkey").write_text(ledger.verifier.text + "\n")
    return tmp_path


def test_the_help_of_every_command_has_an_example(run: Run) -> None:
    shown = run("--help")
    assert shown.status == 0
    for command in (
        "verify",
        "keygen",
        "fsck",
        "prove-equivocation",
        "check-equivocation",
        "export-payouts",
    ):
        assert command in shown.out
        page = run(command, "--help")
        assert (page.status, f"Example: patronage {command}" in " ".join(page.out.split())) == (0, True)


@pytest.mark.parametrize(
    "words", [("nonsense",), ("fsck",), ("verify", "a", "b"), ("verify", "x", "--no-such")]
)
def test_a_command_line_that_is_none_ends_with_status_2(run: Run, words: Sequence[str]) -> None:
    ended = run(*words)
    assert (ended.status, ended.out) == (2, "")
    assert "Usage" in ended.err


def test_keygen_prints_the_public_half_and_keeps_the_private_one_to_its_owner(
    run: Run, tmp_path: Path
) -> None:
    path = tmp_path / "key.pem"
    ended = run("keygen", path)
    assert (ended.status, ended.err) == (0, "")
    assert ended.out.strip() == PrivateKey.load(path, None).public.text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(tmp_path.iterdir()) == [path], "nothing else is left behind"


def test_keygen_keeps_the_private_key_to_its_owner_whatever_the_umask(run: Run, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        assert run("keygen", tmp_path / "key.pem").status == 0
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "key.pem").stat().st_mode) == 0o600


def test_keygen_encrypts_with_the_first_line_of_a_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("correct horse\n")
    ended = run("keygen", tmp_path / "key.pem", "--passphrase-file", tmp_path / "secret", "--json")
    assert ended.status == 0
    assert b"ENCRYPTED PRIVATE KEY" in (tmp_path / "key.pem").read_bytes()
    key = PrivateKey.load(tmp_path / "key.pem", b"correct horse")
    assert ended.told["public_key"] == key.public.text
    assert "correct horse" not in ended.out + ended.err


def test_keygen_never_replaces_a_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text("the only copy")
    ended = run("keygen", tmp_path / "key.pem")
    assert ended.status == 2
    assert "keys are not overwritten" in ended.complaint
    assert (tmp_path / "key.pem").read_text() == "the only copy"
    told = run("keygen", tmp_path / "key.pem", "--json")
    assert (told.status, told.told["error"]["do"]) == (2, "choose another name; keys are not overwritten")


@pytest.mark.parametrize("secret", [b"", b"\n", b"one\ntwo\n", b"\xff\xfe\n", b"x" * 70_000])
def test_keygen_refuses_a_passphrase_file_that_is_not_one_line_of_text(
    run: Run, tmp_path: Path, secret: bytes
) -> None:
    (tmp_path / "secret").write_bytes(secret)
    ended = run("keygen", tmp_path / "key.pem", "--passphrase-file", tmp_path / "secret")
    assert ended.status == 2
    assert ended.complaint.startswith("error: ")
    assert not (tmp_path / "key.pem").exists()


def test_keygen_says_when_there_is_no_folder_or_no_passphrase_file(run: Run, tmp_path: Path) -> None:
    for words in (
        ("keygen", tmp_path / "none" / "key.pem"),
        ("keygen", tmp_path / "key.pem", "--passphrase-file", tmp_path / "none"),
    ):
        ended = run(*words)
        assert (ended.status, ended.complaint.startswith("error: ")) == (3, True)
    assert not list(tmp_path.iterdir())


def test_fsck_tells_a_sound_store_from_a_damaged_one_and_from_none(run: Run, place: Path) -> None:
    sound = run("fsck", place / "one.sqlite")
    assert (sound.status, sound.err) == (0, "")
    assert sound.out.endswith("sound\n")
    raw = sqlite3.connect(place / "one.sqlite")
    raw.execute("DROP TRIGGER entries_no_UPDATE")
    raw.execute("UPDATE entries SET data = x'00' WHERE number = 1")
    raw.commit()
    raw.close()
    assert (
        run("fsck", place / "one.sqlite").status,
        run("fsck", place / "one.sqlite", "--json").told["sound"],
    ) == (
        1,
        False,
    )
    (place / "text").write_text("not a store")
    for name, status in (("none", 3), ("text", 3), ("one", 3)):
        ended = run("fsck", place / name)
        assert (name, ended.status) == (name, status)
        assert ended.complaint.startswith("error: ")
        assert run("fsck", place / name, "--json").told["error"]["expected"]


def test_a_receipt_speaks_for_itself(run: Run, place: Path) -> None:
    words = ("verify", "--receipt", place / "one.tlog-proof", "--trust", place / "log.vkey")
    ended = run(*words)
    assert (ended.status, ended.err) == (0, "")
    assert "entry      paid 3\n" in ended.out
    assert "entry 1 of the 2 under the head of log.example" in ended.out
    told = run(*words, "--json").told
    assert told["verified"] is True
    assert [told["receipt"][name] for name in ("index", "size", "entry")] == [1, 2, "paid 3"]


def test_verify_without_anything_to_verify_or_anybody_to_trust_says_what_it_needs(
    run: Run, place: Path
) -> None:
    for words in ((), ("--receipt", place / "one.tlog-proof"), ("--trust", place / "log.vkey")):
        ended = run("verify", *words)
        assert (ended.status, "--receipt FILE --trust FILE" in ended.complaint) == (2, True)


def test_a_receipt_is_refused_for_what_does_not_hold(run: Run, place: Path) -> None:
    good = (place / "one.tlog-proof").read_bytes()
    (place / "moved").write_bytes(good.replace(b"index 1", b"index 0"))
    (place / "mixed").write_bytes(
        good.split(b"\n\n")[0] + b"\n\n" + (place / "other" / "checkpoint").read_bytes()
    )
    (place / "junk").write_bytes(b"\x00\xff")
    (place / "large").write_bytes(b"x" * 2_000_000)
    (place / "two.policy").write_text("log " + (place / "log.vkey").read_text() + "garbage\n")
    cases = (
        ("moved", "log.vkey", 1),
        ("mixed", "log.vkey", 1),
        ("one.tlog-proof", "stranger.vkey", 1),
        ("junk", "log.vkey", 1),
        ("large", "log.vkey", 2),
        ("one.tlog-proof", "two.policy", 2),
        ("none", "log.vkey", 3),
        ("one.tlog-proof", "none", 3),
    )
    for receipt, trust, status in cases:
        words = ("verify", "--receipt", place / receipt, "--trust", place / trust)
        ended = run(*words)
        assert (receipt, trust, ended.status) == (receipt, trust, status)
        assert ended.complaint.startswith("NOT VERIFIED: " if status == 1 else "error: ")
        failed = run(*words, "--json")
        assert (failed.status, failed.err) == (status, "")
        assert set(failed.told["error"]) == {"expected", "got", "do", "where"}


def test_a_fork_is_proven_and_the_proof_convicts_the_key(run: Run, place: Path) -> None:
    log = ("--log", place / "log.vkey")
    made = run(
        "prove-equivocation", place / "one", place / "other" / "checkpoint", *log, "--out", place / "proof"
    )
    assert (made.status, made.out) == (0, "")
    checked = run("check-equivocation", place / "proof", *log)
    assert (checked.status, checked.out.startswith("PROVEN: log.example signed heads of 2 and 2")) == (
        0,
        True,
    )


def test_what_convicts_nobody_is_no_proof(run: Run, place: Path) -> None:
    log, out = ("--log", place / "log.vkey"), ("--out", place / "proof")
    assert run("prove-equivocation", place / "one", place / "other", *log, *out).status == 0
    proof = (place / "proof").read_bytes()
    (place / "changed").write_bytes(proof.replace(b"log.example", b"log.exampel"))
    (place / "junk").write_bytes(b"{}")
    cases = (
        (("prove-equivocation", place / "one", place / "one", *log, "--out", place / "no"), 1),
        (("prove-equivocation", place / "one", place / "none", *log, "--out", place / "no"), 3),
        (("prove-equivocation", place / "one", place / "junk", *log, "--out", place / "no"), 2),
        (
            (
                "prove-equivocation",
                place / "one",
                place / "other",
                "--log",
                place / "stranger.vkey",
                "--out",
                place / "no",
            ),
            1,
        ),
        (("prove-equivocation", place / "one", place / "other", *log, "--out", place / "gone" / "no"), 3),
        (("check-equivocation", place / "proof", "--log", place / "stranger.vkey"), 1),
        (("check-equivocation", place / "changed", *log), 1),
        (("check-equivocation", place / "junk", *log), 2),
        (("check-equivocation", place / "none", *log), 3),
    )
    for words, status in cases:
        ended = run(*words)
        assert (words, ended.status) == (words, status)
        assert ended.complaint.startswith("error: ")
    assert not (place / "no").exists()


def test_a_missing_extra_is_named_in_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch.nn")

    monkeypatch.setattr(cli, "application", missing)
    ended = run("simulate")
    assert (ended.status, "pip install 'patronage[client]'" in ended.complaint) == (3, True)


@pytest.fixture
def ledger(ledger_of: Callable[..., Path], scenarios: Any) -> Path:
    """A published ledger: a round in which one owner's copy was rejected and the budget refunded."""
    return ledger_of(scenarios["aborted"])


@pytest.fixture
def paying(ledger_of: Callable[..., Path], scenarios: Any) -> Path:
    """A round that paid two owners; few pairs, so that it is verified in no time."""
    owners = {name: scenarios["healthy"].owners[name] for name in ("ash", "birch", "fir")}
    return ledger_of(replace(scenarios["healthy"], owners=owners, pairs=60))


def vkey_of(ledger: Path, key: PrivateKey, place: Path) -> Path:
    origin = (ledger / "checkpoint").read_text().split("\n")[0]
    place.write_text(VerifierKey.ed25519(origin, key.public).text + "\n")
    return place


def test_verify_says_what_it_checked_and_whose_key_it_believed(
    run: Run, paying: Path, tmp_path: Path, key_of: Callable[[str], PrivateKey]
) -> None:
    ended = run("verify", paying)
    assert (ended.status, ended.err) == (0, "")
    assert "VERIFIED   against the key that the ledger itself names" in ended.out
    assert "What no ledger can show" in ended.out
    pinned = run("verify", paying, "--trust", vkey_of(paying, key_of("operator"), tmp_path / "vkey"))
    assert (pinned.status, "VERIFIED   against the key you gave" in pinned.out) == (0, True)
    told = run("verify", paying, "--json").told
    assert (told["verified"], told["key_pinned"], told["rounds"][0]["phase"]) == (True, False, "final")
    assert {check["phase"] for check in told["checks"]} >= {"ledger", "open", "value", "pay", "final"}
    assert "that the margins were measured on the declared base model and held-out pairs" in told["not_known"]


def test_verify_ends_with_1_for_what_does_not_hold(
    run: Run, ledger: Path, tmp_path: Path, key_of: Callable[[str], PrivateKey]
) -> None:
    trust = ("--trust", vkey_of(ledger, key_of("ash"), tmp_path / "vkey"))
    stranger = run("verify", ledger, *trust)
    assert (stranger.status, stranger.complaint.startswith("NOT VERIFIED: ")) == (1, True)
    entries = next((ledger / "tile" / "entries").iterdir())
    bundle = next(iter(sorted(entries.iterdir()))) if entries.is_dir() else entries
    bundle.write_bytes(bundle.read_bytes().replace(b'"amount":"0"', b'"amount":"9"'))
    ended = run("verify", ledger)
    assert (ended.status, ended.complaint.startswith("NOT VERIFIED: ")) == (1, True)
    failed = run("verify", ledger, "--json")
    assert (failed.status, failed.err, failed.told["verified"]) == (1, "", False)
    assert set(failed.told["error"]) == {"expected", "got", "do", "where"}


def test_verify_ends_with_3_where_it_could_not_check(run: Run, ledger: Path, tmp_path: Path) -> None:
    for words in ((tmp_path / "none",), (ledger, "--trust", tmp_path / "none")):
        ended = run("verify", *words)
        assert (ended.status, ended.complaint.startswith("error: ")) == (3, True)
        failed = run("verify", *words, "--json")
        assert (failed.status, failed.err) == (3, "")
        assert failed.told["error"]["got"] == "No such file or directory"


def test_verify_ends_with_2_for_a_trust_file_that_is_none(run: Run, ledger: Path, tmp_path: Path) -> None:
    for number, data in enumerate((b"", b"junk\n", b"\xff\n", b"one\ntwo\n")):
        (tmp_path / "vkey").write_bytes(data)
        ended = run("verify", ledger, "--trust", tmp_path / "vkey")
        assert (number, ended.status) == (number, 2)
        assert ended.complaint.startswith("error: ")


@pytest.mark.parametrize("layout", ["csv", "hledger", "beancount"])
def test_payouts_are_exported_from_a_ledger_that_holds(
    run: Run, paying: Path, tmp_path: Path, layout: str
) -> None:
    shown = run("export-payouts", paying, "--format", layout)
    assert (shown.status, "pin it with --trust" in shown.err) == (0, True)
    written = run("export-payouts", paying, "--format", layout, "--out", tmp_path / "books", "--round", 1)
    assert (written.status, written.out) == (0, "")
    assert (tmp_path / "books").read_bytes().decode() == shown.out
    assert "declined" in shown.out, "a payment of zero says why"
    again = run("export-payouts", paying, "--format", layout, "--out", tmp_path / "books")
    assert (again.status, "one that exists" in again.complaint) == (2, True)


def test_a_refund_is_exported_with_its_reason(run: Run, ledger: Path) -> None:
    *_, last = run("export-payouts", ledger).out.splitlines()
    assert ",refund,,1000.00,EUR,100000,2,aborted" in last


def test_nothing_is_exported_of_a_ledger_that_does_not_hold(run: Run, ledger: Path, tmp_path: Path) -> None:
    checkpoint = ledger / "checkpoint"
    good = checkpoint.read_bytes()
    checkpoint.write_bytes(good.replace(b"\n", b"\n1", 1))
    ended = run("export-payouts", ledger, "--out", tmp_path / "books")
    assert (ended.status, ended.complaint.startswith("NOT VERIFIED, nothing exported: ")) == (1, True)
    checkpoint.write_bytes(good)
    missing = run("export-payouts", ledger, "--out", tmp_path / "books", "--round", 2)
    assert (missing.status, "a final round 2" in missing.complaint) == (2, True)
    assert not (tmp_path / "books").exists()


def test_a_round_that_is_not_final_is_left_out(
    run: Run, ledger_of: Callable[..., Path], scenarios: Any
) -> None:
    ended = run("export-payouts", ledger_of(scenarios["open"]))
    assert (ended.status, "round 1 (open)" in ended.complaint) == (2, True)


def test_verify_imports_nothing_but_the_base_install(ledger: Path) -> None:
    """No torch, no Flower, no network client: only what `pip install patronage` brings."""
    code = (
        "import sys\n"
        "from patronage_protocol.cli import main\n"
        "try:\n    main()\nexcept SystemExit as ended:\n    assert not ended.code\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)\n"
    )
    words = [sys.executable, "-c", code, "verify", str(ledger)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "VERIFIED" in done.stdout
    imported = set(done.stderr.split())
    owners = metadata.packages_distributions()
    allowed = base_install() | {"patronage"}
    strange = {
        name
        for name in imported
        if name in owners and not allowed & {canonical(owner) for owner in owners[name]}
    }
    assert not strange - {"_virtualenv", "_distutils_hack", "pip", "setuptools"}
    assert {"pydantic", "cryptography", "numpy"} <= imported, "the list is a real one"


def base_install() -> set[str]:
    """The distributions that the base dependencies of Patronage bring, and what those bring."""
    found: set[str] = set()
    wanted = ["patronage"]
    while wanted:
        for line in metadata.requires(wanted.pop()) or ():
            requirement = Requirement(line)
            name = canonical(requirement.name)
            if name not in found and (
                requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            ):
                found.add(name)
                wanted.append(name)
    return found


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
