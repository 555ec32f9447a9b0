"""Two rounds of real apps in one process; in between the operator and an owner take new keys."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from patronage_client.home import OwnerHome
from patronage_client.join import read_invitation
from patronage_client.key_changes import revoke_key as revoke_owner
from patronage_client.key_changes import rotate_key as rotate_owner
from patronage_client.owner import Owner
from patronage_client.receipts import kept_receipts
from patronage_protocol.adapters import encode
from patronage_protocol.cli import application
from patronage_protocol.entries import KeyRotated
from patronage_protocol.envelopes import Envelope, sign_detached
from patronage_protocol.errors import PatronageError, RemoteProtocolError, UsageError, VerificationError
from patronage_protocol.joining import Invitation, read_envelope, write_envelope
from patronage_protocol.key_files import KeyFile
from patronage_protocol.keys import PrivateKey
from patronage_protocol.ledger.fsck import fsck
from patronage_protocol.ledger.rotation import rotate
from patronage_protocol.manifest import MANIFEST_TYPE, Manifest
from patronage_protocol.messages import Acceptance
from patronage_protocol.policy import shared_base_model
from patronage_protocol.verify import verify_ledger, verify_receipt
from patronage_protocol.witnessing import witness_policy
from patronage_server.book import Book
from patronage_server.home import OperatorHome
from patronage_server.key_changes import record_change, revoke_key, rotate_key
from patronage_simulations.consortium import Consortium, Plan, open_next
from patronage_simulations.engines import clock_after, run_local

pytestmark = pytest.mark.usefixtures("no_network")

PASSPHRASE = b"a passphrase"


def now_of(consortium: Consortium) -> int:
    return clock_after(consortium).now() + 1


def run(consortium: Consortium) -> None:
    run_local(consortium, lambda entry, state: None)


@pytest.fixture
def one_round(trained: Callable[..., Consortium], one_thread: None) -> Consortium:
    consortium = trained({"ann": 1, "bob": 2})
    run(consortium)
    return consortium


@dataclass
class Later:
    """A consortium whose next round is open, with adapters in place of training."""

    plan_of: Callable[..., Plan]
    adapter: Callable[..., dict]  # type: ignore[type-arg]

    def next(self, consortium: Consortium) -> Consortium:
        base = shared_base_model("tiny", precision="float32")
        following = open_next(consortium, self.plan_of("ann", "bob"), base, now=now_of(consortium))
        number = following.manifest.round
        for seed, owner in enumerate(("ann", "bob"), start=10 * number):
            folder = consortium.folder / "owners" / owner / "rounds" / f"orchard-{number}"
            folder.mkdir(parents=True)
            (folder / "training.json").write_bytes(b'{"pairs":3,"privacy":null}')
            (folder / "adapter.safetensors").write_bytes(encode(self.adapter(following.manifest, seed)))
        return following


@pytest.fixture
def later(plan_of: Callable[..., Plan], adapter: Callable[..., dict]) -> Later:  # type: ignore[type-arg]
    return Later(plan_of, adapter)


def test_two_rounds_with_a_new_operators_key_and_a_new_owners_key_in_between(
    one_round: Consortium, later: Later
) -> None:
    first_policy = witness_policy(one_round.manifest)
    ann = one_round.owners[0]
    old = {"operator": OperatorHome.load(one_round.operator).key, "ann": OwnerHome.load(ann).key}
    statement = rotate_owner(OwnerHome.load(ann))
    record_change(OperatorHome.load(one_round.operator), statement, now=now_of(one_round))
    new, retired = rotate_key(OperatorHome.load(one_round.operator), now=now_of(one_round))
    assert PrivateKey.load(retired, None).public == old["operator"].public
    assert OwnerHome.load(ann).key.public == old["ann"].public, "until the terms name the next key"
    second = later.next(one_round)
    run(second)

    assert second.manifest.operator.key == new.text
    assert OwnerHome.load(ann).key.public.text == second.manifest.owners[0].key != old["ann"].public.text
    assert fsck(second.operator / "ledger.sqlite").problems == ()
    verdict = verify_ledger(second.ledger, trust=first_policy)
    assert [check.what.split("'")[0] for check in verdict.checks if check.phase == "keys"] == [
        "ann",
        "operator",
    ]
    assert any("renew the file" in check.what for check in verdict.checks if check.phase == "trust")
    ends = [check.what for check in verdict.checks if check.phase == "final"]
    cosigned = ["cosigned by ann, bob: 2 of 2, 2 needed" in end for end in ends]
    assert cosigned == [True, False], "the published head speaks for the last round"
    for owner in second.owners:
        home = OwnerHome.load(owner)
        assert [receipt.witnesses for receipt in kept_receipts(home)] == [("ann", "bob")] * 2
        for number, manifest in enumerate((one_round.manifest, second.manifest), start=1):
            receipt = (owner / "rounds" / f"orchard-{number}" / "receipt.tlog-proof").read_bytes()
            verify_receipt(receipt, verdict=verdict)
            verify_receipt(receipt, trust=witness_policy(manifest))


def test_an_owner_heeds_the_operator_and_nobody_else(one_round: Consortium, later: Later) -> None:
    home = OwnerHome.load(one_round.owners[0])
    operator = OperatorHome.load(one_round.operator)
    thief = PrivateKey.from_seed(b"t" * 32)
    origin = one_round.manifest.origin

    def offer(manifest: Manifest, key: PrivateKey, *statements: Envelope) -> Envelope:
        data = manifest.encode()
        return Owner(home).offer(data, sign_detached(MANIFEST_TYPE, data, key), statements)

    with pytest.raises(VerificationError):  # a new key without a word of the old one
        offer(one_round.manifest, thief)
    with pytest.raises(VerificationError):  # a rotation of a key that is not the operator's leads nowhere
        offer(one_round.manifest, thief, rotate(origin, "operator", 3, thief, PrivateKey.generate()))
    with pytest.raises(RemoteProtocolError, match="rotate §place"):
        home.operator.heed([rotate(origin, "operators", 3, operator.key, thief)])

    rotate_key(operator, now=now_of(one_round))
    following = later.next(one_round)
    now = OperatorHome.load(one_round.operator)
    with now.open_ledger(origin) as ledger:
        statements = Book(ledger, now.published).state.keys.log.statements
    answer = offer(following.manifest, now.key, *statements)
    assert answer.payloadType == Acceptance.media_type
    assert home.operator.heed(statements) == 0
    assert home.operator.current(origin) == now.key.public
    with pytest.raises(RemoteProtocolError, match="rotate §key"):  # the old key cannot name another heir
        home.operator.heed([rotate(origin, "operator", 99, operator.key, thief)])
    for consortium in (following.manifest.consortium, "another"):
        with pytest.raises(VerificationError):  # nor offer terms any more, of whatever ledger
            offer(following.manifest.model_copy(update={"consortium": consortium}), operator.key)


def test_keys_do_not_change_while_a_round_is_under_way(one_round: Consortium, later: Later) -> None:
    following = later.next(one_round)
    operator = OperatorHome.load(following.operator)
    with operator.open_ledger(following.manifest.origin) as ledger:
        Book(ledger, operator.published).open_round(following.manifest, operator.key, now_of(one_round))
    with pytest.raises(RemoteProtocolError, match="rotate §phase"):
        rotate_key(operator, now=now_of(one_round))
    statement = rotate_owner(OwnerHome.load(following.owners[0]))
    with pytest.raises(RemoteProtocolError, match="rotate §phase"):
        record_change(operator, statement, now=now_of(one_round))
    run(following)
    record_change(operator, statement, now=now_of(one_round))


def test_a_rotation_that_was_cut_short_is_finished_by_the_next_start(
    one_round: Consortium, later: Later, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(self: KeyFile, current: PrivateKey) -> Path:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(KeyFile, "promote", killed)
        with pytest.raises(KeyboardInterrupt):
            rotate_key(OperatorHome.load(one_round.operator), now=now_of(one_round))
    waiting = PrivateKey.load(one_round.operator / "key-next.pem", None)
    home = OperatorHome.load(one_round.operator)
    assert home.key.public == waiting.public
    assert not (one_round.operator / "key-next.pem").exists()
    run(later.next(one_round))


def test_a_rotation_that_was_not_recorded_goes_on_with_the_same_key(
    one_round: Consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(self: Book, entry: KeyRotated, key: PrivateKey) -> None:
        raise KeyboardInterrupt

    old = OperatorHome.load(one_round.operator).key
    with monkeypatch.context() as patch:
        patch.setattr(Book, "rotate", killed)
        with pytest.raises(KeyboardInterrupt):
            rotate_key(OperatorHome.load(one_round.operator), now=now_of(one_round))
    waiting = PrivateKey.load(one_round.operator / "key-next.pem", None)
    home = OperatorHome.load(one_round.operator)
    assert home.key.public == old.public
    assert rotate_key(home, now=now_of(one_round))[0] == waiting.public


def test_a_new_key_is_encrypted_as_the_old_one_was(one_round: Consortium) -> None:
    folder = one_round.operator
    key = PrivateKey.load(folder / "key.pem", None)
    (folder / "key.pem").unlink()
    key.save(folder / "key.pem", PASSPHRASE)
    new, retired = rotate_key(OperatorHome.load(folder, lambda _: PASSPHRASE), now=now_of(one_round))
    for path, public in ((folder / "key.pem", new), (retired, key.public)):
        assert PrivateKey.load(path, PASSPHRASE).public == public
        assert path.stat().st_mode & 0o777 == 0o600
        with pytest.raises(UsageError, match="passphrase"):
            PrivateKey.load(path, None)


def test_a_revoked_owner_is_in_no_terms_until_it_has_another_key(one_round: Consortium, later: Later) -> None:
    ann = one_round.owners[0]
    statement = revoke_owner(OwnerHome.load(ann), "the laptop was stolen")
    registration = one_round.operator / "owners" / "ann.json"
    registration.parent.mkdir()
    write_envelope(registration, read_envelope(statement))
    record_change(OperatorHome.load(one_round.operator), statement, now=now_of(one_round))
    assert not registration.exists()
    with pytest.raises(UsageError, match="a key of ann that counts"):
        later.next(one_round)


def test_nothing_follows_the_operators_revocation_and_owners_turn_away(
    one_round: Consortium, later: Later
) -> None:
    operator = OperatorHome.load(one_round.operator)
    heir = PrivateKey.from_seed(b"h" * 32)
    own = one_round.folder / "own.json"
    write_envelope(own, rotate(one_round.manifest.origin, "operator", 1, operator.key, heir))
    with pytest.raises(UsageError, match="the operator's own"):
        record_change(operator, own, now=now_of(one_round))
    path = revoke_key(operator, "copied", now=now_of(one_round))
    with pytest.raises(PatronageError, match="§key"):
        rotate_key(operator, now=now_of(one_round))
    home = OwnerHome.load(one_round.owners[0])
    assert home.operator.heed([read_envelope(path)]) == 1
    data = one_round.manifest.encode()
    with pytest.raises(VerificationError, match="revoked it"):
        Owner(home).offer(data, sign_detached(MANIFEST_TYPE, data, operator.key))
    verify_ledger(one_round.ledger)


def test_an_invitation_brings_the_rotations_that_lead_to_its_signer(
    one_round: Consortium, later: Later
) -> None:
    home, old = OwnerHome.load(one_round.owners[0]), OperatorHome.load(one_round.operator).key
    rotate_key(OperatorHome.load(one_round.operator), now=now_of(one_round))
    manifest = later.next(one_round).manifest
    operator = OperatorHome.load(one_round.operator)
    with operator.open_ledger(manifest.origin) as ledger:
        statements = Book(ledger, operator.published).state.keys.log.statements
    path = one_round.folder / "invitation.json"

    def read(signer: PrivateKey, *rotations: Envelope) -> Invitation:
        invitation = Invitation(
            address="localhost:1", certificate="", bundle="00" * 32, manifest=manifest, rotations=rotations
        )
        write_envelope(path, invitation.seal(signer))
        return read_invitation(home, path)

    for signer in (operator.key, PrivateKey.from_seed(b"t" * 32)):
        with pytest.raises(VerificationError):
            read(signer)
    assert read(operator.key, *statements).manifest == manifest
    with pytest.raises(VerificationError):
        read(old, *statements)


def test_the_commands_change_keys_and_say_what_to_do_next(
    one_round: Consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann, operator = one_round.owners[0], one_round.operator

    def ran(*words: object) -> Result:
        result = CliRunner().invoke(application(), [str(word) for word in words])
        assert result.exit_code == 0, result.output
        return result

    assert "until the terms name the new one" in ran("owner", "rotate-key", ann).stderr
    recorded = ran("operator", "record-key", operator, ann / "key-rotation.json", "--json")
    assert json.loads(recorded.stdout)["recorded"] == [{"owner": "ann", "kind": "rotate"}]
    told = json.loads(ran("operator", "rotate-key", operator, "--json").stdout)
    assert told["operator_key"] == OperatorHome.load(operator).key.public.text
    bob = one_round.owners[1]
    ran("owner", "revoke-key", bob, "--reason", "retired")
    assert ran("operator", "record-key", operator, bob / "key-revocation.json").stdout == "bob  revoke\n"
    ran("operator", "revoke-key", operator, "--reason", "over", "--yes")
    with pytest.raises(UsageError, match="not the operator's"):  # of a key that ann does not know yet
        CliRunner().invoke(
            application(),
            ["owner", "heed", str(ann), str(operator / "key-revocation.json")],
            catch_exceptions=False,
        )


def test_an_owner_that_joined_nothing_has_no_key_to_change(trained: Callable[..., Consortium]) -> None:
    home = OwnerHome.load(trained({"ann": 1, "bob": 2}).owners[0])
    with pytest.raises(UsageError, match="joined nothing"):
        rotate_owner(home)
