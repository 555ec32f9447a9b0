"""Checkpoints: three lines, each with one spelling."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patronage_protocol.errors import FormatError, VerificationError
from patronage_protocol.keys import PrivateKey
from patronage_protocol.ledger.checkpoints import Checkpoint, SignedCheckpoint
from patronage_protocol.ledger.merkle import EMPTY_ROOT
from patronage_protocol.ledger.notes import Note, VerifierKey

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "c2sp.json").read_text())
KEY = PrivateKey.from_seed(b"\x04" * 32)
ROOT = "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I="


def test_the_example_of_the_specification_is_read() -> None:
    signed = SignedCheckpoint.parse(VECTORS["checkpoint"].encode())
    assert signed.checkpoint.origin == "example.com/behind-the-sofa"
    assert signed.checkpoint.size == 20852163
    assert [line.name for line in signed.note.signatures] == [
        "example.com/behind-the-sofa",
        "witness.example.com/w1",
    ]
    assert signed.encode() == VECTORS["checkpoint"].encode()


@given(st.integers(1, 2**63 - 1), st.binary(min_size=32, max_size=32))
def test_what_was_signed_is_read_and_verifies(size: int, root: bytes) -> None:
    signed = Checkpoint("log.example", size, root).sign(KEY)
    read = SignedCheckpoint.parse(signed.encode())
    assert read == signed
    read.verify(VerifierKey.ed25519("log.example", KEY.public))


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"log.example\n1\n{ROOT}",
        f"log.example\n1\n{ROOT}\n\n",
        f"log.example\n1\n{ROOT}\nextension\n",
        f"\n1\n{ROOT}\n",
        f"log example\n1\n{ROOT}\n",
        *(
            f"log.example\n{size}\n{ROOT}\n"
            for size in ("", "+1", "01", "1_0", "-1", " 1", "1.0", "0x1", "\u0661")
        ),
        f"log.example\n{2**63}\n{ROOT}\n",
        f"log.example\n{'9' * 5000}\n{ROOT}\n",
        f"log.example\n0\n{ROOT}\n",
        f"log.example\n1\n{ROOT[:-1]}\n",
        f"log.example\n1\n{ROOT.replace('2I=', '2J=')}\n",
        "log.example\n1\nAAAA\n",
        f"log.example\n1\u2028{ROOT}\n",
    ],
)
def test_what_is_nearly_a_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        Checkpoint.parse(text)


def test_the_empty_tree_has_one_checkpoint() -> None:
    assert Checkpoint.parse(Checkpoint("log.example", 0, EMPTY_ROOT).text).size == 0
    for root in (bytes(32), b"\xff" * 32):
        with pytest.raises(FormatError, match="empty tree"):
            Checkpoint("log.example", 0, root)


def test_the_key_of_another_origin_is_refused() -> None:
    signed = Checkpoint("log.example", 1, bytes(32)).sign(KEY)
    for name in ("other.example", "a.example"):
        with pytest.raises(VerificationError, match=f"a checkpoint of {name}"):
            signed.verify(VerifierKey.ed25519(name, KEY.public))


def test_a_note_does_not_pass_for_another_checkpoint() -> None:
    signed = Checkpoint("log.example", 1, bytes(32)).sign(KEY)
    for size in (0, 2):
        head = Checkpoint("log.example", size, bytes(32) if size else EMPTY_ROOT)
        with pytest.raises(FormatError, match="the note of this checkpoint"):
            SignedCheckpoint(head, signed.note)


@pytest.mark.parametrize(
    ("size", "root"), [(-1, bytes(32)), (2**63, bytes(32)), (1, bytes(31)), (1, bytes(33)), (1, b"")]
)
def test_a_head_that_no_tree_can_have_is_refused(size: int, root: bytes) -> None:
    with pytest.raises(FormatError, match="a size below"):
        Checkpoint("log.example", size, root)


def test_the_largest_size_is_still_one() -> None:
    head = Checkpoint("log.example", 2**63 - 1, bytes(32))
    assert Checkpoint.parse(head.text) == head


def test_a_checkpoint_that_another_key_signed_is_refused() -> None:
    signed = Checkpoint("log.example", 1, bytes(32)).sign(KEY)
    other = PrivateKey.generate()
    with pytest.raises(VerificationError, match="signed by"):
        signed.verify(VerifierKey.ed25519("log.example", other.public))
    line = replace(signed.note.signatures[0], signature=other.sign(signed.note.text.encode()))
    forged = SignedCheckpoint(signed.checkpoint, Note(signed.note.text, (line,)))
    with pytest.raises(VerificationError, match="does not verify"):
        forged.verify(VerifierKey.ed25519("log.example", KEY.public))
