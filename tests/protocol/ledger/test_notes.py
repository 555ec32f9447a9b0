"""Signed notes: the examples of the specification, and everything that is nearly a note."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patronage_protocol.errors import FormatError, VerificationError
from patronage_protocol.keys import PrivateKey
from patronage_protocol.ledger.notes import (
    MAX_NAME_BYTES,
    MAX_NOTE_BYTES,
    Note,
    NoteSignature,
    SignatureType,
    VerifierKey,
    parse_signatures,
    sign_note,
)

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "c2sp.json").read_text())
EXAMPLE = VECTORS["note"].encode()
KEY = PrivateKey.from_seed(b"\x03" * 32)


def test_the_example_of_the_specification_verifies() -> None:
    key = VerifierKey.parse(VECTORS["vkey"])
    note = Note.parse(EXAMPLE)
    assert (key.name, key.kind, key.text) == ("example.com/foo", SignatureType.ED25519, VECTORS["vkey"])
    assert note.text == "This is an example message.\n"
    assert note.encode() == EXAMPLE
    note.verify(key)


def test_the_text_ends_at_the_last_blank_line() -> None:
    note = Note.parse(VECTORS["unverifiable_note"].encode())
    assert note.text.endswith("di sole:\n\ned \u00e8 subito sera.\n")
    assert note.signatures[0].name == "quasimodo.example/salvatore"


def test_every_flipped_byte_of_a_note_is_noticed() -> None:
    key = VerifierKey.parse(VECTORS["vkey"])
    for place in range(len(EXAMPLE)):
        for flip in (0x01, 0x20, 0x80):
            changed = bytearray(EXAMPLE)
            changed[place] ^= flip
            with pytest.raises((FormatError, VerificationError)):
                Note.parse(bytes(changed)).verify(key)


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]) | st.just("\n"), max_size=80))
def test_any_text_is_signed_and_read_back(text: str) -> None:
    note = sign_note(text + "\n", "a.example/b", KEY)
    assert Note.parse(note.encode()) == note
    note.verify(VerifierKey.ed25519("a.example/b", KEY.public))


LINE = EXAMPLE.decode().split("\n\n")[1]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"text\n",
        b"text\n\n",
        b"\n\n",
        EXAMPLE[:-1],
        EXAMPLE + b"\n",
        EXAMPLE + b"x\n",
        EXAMPLE.replace(b"\n\n", b"\n"),
        EXAMPLE.replace(b"message.\n", b"message.\r\n"),
        EXAMPLE.replace(b"message", b"mes\x00age"),
        EXAMPLE.replace(b"message", b"mes\xffage"),
        EXAMPLE.replace("\u2014 ".encode(), b"- "),
        EXAMPLE.replace("\u2014 ".encode(), "\u2014".encode()),
        EXAMPLE.replace(b"foo Uw", b"foo  Uw"),
        EXAMPLE.replace(b"foo Uw", b"foo\xc2\xa0Uw"),
        EXAMPLE.replace(b"example.com/foo Uw", b" Uw"),
        EXAMPLE.replace(b"example.com/foo ", b"exam+ple "),
        EXAMPLE.replace(b"aQM=", b"aQN="),
        EXAMPLE.replace(b"aQM=", b"aQM"),
        EXAMPLE.replace(b"aQM=\n", b"aQM= \n"),
        EXAMPLE + LINE.encode(),
        "text\n\n\u2014 a.example Uw2QOg==\n".encode(),
        "text\n\n\u2014 a.example\n".encode(),
        b"x" * 600_000 + EXAMPLE,
        EXAMPLE + "".join(f"\u2014 a{i} AAAAAAA=\n" for i in range(64)).encode(),
    ],
)
def test_what_is_nearly_a_note_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        Note.parse(data)


def test_a_signature_of_an_unknown_key_is_no_signature() -> None:
    note = Note.parse(EXAMPLE)
    with pytest.raises(VerificationError, match="signed by"):
        note.verify(VerifierKey.ed25519("example.com/foo", KEY.public))
    known = VerifierKey.parse(VECTORS["vkey"])
    with pytest.raises(VerificationError):
        note.verify(VerifierKey("example.com/bar", SignatureType.ED25519, known.material))
    with pytest.raises(VerificationError):
        note.verify(VerifierKey("example.com/foo", SignatureType.COSIGNATURE, known.material))


def test_a_further_signature_stands_behind_and_only_once() -> None:
    note = Note.parse(EXAMPLE)
    other = sign_note(note.text, "b.example", KEY).signatures[0]
    both = note.with_signatures(other)
    assert both.encode() == EXAMPLE + other.line.encode()
    both.verify(VerifierKey.parse(VECTORS["vkey"]))
    both.verify(VerifierKey.ed25519("b.example", KEY.public))
    with pytest.raises(FormatError, match="two by one key"):
        both.with_signatures(other)
    assert parse_signatures(other.line) == (other,)


@pytest.mark.parametrize("lines", ["", "\n", LINE[:-1], LINE + "\n", "\n" + LINE, LINE + LINE])
def test_signature_lines_are_read_strictly(lines: str) -> None:
    with pytest.raises(FormatError):
        parse_signatures(lines)


VKEY = VECTORS["vkey"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "a+b",
        VKEY + "\n",
        VKEY[:-1],
        VKEY.replace("530d903a", "530D903A"),
        VKEY.replace("530d903a", "530d903b"),
        VKEY.replace("530d903a+", ""),
        VKEY.replace("example.com/foo", ""),
        VKEY.replace("example.com/foo", "example.com foo"),
        VKEY.replace("+A", "+B"),
        "x" * 256 + "+00000000+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        "low.example+00000000+AQEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    ],
)
def test_what_is_nearly_a_vkey_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        VerifierKey.parse(text)


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\u2028b", "a\x7f\x01", "\u3000", "x" * 256, "a\nb"])
def test_a_name_that_a_note_cannot_hold_is_refused(name: str) -> None:
    with pytest.raises(FormatError):
        sign_note("text\n", name, KEY)


@pytest.mark.parametrize("text", ["", "text", "te\rxt\n", "te\x00xt\n"])
def test_a_text_that_a_note_cannot_hold_is_not_signed(text: str) -> None:
    with pytest.raises(FormatError):
        sign_note(text, "a.example", KEY)


def test_a_signature_line_has_one_spelling() -> None:
    line = NoteSignature("a.example", b"\x00\x01\x02\x03", b"\xff" * 64)
    assert NoteSignature.parse(line.line[:-1]) == line


def test_the_longest_name_is_one_and_every_letter_may_stand_in_it() -> None:
    for name in ("x" * MAX_NAME_BYTES, "\u00e9" * 127, "a*b,c-d.e/f:g~", "\u00fc"):
        assert sign_note("text\n", name, KEY).signatures[0].name == name
    for name in ("\u00e9" * 128, "\x1f", "a\x00", "\ud800"):
        with pytest.raises(FormatError):
            sign_note("text\n", name, KEY)


def test_the_largest_note_is_read_and_not_one_byte_more() -> None:
    signed = sign_note("t\n", "n", KEY)
    room = MAX_NOTE_BYTES - len(signed.encode())
    largest = sign_note("t" * (room + 1) + "\n", "n", KEY)
    assert len(largest.encode()) == MAX_NOTE_BYTES
    assert Note.parse(largest.encode()) == largest
    with pytest.raises(FormatError, match="a note of at most"):
        Note.parse(sign_note("t" * (room + 2) + "\n", "n", KEY).encode())


@pytest.mark.parametrize("kind", list(SignatureType))
@pytest.mark.parametrize("change", [-1, 1])
def test_a_key_of_another_length_is_no_verifier(kind: SignatureType, change: int) -> None:
    length = 1312 if kind is SignatureType.ML_DSA_44 else 32
    material = (KEY.public.raw * 42)[: length + change]
    with pytest.raises(FormatError, match=f"a public key of {length} bytes for log"):
        VerifierKey("log", kind, material)


@pytest.mark.parametrize("kind", [SignatureType.ED25519, SignatureType.COSIGNATURE])
def test_a_key_with_which_one_signature_fits_all_is_no_verifier(kind: SignatureType) -> None:
    """The point of order 1 and one of order 8, as in tests/vectors/ed25519_edge_cases.json."""
    for low in (
        bytes([1]) + bytes(31),
        bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
    ):
        with pytest.raises(FormatError):
            VerifierKey("log", kind, low)


def test_two_lines_by_one_key_are_refused_among_others_too() -> None:
    lines = [sign_note("text\n", name, KEY).signatures[0] for name in ("a", "b", "a")]
    with pytest.raises(FormatError, match="one signature line for each key"):
        parse_signatures("".join(line.line for line in lines))


def test_at_most_64_lines_are_read() -> None:
    lines = [NoteSignature(f"n{number}", b"keyi", b"s") for number in range(65)]
    assert len(parse_signatures("".join(line.line for line in lines[:64]))) == 64
    with pytest.raises(FormatError, match="at most 64 signatures"):
        parse_signatures("".join(line.line for line in lines))


@pytest.mark.parametrize("data", [LINE, "\n" + LINE, LINE + LINE, "text" + LINE])
def test_signature_lines_without_a_text_are_no_note(data: str) -> None:
    with pytest.raises(FormatError, match="a text, a blank line, and signature lines"):
        Note.parse(data.encode())
