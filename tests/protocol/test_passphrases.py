"""A passphrase is found in one way by every command, and handed to the processes that they start."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from patronage_protocol import passphrases
from patronage_protocol.errors import UnavailableError, UsageError
from patronage_protocol.key_files import KeyFile
from patronage_protocol.keys import PrivateKey
from patronage_protocol.passphrases import ENVIRONMENT, Passphrase

READ_IT = f"import os; print(open(os.environ[{ENVIRONMENT!r}]).read().strip())"
MAKE_A_KEY = "from patronage_protocol.cli import main; main()"


@pytest.fixture(autouse=True)
def _nothing_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENVIRONMENT, raising=False)


def secret(path: Path, text: str) -> Path:
    path.write_text(f"{text}\n")
    return path


@pytest.fixture
def encrypted(tmp_path: Path) -> Path:
    """A file that says it is encrypted, which is all that is looked at here."""
    path = tmp_path / "key.pem"
    path.write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
    return path


def test_the_file_that_is_named_goes_before_the_environments(
    tmp_path: Path, encrypted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENVIRONMENT, str(secret(tmp_path / "surrounding", "of the environment")))
    assert Passphrase()(encrypted) == b"of the environment"
    assert Passphrase(secret(tmp_path / "named", "named"))(encrypted) == b"named"


def test_a_key_in_the_clear_asks_for_nothing_and_does_not_take_a_passphrase_that_was_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    PrivateKey.generate().save(tmp_path / "key.pem", None)
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path / "there is none"))
    assert KeyFile(tmp_path / "key.pem").passphrase is None
    named = Passphrase(secret(tmp_path / "named", "named"))
    with pytest.raises(UsageError, match="no passphrase, got one for a key that is not encrypted"):
        KeyFile(tmp_path / "key.pem", named).load()


def test_with_nobody_to_ask_one_line_names_both_other_ways(encrypted: Path) -> None:
    with pytest.raises(UsageError) as refused:
        Passphrase()(encrypted)
    assert f"the passphrase of {encrypted}" in str(refused.value)
    assert "--passphrase-file" in str(refused.value)
    assert ENVIRONMENT in str(refused.value)


def test_a_file_that_the_environment_names_and_that_is_not_there_is_told(
    encrypted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENVIRONMENT, "/nowhere/passphrase")
    with pytest.raises(UnavailableError, match="/nowhere/passphrase"):
        Passphrase()(encrypted)


def test_a_new_key_is_encrypted_when_a_passphrase_is_named_or_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Passphrase().of_new_key(wanted=False) is None
    with pytest.raises(UsageError, match="no terminal"):
        Passphrase().of_new_key(wanted=True)
    assert Passphrase(secret(tmp_path / "named", "named")).of_new_key(wanted=False) == b"named"
    monkeypatch.setenv(ENVIRONMENT, str(secret(tmp_path / "surrounding", "of the environment")))
    assert Passphrase().of_new_key(wanted=False) == b"of the environment"


@pytest.mark.parametrize(("second", "status"), [("correct horse", 0), ("incorrect horse", 2)])
def test_a_terminal_is_asked_twice_for_a_new_passphrase_and_shows_neither(
    tmp_path: Path, second: str, status: int
) -> None:
    terminal, end = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", MAKE_A_KEY, "keygen", str(tmp_path / "key.pem"), "--encrypt"],
        stdin=end,
        stdout=subprocess.DEVNULL,
        stderr=end,
        start_new_session=True,
    )
    os.close(end)
    shown = b""
    for question, answer in ((b"new key: ", "correct horse"), (b"again: ", second)):
        while not shown.endswith(question):
            shown += os.read(terminal, 1024)
        os.write(terminal, f"{answer}\n".encode())
    assert process.wait(60) == status
    os.close(terminal)
    assert b"horse" not in shown
    assert (tmp_path / "key.pem").exists() == (status == 0)
    if not status:
        PrivateKey.load(tmp_path / "key.pem", b"correct horse")


@pytest.mark.parametrize("typed", [False, True], ids=["named", "typed"])
def test_a_process_that_is_started_reads_what_opened_the_key(
    tmp_path: Path, encrypted: Path, typed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = None if typed else secret(tmp_path / "named", "open sesame")
    monkeypatch.setattr(passphrases, "_typed", lambda what: b"open sesame")
    source = Passphrase(named)
    with source.lent(source(encrypted)) as environment:
        assert "sesame" not in str(environment), "the passphrase itself is in no environment"
        command = [sys.executable, "-c", READ_IT]
        read = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, check=True)
        assert read.stdout == b"open sesame\n"
    assert typed != Path(environment[ENVIRONMENT]).exists(), "what was typed is gone"


def test_nothing_is_lent_for_a_key_in_the_clear() -> None:
    with Passphrase().lent(None) as environment:
        assert environment == {}
