"""Tools that never saw this project read what it writes: Go's checksum-database libraries, and OpenSSL.

apt install golang-go golang-golang-x-mod-dev openssl pytest -m slow tests/protocol/ledger/test_strangers.py
"""

import json
import os
import shutil
import subprocess
from base64 import b64decode, b64encode
from pathlib import Path

import pytest

from patronage_protocol.envelopes import pae, seal
from patronage_protocol.keys import PrivateKey
from patronage_protocol.ledger import merkle
from patronage_protocol.ledger.checkpoints import SignedCheckpoint
from patronage_protocol.ledger.cosignatures import Ed25519Cosigner
from patronage_protocol.ledger.notes import VerifierKey
from patronage_protocol.ledger.publish import publish
from patronage_protocol.ledger.store import Ledger

pytestmark = pytest.mark.slow

GOPATH = Path("/usr/share/gocode")
SOURCE = Path(__file__).parents[2] / "strangers" / "main.go"
KEY = PrivateKey.from_seed(b"\xb1" * 32)


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("go") is None or not (GOPATH / "src/golang.org/x/mod/sumdb/tlog").exists():
        pytest.skip("needs the Debian packages golang-go and golang-golang-x-mod-dev")
    folder = tmp_path_factory.mktemp("go")
    program = folder / "stranger"
    environment = os.environ | {"GO111MODULE": "off", "GOPATH": str(GOPATH), "GOCACHE": str(folder / "cache")}
    subprocess.run(["go", "build", "-o", program, SOURCE], check=True, env=environment)
    return program


def published(folder: Path, size: int) -> tuple[dict[str, object], str]:
    """A ledger of `size` entries, published, with claims about it as Go reads them."""
    with Ledger.create(folder / "ledger.sqlite", "consortium.example/rounds", KEY) as ledger:
        roots = {0: merkle.EMPTY_ROOT}
        for start in range(0, size, 50):
            head = ledger.append([f"entry {n}".encode() for n in range(start, min(start + 50, size))])
            roots[head.size] = head.root
        witness = Ed25519Cosigner("owner.example/one", PrivateKey.generate())
        ledger.add_cosignatures(size, [witness.cosign(ledger.checkpoint.checkpoint, 1_700_000_000)])
        publish(ledger, folder / "out")
        inclusion = [
            {
                "Index": index,
                "Entry": b64encode(ledger.entry(index)).decode(),
                "Proof": [b64encode(digest).decode() for digest in ledger.inclusion_proof(index)],
            }
            for index in {0, size // 3, size // 2, size - 1}
        ]
        consistency = [
            {
                "Size": old,
                "Root": b64encode(root).decode(),
                "Proof": [b64encode(digest).decode() for digest in ledger.consistency_proof(old)],
            }
            for old, root in roots.items()
            if old
        ]
        return {"Inclusion": inclusion, "Consistency": consistency}, ledger.verifier.text


@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 1000])
def test_go_verifies_our_checkpoint_tiles_and_proofs(stranger: Path, tmp_path: Path, size: int) -> None:
    claims, vkey = published(tmp_path, size)
    command = [stranger, "verify", vkey, tmp_path / "out" / "checkpoint", tmp_path / "out"]
    done = subprocess.run(command, input=json.dumps(claims), check=True, capture_output=True, text=True)
    assert done.stdout.startswith("1 signature, ")


def test_go_refuses_what_was_changed(stranger: Path, tmp_path: Path) -> None:
    claims, vkey = published(tmp_path, 300)
    checkpoint, tile = tmp_path / "out" / "checkpoint", tmp_path / "out" / "tile/0/000"
    command = [stranger, "verify", vkey, checkpoint, tmp_path / "out"]
    for path, place in ((checkpoint, 30), (tile, 100)):
        good = path.read_bytes()
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        done = subprocess.run(command, input=json.dumps(claims), check=False, capture_output=True, text=True)
        assert done.returncode == 1
        path.write_bytes(good)


@pytest.mark.parametrize("size", [1, 2, 3, 8, 13, 64, 100])
def test_we_verify_checkpoints_and_proofs_by_go(stranger: Path, size: int) -> None:
    made = subprocess.run([stranger, "make", str(size)], check=True, capture_output=True, text=True).stdout
    document = json.loads(made)
    signed = SignedCheckpoint.parse(b64decode(document["Checkpoint"]))
    signed.verify(VerifierKey.parse(document["Vkey"]))
    head = signed.checkpoint
    assert head.size == size == len(document["Inclusion"])
    for claim in document["Inclusion"]:
        proof = [b64decode(digest) for digest in claim["Proof"] or ()]
        leaf = merkle.leaf_hash(b64decode(claim["Entry"]))
        merkle.verify_inclusion(leaf, claim["Index"], size, proof, head.root)
    for claim in document["Consistency"]:
        proof = [b64decode(digest) for digest in claim["Proof"] or ()]
        merkle.verify_consistency(claim["Size"], b64decode(claim["Root"]), size, head.root, proof)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="the openssl command is not installed")
def test_openssl_verifies_a_checkpoint_and_an_envelope(tmp_path: Path) -> None:
    KEY.save(tmp_path / "key.pem", None)
    subprocess.run(
        ["openssl", "pkey", "-in", tmp_path / "key.pem", "-pubout", "-out", tmp_path / "public.pem"],
        check=True,
    )
    with Ledger.create(tmp_path / "ledger.sqlite", "log.example", KEY) as ledger:
        note = ledger.checkpoint.note
    envelope = seal("application/x", b"statement", KEY)
    cases = [
        (note.text.encode(), note.signatures[0].signature, 0),
        (note.text.encode() + b"x", note.signatures[0].signature, 1),
        (pae("application/x", b"statement"), b64decode(envelope.signatures[0].sig), 0),
    ]
    for message, signature, status in cases:
        (tmp_path / "message").write_bytes(message)
        (tmp_path / "signature").write_bytes(signature)
        command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", tmp_path / "public.pem", "-rawin"]
        command += ["-in", tmp_path / "message", "-sigfile", tmp_path / "signature"]
        assert subprocess.run(command, check=False, capture_output=True).returncode == status
