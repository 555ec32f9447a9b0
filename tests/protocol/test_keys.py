"""Keys: what is refused as a public key, what verifies, and how a private key rests on disk."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from patronage_protocol.errors import FormatError, UsageError, VerificationError
from patronage_protocol.keys import PrivateKey, PublicKey

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "ed25519_edge_cases.json").read_text())
RFC_8032 = json.loads((Path(__file__).parents[1] / "vectors" / "rfc8032.json").read_text())


@pytest.mark.parametrize("case", VECTORS["refused_keys"], ids=lambda case: case["what"])
def test_a_key_outside_the_prime_order_group_is_refused(case: dict[str, str]) -> None:
    with pytest.raises(FormatError):
        PublicKey.from_raw(bytes.fromhex(case["key"]))


@pytest.mark.parametrize("key", VECTORS["accepted_keys"])
def test_a_point_of_prime_order_is_a_key(key: str) -> None:
    assert PublicKey.from_raw(bytes.fromhex(key)).raw.hex() == key


def test_the_library_alone_would_take_one_signature_for_any_message() -> None:
    trick = VECTORS["valid_for_any_message"]
    library = Ed25519PublicKey.from_public_bytes(bytes.fromhex(trick["key"]))
    library.verify(bytes.fromhex(trick["signature"]), b"pay the bearer")
    library.verify(bytes.fromhex(trick["signature"]), b"pay nobody")
    with pytest.raises(FormatError, match="low order"):
        PublicKey.from_raw(bytes.fromhex(trick["key"]))


def test_a_signature_with_a_larger_s_is_refused() -> None:
    case = VECTORS["signature"]
    key, message = PublicKey.from_raw(bytes.fromhex(case["key"])), bytes.fromhex(case["message"])
    key.verify(bytes.fromhex(case["valid"]), message)
    for malleable in case["malleable"]:
        with pytest.raises(VerificationError, match="not reduced"):
            key.verify(bytes.fromhex(malleable), message)


def test_a_signature_with_the_neutral_r_is_refused_though_its_equation_holds() -> None:
    case = VECTORS["signature"]
    raw, message = bytes.fromhex(case["key"]), bytes.fromhex(case["message"])
    Ed25519PublicKey.from_public_bytes(raw).verify(bytes.fromhex(case["neutral_r"]), message)
    with pytest.raises(VerificationError, match="neutral"):
        PublicKey.from_raw(raw).verify(bytes.fromhex(case["neutral_r"]), message)


@pytest.mark.parametrize("case", RFC_8032["vectors"], ids=lambda case: case["name"])
def test_the_vectors_of_rfc_8032_hold(case: dict[str, str]) -> None:
    key = PrivateKey.from_seed(bytes.fromhex(case["seed"]))
    assert key.public.raw.hex() == case["public"]
    assert key.sign(bytes.fromhex(case["message"])).hex() == case["signature"]
    key.public.verify(bytes.fromhex(case["signature"]), bytes.fromhex(case["message"]))


def test_every_flipped_bit_of_a_signature_is_noticed() -> None:
    key = PrivateKey.from_seed(b"\x07" * 32)
    signature = key.sign(b"message")
    for bit in range(512):
        flipped = bytearray(signature)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(VerificationError):
            key.public.verify(bytes(flipped), b"message")


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_a_key_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(FormatError, match="instead of 32"):
        PublicKey.from_raw(bytes(length))
    with pytest.raises(FormatError):
        PrivateKey.from_seed(bytes(length))


def test_the_text_of_a_key_has_one_spelling() -> None:
    key = PrivateKey.from_seed(b"\x01" * 32).public
    assert PublicKey.from_base64(key.text) == key
    stray = key.text[:-2] + chr(ord(key.text[-2]) + 1) + "="
    for other in (
        key.text + "\n",
        " " + key.text,
        key.text.rstrip("="),
        stray,
        key.text.replace("i", "\u0131"),
    ):
        with pytest.raises(FormatError):
            PublicKey.from_base64(other)


@pytest.mark.parametrize("passphrase", [None, b"correct horse"])
def test_a_key_is_read_back_from_its_file(tmp_path: Path, passphrase: bytes | None) -> None:
    key, path = PrivateKey.generate(), tmp_path / "key.pem"
    key.save(path, passphrase)
    assert path.stat().st_mode & 0o777 == 0o600
    assert PrivateKey.load(path, passphrase).public == key.public
    with pytest.raises(UsageError, match="passphrase"):
        PrivateKey.load(path, b"wrong" if passphrase is None else None)


def test_the_wrong_passphrase_and_an_empty_one_are_refused(tmp_path: Path) -> None:
    PrivateKey.generate().save(tmp_path / "key.pem", b"right")
    with pytest.raises(UsageError, match="another one"):
        PrivateKey.load(tmp_path / "key.pem", b"wrong")
    with pytest.raises(UsageError, match="empty"):
        PrivateKey.generate().save(tmp_path / "other.pem", b"")
    assert not (tmp_path / "other.pem").exists()


def test_a_key_file_is_never_replaced(tmp_path: Path) -> None:
    first = PrivateKey.generate()
    first.save(tmp_path / "key.pem", None)
    with pytest.raises(UsageError, match="not replaced"):
        PrivateKey.generate().save(tmp_path / "key.pem", None)
    assert PrivateKey.load(tmp_path / "key.pem", None).public == first.public


def test_a_file_without_an_ed25519_key_is_named(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(b"not a key")
    with pytest.raises(FormatError, match=r"key\.pem"):
        PrivateKey.load(path, None)


def test_a_private_key_does_not_show_itself() -> None:
    key = PrivateKey.from_seed(b"\x05" * 32)
    assert key.public.text in repr(key)
    assert (b"\x05" * 4).hex() not in repr(key)
    assert "BQUF" not in repr(key)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="the openssl command is not installed")
def test_openssl_reads_an_encrypted_key(tmp_path: Path) -> None:
    key = PrivateKey.generate()
    key.save(tmp_path / "key.pem", b"secret")
    command = [
        "openssl",
        "pkey",
        "-in",
        tmp_path / "key.pem",
        "-passin",
        "pass:secret",
        "-pubout",
        "-outform",
        "DER",
    ]
    public = subprocess.run(command, check=True, capture_output=True).stdout
    assert public[-32:] == key.public.raw
