"""A receipt beside a ledger: of one log with it, under a head that its witnesses cosigned, or refused."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from by_hand import Play
from consortium import ORIGIN, OWNERS, Consortium, Rotated, new_key, payment
from played import Scenario

from patronage_protocol.entries import Aborted, Paid, decode_entry
from patronage_protocol.errors import RemoteProtocolError, UsageError, VerificationError
from patronage_protocol.keys import PrivateKey
from patronage_protocol.ledger.checkpoints import SignedCheckpoint
from patronage_protocol.ledger.merkle import Frontier, inclusion_proof, leaf_hash
from patronage_protocol.ledger.publish import publish
from patronage_protocol.ledger.receipts import Receipt
from patronage_protocol.ledger.stored_tree import nodes_of_leaves
from patronage_protocol.ledger.trust import TrustPolicy
from patronage_protocol.manifest import Manifest, WitnessTerms
from patronage_protocol.rounds import Phase
from patronage_protocol.verify import ReceiptVerdict, Verdict, verify_ledger, verify_receipt
from patronage_protocol.witnessing import log_key, witness_policy

Keys = Callable[[str], PrivateKey]
Ledgers = Callable[..., Path]
Heads = Callable[..., SignedCheckpoint]

ONE_LOG = "the ledger continues that head, so both are of one log"


@dataclass(frozen=True)
class Log:
    """A verified ledger, of which anybody can make receipts, and whose keys a liar has."""

    verdict: Verdict
    keys: Keys
    heads: Heads

    @property
    def entries(self) -> Sequence[bytes]:
        return self.verdict.ledger.entries

    @property
    def ends(self) -> tuple[int, ...]:
        """The size of the ledger at the end of each round."""
        kinds = [decode_entry(entry).kind for entry in self.entries]
        return tuple(number + 1 for number, kind in enumerate(kinds) if kind == "final")

    def head(self, entries: Sequence[bytes], *witnesses: str, of: int = -1) -> SignedCheckpoint:
        """A head over these entries, signed by the operator, cosigned by witnesses of a round or by these."""
        tree = Frontier(leaf_hash(entry) for entry in entries)
        return self.heads(replace(self.verdict.rounds[of], tree=tree), self.keys, *witnesses)

    def check(self, index: int, signed: SignedCheckpoint, trust: TrustPolicy | None = None) -> ReceiptVerdict:
        """The verdict on a receipt of this ledger's own entry under a head."""
        data = receipt(self.entries[: signed.checkpoint.size], index, signed)
        return verify_receipt(data, trust=trust, verdict=self.verdict)


def receipt(entries: Sequence[bytes], index: int, signed: SignedCheckpoint) -> bytes:
    node = nodes_of_leaves([leaf_hash(entry) for entry in entries])
    return Receipt(index, inclusion_proof(index, len(entries), node), signed, entries[index]).encode()


def lines(verdict: ReceiptVerdict) -> list[str]:
    assert {check.phase for check in verdict.checks} == {"receipt"}
    return [check.what for check in verdict.checks]


@pytest.fixture
def log_of(ledger_of: Ledgers, key_of: Keys, cosigned_head: Heads) -> Callable[..., Log]:
    return lambda *rounds: Log(verify_ledger(ledger_of(*rounds)), key_of, cosigned_head)


@pytest.fixture
def scenario(scenarios: Mapping[str, Scenario]) -> Scenario:
    return replace(scenarios["paying"], pairs=16, until=Phase.FINAL)


@pytest.fixture
def log(scenario: Scenario, log_of: Callable[..., Log]) -> Log:
    """One round of four owners, all of them witnesses."""
    return log_of(scenario)


def test_every_entry_has_a_receipt_under_the_head_at_the_end_and_under_that_at_close(log: Log) -> None:
    everybody = ("ash", "birch", "cedar", "dogwood")
    (close,) = (number for number, entry in enumerate(log.entries) if decode_entry(entry).kind == "close")
    for size in (close + 1, len(log.entries)):
        for index in range(size):
            verdict = log.check(index, log.head(log.entries[:size]))
            assert (verdict.entry, verdict.witnesses) == (log.entries[index], everybody)
            assert lines(verdict) == [f"entry {index} of the {size} under the head of {ORIGIN}", ONE_LOG]


def test_a_receipt_says_whose_word_a_trust_file_took(log: Log) -> None:
    manifest = log.verdict.rounds[0].manifest
    policy, signed = witness_policy(manifest), log.head(log.entries)
    names = tuple(f"orchard/{owner}" for owner in manifest.witness.owners)
    held = f"signed and witnessed as the trust file asks: {', '.join(names)}"
    place = f"entry 0 of the {len(log.entries)} under the head of {ORIGIN}"
    alone = verify_receipt(receipt(log.entries, 0, signed), trust=policy)
    assert (lines(alone), alone.witnesses) == ([held, place], names)
    beside = log.check(0, signed, policy)
    assert (lines(beside), beside.witnesses) == ([held, place, ONE_LOG], names)
    key = TrustPolicy((log_key(manifest),), {}, {}, None)
    nobody = "signed and witnessed as the trust file asks: no witness"
    alone = verify_receipt(receipt(log.entries, 0, signed), trust=key)
    assert (lines(alone), alone.witnesses) == ([nobody, place], ())
    beside = log.check(0, signed, key)  # and the ledger knows the witnesses
    assert (lines(beside), beside.witnesses) == ([nobody, place, ONE_LOG], manifest.witness.owners)
    with pytest.raises(UsageError, match="a trust file or a ledger"):
        verify_receipt(receipt(log.entries, 0, signed))


