"""fsck finds what was changed in a store, wherever it was changed."""

import sqlite3
from pathlib import Path

import pytest

from patronage_protocol.errors import FormatError, UnavailableError
from patronage_protocol.keys import PrivateKey
from patronage_protocol.ledger.fsck import fsck
from patronage_protocol.ledger.store import Ledger

KEY = PrivateKey.from_seed(b"\xa1" * 32)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "ledger.sqlite"
    with Ledger.create(path, "log.example", KEY) as ledger:
        for batch in (3, 255, 260):
            ledger.append([f"{batch} {number}".encode() for number in range(batch)])
            assert ledger.checkpoint
        ledger.put_blob(b"margins")
    return path


def test_a_sound_store_has_no_problems_even_while_it_is_open(store: Path) -> None:
    with Ledger.open(store, KEY) as ledger:
        ledger.append([b"one more"])
        report = fsck(store)
    assert report.problems == ()
    assert (report.entries, report.heads, report.signed_heads, report.blobs) == (519, 4, 3, 1)


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("UPDATE entries SET data = x'00' WHERE number = 7", "tiles: tile 0 of level 0"),
        ("UPDATE entries SET data = x'00' WHERE number = 517", "heads: the head of 518"),
        ("DELETE FROM entries WHERE number = 517", "heads: 517 entries"),
        ("DELETE FROM entries WHERE number = 100", "0, 1, 2"),
        ("UPDATE tiles SET hashes = zeroblob(8192) WHERE number = 1", "tile 1 of level 0"),
        ("UPDATE tiles SET middle = zeroblob(512) WHERE number = 1", "tile 1 of level 0"),
        ("UPDATE tiles SET root = zeroblob(32) WHERE number = 1", "tile 1 of level 0"),
        ("DELETE FROM tiles WHERE number = 0", "tile 0 of level 0"),
        ("INSERT INTO tiles VALUES (3, 9, zeroblob(8192), zeroblob(512), zeroblob(32))", "tile 9 of level 3"),
        ("UPDATE entries SET root = zeroblob(32) WHERE number = 2", "heads: the head of 3"),
        ("UPDATE entries SET root = NULL WHERE number = 517", "heads: 518 entries"),
        ("UPDATE signed_heads SET note = x'00' WHERE size = 3", "signed_heads: 3"),
        (
            "UPDATE signed_heads SET note = (SELECT note FROM signed_heads WHERE size = 258) WHERE size = 3",
            "another",
        ),
        ("DELETE FROM keys", "no key from the start"),
        ("DELETE FROM log", "no origin"),
        ("UPDATE blobs SET data = x'00'", "blobs:"),
    ],
)
def test_a_change_is_found(store: Path, statement: str, found: str) -> None:
    raw = sqlite3.connect(store)
    for (name,) in raw.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        raw.execute(f"DROP TRIGGER {name}")
    raw.execute(statement)
    raw.commit()
    raw.close()
    assert any(found in problem for problem in fsck(store).problems)


def test_what_is_no_ledger_is_not_checked(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError):
        fsck(tmp_path / "nothing")
    sqlite3.connect(tmp_path / "empty").executescript("CREATE TABLE t (x)").close()
    with pytest.raises(FormatError):
        fsck(tmp_path / "empty")
