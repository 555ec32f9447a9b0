"""Receipts stand alone, and no byte of one can change."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from patronage_protocol.errors import FormatError, UsageError, VerificationError
from patronage_protocol.keys import PrivateKey
from patronage_protocol.ledger.checkpoints import SignedCheckpoint
from patronage_protocol.ledger.cosignatures import Ed25519Cosigner
from patronage_protocol.ledger.notes import Note, VerifierKey
from patronage_protocol.ledger.receipts import MAX_RECEIPT_BYTES, Receipt, make_receipt
from patronage_protocol.ledger.store import Ledger
from patronage_protocol.ledger.trust import flat_policy
from patronage_protocol.strict import base64_text

KEY = PrivateKey.from_seed(b"\x51" * 32)
WITNESSES = [
    Ed25519Cosigner(f"w.example/{i}", PrivateKey.from_seed(bytes([0x60 + i]) * 32)) for i in range(3)
]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.create(tmp_path / "ledger.sqlite", "log.example", KEY) as made:
        made.append([f"payout {number}".encode() for number in range(11)])
        head = made.checkpoint.checkpoint
        made.add_cosignatures(head.size, [witness.cosign(head, 9) for witness in WITNESSES])
        yield made


def test_a_receipt_stands_alone(ledger: Ledger) -> None:
    policy = flat_policy(ledger.verifier, [witness.verifier for witness in WITNESSES], faulty=0)
    for index in range(ledger.size):
        data = make_receipt(ledger, index).encode()
        assert Receipt.parse(data).encode() == data
        assert Receipt.parse(data).verify(policy) == f"payout {index}".encode()
        assert Receipt.parse(data).verify(ledger.verifier, f"payout {index}".encode())


def test_the_only_entry_of_a_ledger_has_a_receipt_without_a_hash(tmp_path: Path) -> None:
    with Ledger.create(tmp_path / "one.sqlite", "log.example", KEY) as made:
        made.append([b"alone"])
        receipt = make_receipt(made, 0)
    assert receipt.proof == ()
    for extra in (b"alone", None):
        short = Receipt(0, (), receipt.signed, extra)
        assert Receipt.parse(short.encode()).verify(made.verifier, b"alone") == b"alone"


def test_a_receipt_has_the_form_of_the_specification(ledger: Ledger) -> None:
    receipt = make_receipt(ledger, 10)
    lines = receipt.encode().decode().split("\n")
    assert lines[:3] == ["c2sp.org/tlog-proof@v1", "extra " + base64_text(b"payout 10"), "index 10"]
    assert lines[3 : lines.index("")] == [base64_text(digest) for digest in receipt.proof]
    assert receipt.encode().endswith(b"\n\n" + ledger.checkpoint.encode())


def test_no_byte_of_a_receipt_can_change(ledger: Ledger) -> None:
    policy = flat_policy(ledger.verifier, [witness.verifier for witness in WITNESSES], faulty=0)
    receipt = make_receipt(ledger, 4)
    note = Note(receipt.signed.note.text, receipt.signed.note.signatures[:3])
    only_quorum = SignedCheckpoint(receipt.signed.checkpoint, note)
    data = Receipt(receipt.index, receipt.proof, only_quorum, receipt.extra).encode()
    assert Receipt.parse(data).verify(policy)
    for place in range(len(data)):
        changed = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        with pytest.raises((FormatError, VerificationError)):
            Receipt.parse(changed).verify(policy)


def test_a_receipt_without_the_entry_asks_for_it(ledger: Ledger) -> None:
    full = make_receipt(ledger, 0)
    bare = Receipt.parse(Receipt(full.index, full.proof, full.signed).encode())
    with pytest.raises(UsageError, match="the entry"):
        bare.verify(ledger.verifier)
    assert bare.verify(ledger.verifier, b"payout 0") == b"payout 0"
    with pytest.raises(VerificationError):
        bare.verify(ledger.verifier, b"payout 1")
    with pytest.raises(VerificationError):
        full.verify(ledger.verifier, b"payout 1")


def test_a_receipt_that_carries_another_entry_than_the_one_asked_about_is_refused(ledger: Ledger) -> None:
    """What a careless reader prints is the entry in the file, so it must be the one that is in the tree."""
    full = make_receipt(ledger, 0)
    lying = Receipt(full.index, full.proof, full.signed, b"payout 999")
    with pytest.raises(VerificationError, match="the entry that the receipt carries"):
        lying.verify(ledger.verifier, b"payout 0")


def test_a_receipt_by_another_key_is_refused_where_the_logs_key_alone_is_trusted(ledger: Ledger) -> None:
    receipt = make_receipt(ledger, 0)
    other = PrivateKey.from_seed(b"\x77" * 32)
    head = receipt.signed.checkpoint
    forged = Receipt(receipt.index, receipt.proof, head.sign(other), receipt.extra)
    with pytest.raises(VerificationError, match="signed by"):
        forged.verify(ledger.verifier)
    with pytest.raises(VerificationError, match="signed by"):
        receipt.verify(VerifierKey.ed25519("log.example", other.public))


def test_a_receipt_has_63_hashes_at_most_and_needs_its_index(ledger: Ledger) -> None:
    full = make_receipt(ledger, 3)
    for extra in (None, b"x"):
        longest = Receipt(full.index, (bytes(32),) * 63, full.signed, extra)
        assert Receipt.parse(longest.encode()) == longest
        with pytest.raises(FormatError, match="at most 63 hashes"):
            Receipt.parse(Receipt(full.index, (bytes(32),) * 64, full.signed, extra).encode())
    for head in (b"c2sp.org/tlog-proof@v1", b"c2sp.org/tlog-proof@v1\nextra eA=="):
        with pytest.raises(FormatError, match="an index line"):
            Receipt.parse(head + b"\n\n" + full.signed.encode())


def test_a_receipt_of_the_largest_size_is_read_and_not_one_byte_more() -> None:
    with pytest.raises(FormatError, match="begins with"):
        Receipt.parse(b"x" * MAX_RECEIPT_BYTES)
    with pytest.raises(FormatError, match="a receipt of at most"):
        Receipt.parse(b"x" * (MAX_RECEIPT_BYTES + 1))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"proof@v1", b"proof@v2"),
        (b"\nindex 3", b"\nindex 03"),
        (b"\nindex 3", b"\nindex  3"),
        (b"\nindex 3", b"\nIndex 3"),
        (b"\nindex 3", b""),
        (b"\nindex 3", b"\nindex 3\nindex 3"),
        (b"\nextra ", b"\nextra  "),
        (b"\nextra ", b"\nextra"),
        (b"\nindex 3\n", b"\nindex 3\n" + (b"A" * 43 + b"=\n") * 64),
        (b"\nindex 3\n", b"\nindex 3\nAAAA\n"),
        (b"\n\nlog.example", b"\n\n\nlog.example"),
        (b"\n\nlog.example", b"\nlog.example"),
        (b"c2sp", b"\xef\xbb\xbfc2sp"),
    ],
)
def test_what_is_nearly_a_receipt_is_refused(ledger: Ledger, old: bytes, new: bytes) -> None:
    data = make_receipt(ledger, 3).encode()
    assert old in data
    with pytest.raises(FormatError):
        Receipt.parse(data.replace(old, new, 1))
