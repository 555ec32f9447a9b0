"""Keys that are encrypted at rest: a round, and the commands that people use, in one process."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from patronage_protocol import pkcs8
from patronage_protocol.cli import application
from patronage_protocol.errors import UsageError
from patronage_protocol.keys import PrivateKey
from patronage_protocol.passphrases import ENVIRONMENT
from patronage_protocol.verify import verify_ledger
from patronage_server.founding import write_toml
from patronage_server.network import NetworkConfig
from patronage_simulations.consortium import Consortium
from patronage_simulations.engines import run_local

pytestmark = pytest.mark.usefixtures("no_network")

PASSPHRASE = "correct horse"


def ran(*words: object) -> Result:
    result = CliRunner().invoke(application(), [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture
def secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    path = tmp_path / "secret"
    path.write_text(f"{PASSPHRASE}\n")
    return path


@pytest.fixture
def consortium(
    trained: Callable[..., Consortium], secret: Path, monkeypatch: pytest.MonkeyPatch
) -> Consortium:
    """Two owners and an operator whose keys take a passphrase; few rounds, for they are opened often."""
    monkeypatch.setattr(pkcs8, "ROUNDS", 70_000)
    made = trained({"ann": 1, "bob": 2})
    for folder in (made.operator, *made.owners):
        key = PrivateKey.load(folder / "key.pem", None)
        (folder / "key.pem").unlink()
        key.save(folder / "key.pem", PASSPHRASE.encode())
    return made


def test_a_round_finds_the_passphrase_in_the_environment(
    consortium: Consortium, secret: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    monkeypatch.setenv(ENVIRONMENT, str(secret))
    run_local(consortium, lambda entry, state: None)
    assert verify_ledger(consortium.ledger).rounds[0].players == ("ann", "bob")

    monkeypatch.delenv(ENVIRONMENT)
    ann = consortium.owners[0]
    assert "verified" in ran("owner", "receipts", ann).stdout, "who only looks needs no passphrase"
    assert "orchard" in ran("owner", "trust", ann).stdout
    ran("owner", "rotate-key", ann, "--passphrase-file", secret)
    ran("operator", "record-key", consortium.operator, ann / "key-rotation.json", "--passphrase-file", secret)
    ran("operator", "rotate-key", consortium.operator, "--passphrase-file", secret)
    for path in (ann / "key-next.pem", consortium.operator / "key.pem"):
        assert b"ENCRYPTED" in path.read_bytes()


def test_a_round_without_the_passphrase_is_one_line_and_no_entry(consortium: Consortium) -> None:
    with pytest.raises(UsageError, match=r"the passphrase of .*operator/key\.pem, got none"):
        run_local(consortium, lambda entry, state: None)
    assert not (consortium.operator / "ledger.sqlite").exists()


COMMANDS = ("owner status", "owner slice", "operator abort", "operator serve")


@pytest.mark.parametrize("wrong", [True, False], ids=["a wrong passphrase", "none"])
def test_a_passphrase_that_is_wrong_or_missing_is_one_line(
    consortium: Consortium, secret: Path, wrong: bool
) -> None:
    config = NetworkConfig(name="operator", consortium="orchard", address="127.0.0.1:1", superlink_port=2)
    write_toml(consortium.operator / "network.toml", config.model_dump())
    secret.write_text("incorrect horse\n")
    ann = consortium.owners[0]
    for command in COMMANDS:
        party, name = command.split()
        words = [party, name, ann if party == "owner" else consortium.operator]
        words += [ann / "pairs.jsonl"] if name == "slice" else []
        words += ["--passphrase-file", secret] if wrong else []
        with pytest.raises(UsageError) as refused:
            CliRunner().invoke(application(), [str(word) for word in words], catch_exceptions=False)
        assert ("another one" if wrong else "no terminal to ask at") in str(refused.value)
        assert "\n" not in str(refused.value)
        assert "horse" not in str(refused.value)
        assert refused.value.exit_code == 2