def test_a_receipt_of_a_fork_is_refused_by_the_ledger_though_everybody_signed_it(log: Log) -> None:
    """Forks of the same size and of a smaller one, with roots that are above and below the ledger's own."""
    policy = witness_policy(log.verdict.rounds[0].manifest)
    for size in (len(log.entries), len(log.entries) - 3):
        honest = log.head(log.entries[:size]).checkpoint.root
        above = set()
        for number in range(8):
            forked = [*log.entries[: size - 1], f"paid {number}".encode()]
            signed = log.head(forked)
            above.add(signed.checkpoint.root > honest)
            for index in (0, size - 1):
                data = receipt(forked, index, signed)
                verify_receipt(data, trust=policy)
                for trust in (None, policy):
                    with pytest.raises(VerificationError, match="prove a fork") as refused:
                        verify_receipt(data, trust=trust, verdict=log.verdict)
                    assert (refused.value.expected, refused.value.got) == (
                        f"a receipt whose head of {size} entries the ledger continues",
                        f"a ledger of {len(log.entries)} entries that does not",
                    )
        assert above == {False, True}, "some of each"


def test_a_receipt_from_a_longer_ledger_is_not_of_this_older_copy(
    log: Log,
) -> None:
    longer = [*log.entries, b"what came later"]
    for index in (0, len(longer) - 1):
        with pytest.raises(VerificationError, match="unless the ledger is older"):
            verify_receipt(receipt(longer, index, log.head(longer)), verdict=log.verdict)


def test_a_receipt_with_fewer_witnesses_than_its_round_needs_is_refused(log: Log) -> None:
    terms = log.verdict.rounds[0].manifest.witness
    assert (len(terms.owners), terms.quorum) == (4, 3)
    for few in (("ash", "dogwood"), ("birch", "mallory", "oscar")):
        with pytest.raises(RemoteProtocolError, match="witness §quorum"):
            log.check(3, log.head(log.entries, *few))
    enough = log.check(3, log.head(log.entries, "dogwood", "birch", "ash"))
    assert enough.witnesses == ("ash", "birch", "dogwood")


@pytest.fixture
def two(scenario: Scenario, log_of: Callable[..., Log]) -> Log:
    """Two rounds, each with witnesses of its own."""
    terms = [
        WitnessTerms(owners=owners, faulty=0, quorum=2, seconds=50)
        for owners in (("ash", "birch"), ("cedar", "dogwood"))
    ]
    return log_of(*(replace(scenario, changes={"witness": witness}) for witness in terms))


def test_the_witnesses_are_those_of_the_round_whose_head_it_is(two: Log) -> None:
    first, last = two.ends
    assert last == len(two.entries)
    for index in (0, first - 1):
        assert two.check(index, two.head(two.entries[:first], of=0)).witnesses == ("ash", "birch")
    for index in (0, first - 1, first, last - 1):  # a later head stands above the entries of both rounds
        assert two.check(index, two.head(two.entries, of=1)).witnesses == ("cedar", "dogwood")
    for index, size, others in ((0, first, 1), (last - 1, last, 0), (0, last, 0)):
        with pytest.raises(RemoteProtocolError, match="witness §quorum"):
            two.check(index, two.head(two.entries[:size], of=others))


def test_of_a_round_without_witnesses_the_receipts_have_none(
    manifest_of: Callable[..., Manifest], key_of: Keys, cosigned_head: Heads, published: Callable[..., Path]
) -> None:
    play = Play(manifest_of("ann", "bob", "cy"), key_of, cosigned_head)
    play.open()
    for owner in ("ann", "bob", "cy"):
        play.accept(owner)
        play.commit(owner)
    play.close()
    play.now += 51
    play.take(Aborted(time=play.now, reason="witnesses", count=0))
    play.settle()
    play.finish()
    log = Log(verify_ledger(published(play)), key_of, cosigned_head)
    refund = len(log.entries) - 2
    verdict = log.check(refund, log.head(log.entries, "mallory"))
    assert (verdict.witnesses, decode_entry(verdict.entry).kind) == ((), "refund")
    other = log.head(log.entries)
    forged = SignedCheckpoint(other.checkpoint, other.checkpoint.sign(key_of("mallory")).note)
    with pytest.raises(VerificationError):  # the operator's signature is asked for in any case
        log.check(refund, forged)


def test_after_a_rotation_every_receipt_is_held_against_the_keys_of_its_own_head(rotated: Rotated) -> None:
    entries, verdict = rotated.verdict.ledger.entries, rotated.verdict
    first = Receipt.parse(rotated.first_receipt)
    again = receipt(entries, first.index, verdict.ledger.signed)
    for data, policy in (
        (rotated.first_receipt, None),
        (rotated.last_receipt, None),
        (again, None),
        (again, rotated.first_policy),
    ):
        held = verify_receipt(data, trust=policy, verdict=verdict)
        assert [name.removeprefix("orchard/") for name in held.witnesses] == list(OWNERS)
        assert isinstance(decode_entry(held.entry), Paid)


def test_trust_is_led_along_the_rotations_of_any_round(consortium: Consortium, tmp_path: Path) -> None:
    policy = witness_policy(consortium.round().state.manifest)
    consortium.ended().round().ended().rotate("operator", new_key("operator 2")).rotate(
        "quince", new_key("quince 2")
    ).round()
    with consortium.ledger(tmp_path / "ledger.sqlite") as ledger:
        publish(ledger, tmp_path / "ledger")
    verdict = verify_ledger(tmp_path / "ledger", trust=policy)
    data = receipt(verdict.ledger.entries, payment(consortium), verdict.ledger.signed)
    assert verify_receipt(data, trust=policy, verdict=verdict).witnesses == ("orchard/ash", "orchard/quince")
    assert verify_receipt(data, verdict=verdict).witnesses == OWNERS
