"""Every parser of bytes from elsewhere, each with the one thing that must hold of it.

A parser either raises an error of the project's own tree, or returns a value that is written back as the
very bytes that were read. The first byte of a case chooses the parser. `run_atheris.py` searches for cases;
those that once broke something lie in tests/vectors/fuzz; tests/protocol/ledger/test_fuzz_cases.py runs them.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from patronage_protocol import pkcs8
from patronage_protocol.entries import KeyRevoked, KeyRotated, Paid, decode_entry
from patronage_protocol.envelopes import Envelope, seal
from patronage_protocol.errors import PatronageError
from patronage_protocol.evidence import (
    CoalitionEvidence,
    EvidenceHeader,
    MarginEvidence,
    PoolEvidence,
    PoolHeader,
    SliceColumns,
)
from patronage_protocol.held_out import HeldOutOpening, HeldOutSet
from patronage_protocol.keys import PrivateKey, PublicKey
from patronage_protocol.ledger.checkpoints import Checkpoint, SignedCheckpoint
from patronage_protocol.ledger.cosignatures import Ed25519Cosigner
from patronage_protocol.ledger.equivocation import EquivocationProof
from patronage_protocol.ledger.notes import Note, VerifierKey, parse_signatures
from patronage_protocol.ledger.receipts import Receipt
from patronage_protocol.ledger.rotation import Revocation, Rotation, revoke, rotate
from patronage_protocol.ledger.tiles import Tile, bundle, parse_bundle
from patronage_protocol.ledger.trust import TrustPolicy, flat_policy
from patronage_protocol.ledger.witness import AddCheckpoint
from patronage_protocol.manifest import Manifest
from patronage_protocol.preferences import PreferencePair
from patronage_protocol.shares import Shares
from patronage_protocol.slices import Contribution
from patronage_protocol.strict import base64_bytes, base64_text, decimal

__all__ = ["PARSERS", "check", "seeds"]

VECTORS = Path(__file__).parents[1] / "vectors"
ONE, TWO = (PrivateKey.from_seed(bytes([byte]) * 32) for byte in (1, 2))


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _policy(data: bytes) -> bytes:
    policy = TrustPolicy.parse(data)
    assert TrustPolicy.parse(policy.encode()) == policy
    return data  # white space and comments may differ by the specification


def _signatures(data: bytes) -> bytes:
    return "".join(line.line for line in parse_signatures(_text(data))).encode()


def _key_file(data: bytes) -> bytes:
    pkcs8.decode(data, None, where="case")
    return data  # PEM allows text around it


PARSERS: tuple[tuple[str, Callable[[bytes], bytes]], ...] = (
    ("note", lambda data: Note.parse(data).encode()),
    ("signature lines", _signatures),
    ("vkey", lambda data: VerifierKey.parse(_text(data)).text.encode()),
    ("checkpoint", lambda data: Checkpoint.parse(_text(data)).text.encode()),
    ("signed checkpoint", lambda data: SignedCheckpoint.parse(data).encode()),
    ("receipt", lambda data: Receipt.parse(data).encode()),
    ("request to cosign", lambda data: AddCheckpoint.parse(data).encode()),
    ("policy", _policy),
    ("envelope", lambda data: Envelope.decode(data).encode()),
    ("equivocation proof", lambda data: EquivocationProof.decode(data).encode()),
    ("rotation", lambda data: Rotation.decode(data).encode()),
    ("revocation", lambda data: Revocation.decode(data).encode()),
    ("tile path", lambda data: Tile.parse(_text(data)).path.encode()),
    ("bundle", lambda data: data[:1] + bundle(parse_bundle(data[1:], data[0])) if data else data),
    ("base64", lambda data: base64_text(base64_bytes(_text(data), what="a case")).encode()),
    ("decimal", lambda data: str(decimal(_text(data), what="a case")).encode()),
    ("public key", lambda data: PublicKey.from_raw(data).raw),
    ("key file", _key_file),
    ("entry", lambda data: decode_entry(data).encode()),
    ("shares", lambda data: Shares.decode(data).encode()),
    ("margins", lambda data: MarginEvidence.decode(data).encode()),
    ("slice", lambda data: Contribution.decode(data).encode()),
    ("margins of coalitions", lambda data: CoalitionEvidence.decode(data).encode()),
    ("candidate pools", lambda data: PoolEvidence.decode(data).encode()),
    ("manifest", lambda data: Manifest.decode(data).encode()),
    ("opening of a held-out pair", lambda data: HeldOutOpening.decode(data).encode()),
)
"""Behind each other: the first byte of a kept case is a place in this list."""


def check(case: bytes) -> bool:
    """Run one case; returns whether the parser took it.

    Raises:
        AssertionError: it was taken, and written back as other bytes.
        Exception: anything but an error of the project's own tree is a defect.
    """
    if not case:
        return False
    name, parse = PARSERS[case[0] % len(PARSERS)]
    try:
        written = parse(case[1:])
    except PatronageError as error:
        str(error)
        return False
    assert written == case[1:], f"{name}: read {case[1:]!r}, wrote {written!r}"
    return True


def seeds() -> list[bytes]:
    """A valid input for every parser, and entries with statements about keys beside, as cases."""
    head = Checkpoint("log.example", 3, bytes(range(32)))
    witness = Ed25519Cosigner("w.example", TWO)
    note = head.sign(ONE).note.with_signatures(witness.cosign(head, 1_700_000_000))
    signed = SignedCheckpoint(head, note)
    policy = flat_policy(VerifierKey.ed25519("log.example", ONE.public), [witness.verifier], faulty=0)
    rotation = rotate("log.example", "log", 3, ONE, TWO)
    revocation = revoke("log.example", "log", 3, ONE, "lost")
    hashes = (bytes(32), bytes(range(32)))
    header = EvidenceHeader(
        players=("ann", "bob"),
        adapters=("0a" * 32, "0b" * 32),
        clusters=(0, 1),
        sources=(0, 0),
        labels=("all",),
        slices=(SliceColumns(owner="bob", first=1, pairs=1),),
        scale_bits=16,
    )
    margins = MarginEvidence.from_margins(header, np.array([[0.5, -1.0], [0.25, 2.0]]))
    pair = PreferencePair(prompt="tea", chosen="warm", rejected="cold")
    coalitions = CoalitionEvidence.from_margins(header, np.array([[0.5, -1.0], [0.25, 2.0], [0.0, 1.0]]))
    fields = {"sources": (0,), "size": 2, "from_base": 1, "objectives": ("helpful",), "candidates": "0c" * 32}
    pools = PoolEvidence(
        PoolHeader.model_validate(
            header.model_dump(include={"players", "adapters", "labels", "scale_bits"}) | fields
        ),
        np.zeros((4, 1, 2), np.int32),
    )
    numbers = dict.fromkeys(("shares", "lower", "upper", "detectable"), (1, -2))
    shares = Shares(
        margins=margins.digest, players=("ann", "bob"), method="polynomial", grand=3, gap=0, **numbers
    )
    values = {
        "note": note.encode(),
        "signature lines": "".join(line.line for line in note.signatures).encode(),
        "vkey": witness.verifier.text.encode(),
        "checkpoint": head.text.encode(),
        "signed checkpoint": signed.encode(),
        "receipt": Receipt(1, hashes, signed, b"entry").encode(),
        "request to cosign": AddCheckpoint(2, hashes, signed).encode(),
        "policy": b"# whom we trust\n" + policy.encode(),
        "envelope": seal("application/x", b"{}", ONE).countersign(TWO).encode(),
        "equivocation proof": EquivocationProof.of(signed, signed, hashes, [rotation]).encode(),
        "rotation": rotation.unverified_payload,
        "revocation": revocation.unverified_payload,
        "tile path": b"tile/entries/x001/x234/067.p/8",
        "bundle": b"\x02" + bundle([b"a", b"bc"]),
        "base64": b"AAECAw==",
        "decimal": b"9223372036854775807",
        "public key": ONE.public.raw,
        "key file": pkcs8.encode(ONE._key, None),
        "entry": Paid(time=1_800_000_000, owner="ann", amount=875_59, reason="share").encode(),
        "shares": shares.encode(),
        "margins": margins.encode(),
        "slice": Contribution.draw_up("ann", [pair], bytes(32)).encode(),
        "margins of coalitions": coalitions.encode(),
        "candidate pools": pools.encode(),
        "manifest": (VECTORS / "manifest.json").read_bytes(),
        "opening of a held-out pair": HeldOutSet((pair, pair), bytes(32)).open(1).encode(),
    }
    rotated = KeyRotated(time=1_800_000_000, party="log", statement=rotation)
    revoked = KeyRevoked(time=1_800_000_000, party="log", statement=revocation)
    others = {"entry": (rotated.encode(), revoked.encode())}
    return [
        bytes([number]) + value
        for number, (name, _) in enumerate(PARSERS)
        for value in (values[name], *others.get(name, ()))
    ]
