"""The ledger is followed from outside while another process, or object, writes it."""

from pathlib import Path

from patronage_protocol.entries import Aborted, Forfeited, Judged, Paid
from patronage_protocol.keys import PrivateKey
from patronage_protocol.ledger.store import Ledger
from patronage_server.follow import entries_since, is_driven, last_round, line_of

KEY = PrivateKey.from_seed(bytes(32))
ENTRIES = [
    Aborted(time=1, reason="players", count=0),
    Forfeited(time=2, owner="ann", reason="silent until the deadline"),
]


def test_entries_are_read_while_the_ledger_is_open(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    assert entries_since(path, 0) == ()
    with Ledger.create(path, "operator/demo", KEY) as ledger:
        ledger.append([ENTRIES[0].encode()])
        assert entries_since(path, 0) == (ENTRIES[0],)
        ledger.append([ENTRIES[1].encode()])
        assert entries_since(path, 1) == (ENTRIES[1],)


def test_a_ledger_is_driven_exactly_while_it_is_open(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    assert not is_driven(path)
    with Ledger.create(path, "operator/demo", KEY):
        assert is_driven(path)
    assert not is_driven(path)
    with Ledger.open(path, KEY):
        assert is_driven(path)


def test_looking_leaves_no_lock_behind(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    Ledger.create(path, "operator/demo", KEY).close()
    assert not is_driven(path)
    Ledger.open(path, KEY).close()


def test_without_entries_there_is_no_round(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    assert last_round(path) is None
    Ledger.create(path, "operator/demo", KEY).close()
    assert last_round(path) is None


def test_an_entry_is_a_line_for_a_person() -> None:
    rejected = Judged(time=1, owner="bob", accepted=False, reason="too large", norm=9.0, nearest=None)
    paid = Paid(time=1, owner="cid", amount=12, reason="share")
    assert [line_of(entry) for entry in (*ENTRIES, rejected, paid)] == [
        "aborted: too few adapters",
        "ann forfeited: silent until the deadline",
        "bob rejected: too large",
        "cid is paid 12 minor units: share",
    ]
