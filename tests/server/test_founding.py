"""An operator's folder is made whole, and takes each owner once."""

import shutil
import socket
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from patronage_client.founding import found_owner
from patronage_protocol.cli import application
from patronage_protocol.errors import UnavailableError, UsageError, VerificationError
from patronage_protocol.joining import Registration, read_envelope, write_envelope
from patronage_protocol.keys import PrivateKey
from patronage_protocol.manifest import Manifest
from patronage_protocol.pair_files import write_pairs
from patronage_protocol.preferences import PreferencePair
from patronage_server.certificates import expiry, make_authority, make_server_certificate
from patronage_server.founding import Founding, found_operator, renew
from patronage_server.home import OperatorHome
from patronage_server.invite import witnesses_to_spare
from patronage_server.network import Network, NetworkConfig
from patronage_server.registry import register
from patronage_server.serve import serve

CONFIG = NetworkConfig(name="operator", consortium="demo", address="127.0.0.1:18443", superlink_port=18092)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    write_pairs(path, [PreferencePair(prompt="tea", chosen=" warm", rejected=" cold")])
    return path


@pytest.fixture
def operator(tmp_path: Path, pairs: Path) -> Network:
    found_operator(tmp_path / "operator", Founding(CONFIG, "tiny", pairs))
    return Network.load(tmp_path / "operator")


@pytest.fixture
def owner(tmp_path: Path, pairs: Path, key_of: Callable[[str], PrivateKey]) -> Callable[[str], Path]:
    def found(name: str) -> Path:
        key = key_of("operator").public.text
        found_owner(tmp_path / name, name=name, data=pairs, base_model="tiny", operator_key=key)
        return tmp_path / name / "registration.json"

    return found


def test_secrets_are_for_their_owner_alone(operator: Network, owner: Callable[[str], Path]) -> None:
    home = owner("ann").parent
    secrets = [
        operator.home / name for name in ("key.pem", "held-out.secret", "tls/ca.key", "tls/server.key")
    ]
    for path in (*secrets, home / "key.pem", home / "node" / "key", home / "node" / "secret"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_a_folder_that_is_there_is_not_touched(operator: Network, pairs: Path) -> None:
    before = (operator.home / "key.pem").read_bytes()
    with pytest.raises(UsageError, match="no folder"):
        found_operator(operator.home, Founding(CONFIG, "tiny", pairs))
    assert (operator.home / "key.pem").read_bytes() == before


def test_owners_are_registered_by_name(operator: Network, owner: Callable[[str], Path]) -> None:
    for name in ("bob", "ann"):
        register(operator, owner(name))
    assert [party.name for party in operator.parties] == ["ann", "bob"]


def test_the_same_registration_twice_is_harmless(operator: Network, owner: Callable[[str], Path]) -> None:
    path = owner("ann")
    assert register(operator, path) == register(operator, path)
    assert len(operator.parties) == 1


def test_two_owners_with_one_name_are_refused(
    operator: Network, owner: Callable[[str], Path], tmp_path: Path
) -> None:
    register(operator, owner("ann"))
    (tmp_path / "ann").rename(tmp_path / "first")
    with pytest.raises(UsageError, match="a name of its own, got the name under which ann is registered"):
        register(operator, owner("ann"))


def test_one_node_key_for_two_owners_is_refused(
    operator: Network,
    owner: Callable[[str], Path],
    tmp_path: Path,
    key_of: Callable[[str], PrivateKey],
) -> None:
    first = register(operator, owner("ann"))
    key = key_of("bob")
    second = Registration(owner="bob", key=key.public.text, node_key=first.node_key)
    write_envelope(tmp_path / "bob.json", second.seal(key))
    with pytest.raises(UsageError, match="got the node key under which ann is registered"):
        register(operator, tmp_path / "bob.json")


def test_one_protocol_key_for_two_owners_is_refused(
    operator: Network,
    owner: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    register(operator, owner("ann"))
    key = PrivateKey.load(tmp_path / "ann" / "key.pem", None)
    other_node = Registration.open(read_envelope(owner("bob"))).node_key
    second = Registration(owner="bob", key=key.public.text, node_key=other_node)
    write_envelope(tmp_path / "bob.json", second.seal(key))
    with pytest.raises(UsageError, match="got the protocol key under which ann is registered"):
        register(operator, tmp_path / "bob.json")
    assert [party.name for party in operator.parties] == ["ann"]


def test_the_operators_name_is_taken(
    operator: Network, tmp_path: Path, key_of: Callable[[str], PrivateKey], owner: Callable[[str], Path]
) -> None:
    key, node_key = key_of("x"), Registration.open(read_envelope(owner("ann"))).node_key
    claim = Registration(owner="operator", key=key.public.text, node_key=node_key)
    write_envelope(tmp_path / "r.json", claim.seal(key))
    with pytest.raises(UsageError, match="got operator, the operator's"):
        register(operator, tmp_path / "r.json")


def test_a_registration_by_another_hand_is_refused(
    operator: Network, owner: Callable[[str], Path], tmp_path: Path
) -> None:
    claimed = Registration.open(read_envelope(owner("ann")))
    write_envelope(tmp_path / "forged.json", claimed.seal(PrivateKey.generate()))
    with pytest.raises(VerificationError):
        register(operator, tmp_path / "forged.json")
    assert operator.parties == ()


def test_renewing_keeps_the_authority(operator: Network) -> None:
    before = operator.certificate_authority.read_bytes(), operator.certificate.read_bytes()
    until = renew(operator)
    assert operator.certificate_authority.read_bytes() == before[0]
    assert operator.certificate.read_bytes() != before[1]
    assert until == expiry(operator.certificate.read_bytes())


def test_serving_with_an_expired_certificate_is_refused(operator: Network) -> None:
    past = datetime.now(UTC) - timedelta(days=500)
    authority = make_authority("demo", past)
    operator.certificate.write_bytes(make_server_certificate(authority, ["x"], past).certificate)
    with pytest.raises(UnavailableError, match=r"expired on .*; renew it: patronage operator renew"):
        serve(operator)


def test_a_port_that_is_taken_is_named(operator: Network) -> None:
    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))
        other.listen()
        port = other.getsockname()[1]
        config = CONFIG.model_copy(update={"address": f"127.0.0.1:{port}"})
        with pytest.raises(UnavailableError, match=f"expected the port {port} of 0.0.0.0 to be free"):
            serve(Network(operator.home, config))


def test_a_restored_backup_is_refused_by_the_command_that_would_go_on_with_it(
    tmp_path: Path, pairs: Path, owner: Callable[[str], Path]
) -> None:
    second = tmp_path / "usb"
    second.mkdir()
    home = tmp_path / "operator"
    words = ["--consortium", "demo", "--address", "127.0.0.1:18443", "--base-model", "tiny"]
    found = ["operator", "init", home, *words, "--heldout", pairs]
    with pytest.raises(UsageError, match="best on another disk"):
        patronage(*found, "--second-place", tmp_path / "nowhere" / "head")
    assert not home.exists()
    patronage(*found, "--second-place", second / "head")
    patronage("operator", "register", home, owner("ann"), owner("bob"))
    store = home / "ledger.sqlite"
    with OperatorHome.load(home).open_ledger("operator/demo") as ledger:
        ledger.append([b"last week"])
        assert ledger.checkpoint.checkpoint.size == 1
    shutil.copy(store, home / "backup")
    with OperatorHome.load(home).open_ledger("operator/demo") as ledger:
        ledger.append([b"this week"])
        assert ledger.checkpoint.checkpoint.size == 2
    shutil.copy(home / "backup", store)
    with pytest.raises(VerificationError, match="the store is an old backup"):
        patronage("operator", "invite", home)
    assert not (home / "invitation.json").exists()
    shutil.rmtree(second)
    with pytest.raises(VerificationError, match="find out where it went"):
        patronage("operator", "invite", home)


def test_a_ledger_is_not_begun_beside_a_second_place_that_is_not_mounted(operator: Network) -> None:
    (operator.home / "second-place").rmdir()
    with pytest.raises(UnavailableError, match="mount the disk"):
        OperatorHome.load(operator.home).open_ledger("operator/demo")
    assert not (operator.home / "ledger.sqlite").exists()


def patronage(*words: object) -> None:
    """Run a command in this process."""
    result = CliRunner().invoke(application(), [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("owners", "needed", "lost"),
    [("ann bob", "2 of the 2", "any of them is"), ("ann bob cy dan", "3 of the 4", "more than 1 of them is")],
)
def test_an_invitation_says_how_many_witnesses_may_be_lost(
    manifest_of: Callable[..., Manifest], owners: str, needed: str, lost: str
) -> None:
    said = witnesses_to_spare(manifest_of(*owners.split()))
    assert said.startswith(f"{needed} witnesses must cosign the end")
    assert f"if {lost} lost for good" in said
