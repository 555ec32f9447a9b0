"""The ledger: what is acknowledged stays, what was signed is never signed otherwise, and nobody changes a
row.
"""

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from patronage_protocol import files
from patronage_protocol.canonical import sha256
from patronage_protocol.errors import (
    FormatError,
    LocalProtocolError,
    UnavailableError,
    UsageError,
    VerificationError,
)
from patronage_protocol.keys import PrivateKey
from patronage_protocol.ledger import merkle
from patronage_protocol.ledger.checkpoints import SignedCheckpoint
from patronage_protocol.ledger.notes import sign_note
from patronage_protocol.ledger.store import Ledger

KEY = PrivateKey.from_seed(b"\x11" * 32)
ORIGIN = "consortium.example/rounds"


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.create(tmp_path / "ledger.sqlite", ORIGIN, KEY) as made:
        yield made


def test_a_new_ledger_is_signed_and_empty(ledger: Ledger) -> None:
    assert (ledger.size, ledger.root) == (0, merkle.EMPTY_ROOT)
    ledger.checkpoint.verify(ledger.verifier)
    assert list(ledger.entries()) == []


def test_an_append_returns_the_head_that_the_checkpoint_signs(ledger: Ledger) -> None:
    head = ledger.append([b"one", b"", b"three"])
    signed = ledger.checkpoint
    signed.verify(ledger.verifier)
    assert signed.checkpoint == head
    leaves = [merkle.leaf_hash(entry) for entry in (b"one", b"", b"three")]
    assert (signed.checkpoint.size, signed.checkpoint.root) == (3, merkle.root_of_leaves(leaves))
    assert SignedCheckpoint.parse(signed.encode()) == signed == ledger.checkpoint
    assert ledger.entry(2) == b"three"
    with pytest.raises(UsageError):
        ledger.entry(3)


def test_appending_nothing_signs_nothing_new(ledger: Ledger) -> None:
    first = ledger.append([b"x"])
    assert ledger.append([]) == first


def test_a_ledger_goes_on_where_it_was_closed(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with Ledger.create(path, ORIGIN, KEY) as ledger:
        ledger.append([str(number).encode() for number in range(600)])
        before = ledger.checkpoint
    with Ledger.open(path, KEY) as ledger:
        assert ledger.checkpoint == before
        assert list(ledger.entries(510, 514)) == [b"510", b"511", b"512", b"513"]
        ledger.append([b"600"])
        assert ledger.size == 601
        proof = ledger.consistency_proof(600)
        merkle.verify_consistency(600, before.checkpoint.root, 601, ledger.root, proof)


def test_an_entry_that_is_too_long_leaves_no_trace(ledger: Ledger) -> None:
    with pytest.raises(UsageError, match="put_blob"):
        ledger.append([b"fine", bytes(65_536)])
    assert ledger.size == 0
    ledger.append([bytes(65_535)])


def test_a_head_that_a_crash_left_unsigned_is_signed_to_the_same_bytes(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with Ledger.create(path, ORIGIN, KEY) as ledger:
        ledger.append([b"a", b"b"])
        lost = ledger.checkpoint
    raw = sqlite3.connect(path)
    raw.execute("DROP TRIGGER signed_heads_no_DELETE")
    raw.execute("DELETE FROM signed_heads WHERE size = 2")
    raw.commit()
    raw.close()
    with Ledger.open(path, KEY) as ledger:
        assert ledger.checkpoint.encode() == lost.encode()


def test_a_store_that_exists_is_not_made_again_and_one_that_does_not_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with pytest.raises(UnavailableError):
        Ledger.open(path, KEY)
    Ledger.create(path, ORIGIN, KEY).close()
    with pytest.raises(UsageError, match="exists"):
        Ledger.create(path, ORIGIN, KEY)
    Ledger.open(path, KEY).close()


def test_a_name_that_no_note_can_hold_makes_no_file(tmp_path: Path) -> None:
    with pytest.raises(FormatError):
        Ledger.create(tmp_path / "ledger.sqlite", "two words", KEY)
    assert list(tmp_path.iterdir()) == []


def test_another_key_does_not_open_the_ledger(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    Ledger.create(path, ORIGIN, KEY).close()
    with pytest.raises(UsageError, match="load the key"):
        Ledger.open(path, PrivateKey.generate())
    Ledger.open(path, KEY).close()


def test_the_store_waits_for_the_disk(ledger: Ledger) -> None:
    pragmas = {name: ledger._database.one(f"PRAGMA {name}") for name in ("journal_mode", "synchronous")}
    assert pragmas == {"journal_mode": ("wal",), "synchronous": (2,)}  # 2 is FULL
    for name in ("foreign_keys", "recursive_triggers", "cell_size_check"):
        assert ledger._database.one(f"PRAGMA {name}") == (1,)


def test_the_second_place_of_another_ledger_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "guard").write_bytes(b"somebody's")
    with pytest.raises(UsageError, match="second place"):
        Ledger.create(tmp_path / "ledger.sqlite", ORIGIN, KEY, guard=tmp_path / "guard")
    assert [path.name for path in tmp_path.iterdir()] == ["guard"]


def test_a_file_that_is_no_ledger_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.sqlite"
    connection = sqlite3.connect(other)
    connection.execute("CREATE TABLE t (x)")
    connection.close()
    with pytest.raises(FormatError, match="kind"):
        Ledger.open(other, KEY)
    (tmp_path / "text").write_bytes(b"not a database at all, but long enough to be looked at" * 40)
    with pytest.raises(UnavailableError, match="not a database"):
        Ledger.open(tmp_path / "text", KEY)


def test_two_operators_cannot_open_one_store(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with Ledger.create(path, ORIGIN, KEY) as first:
        with pytest.raises(UnavailableError, match="another process"):
            Ledger.open(path, KEY)
        first.append([b"still mine"])
    Ledger.open(path, KEY).close()


def test_an_operator_without_the_lock_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with Ledger.create(path, ORIGIN, KEY) as first:
        first.append([b"a"])
        (tmp_path / "ledger.sqlite.lock").unlink()
        with Ledger.open(path, KEY) as second:
            second.append([b"b"])
        with pytest.raises(UnavailableError, match="another process"):
            first.append([b"c"])
    with Ledger.open(path, KEY) as ledger:
        assert list(ledger.entries()) == [b"a", b"b"]


@pytest.mark.parametrize("table", ["log", "entries", "tiles", "signed_heads", "cosignatures", "blobs"])
def test_no_row_can_be_changed_removed_or_replaced(tmp_path: Path, table: str) -> None:
    path = tmp_path / "ledger.sqlite"
    with Ledger.create(path, ORIGIN, KEY) as ledger:
        ledger.append([str(number).encode() for number in range(256)])
        ledger.put_blob(b"blob")
        assert ledger.checkpoint.checkpoint.size == 256
        ledger.add_cosignatures(256, sign_note("x\n", "w.example", KEY).signatures)
    raw = sqlite3.connect(path)
    raw.execute("PRAGMA recursive_triggers=ON")
    before = raw.execute(f"SELECT * FROM {table}").fetchall()
    assert before
    names = [row[0] for row in raw.execute(f"SELECT name FROM pragma_table_info('{table}')")]
    column, columns = names[0], ", ".join(names)
    for statement in (f"DELETE FROM {table}", f"UPDATE {table} SET {column} = {column}"):
        with pytest.raises(sqlite3.IntegrityError, match="only grows"):
            raw.execute(statement)
    if table != "log":
        with pytest.raises(sqlite3.IntegrityError):
            raw.execute(f"INSERT OR REPLACE INTO {table} ({columns}) SELECT {columns} FROM {table}")
    assert raw.execute(f"SELECT * FROM {table}").fetchall() == before
    raw.close()


@pytest.mark.parametrize("number", [-(2**62), -1, 0, 1, 3, 4, 2**62])
def test_no_entry_can_be_inserted_but_behind_the_last(ledger: Ledger, number: int) -> None:
    ledger.append([b"a", b"b"])
    with pytest.raises(LocalProtocolError, match="append-only"):
        ledger._database.write(("INSERT INTO entries (number, data) VALUES (?, ?)", [(number, b"c")]))
    assert list(ledger.entries()) == [b"a", b"b"]
    ledger.append([b"c"])


def test_the_first_entry_has_number_0(ledger: Ledger) -> None:
    for number in (-1, 1, 2):
        with pytest.raises(LocalProtocolError, match="append-only"):
            ledger._database.write(("INSERT INTO entries (number, data) VALUES (?, ?)", [(number, b"a")]))
    ledger.append([b"a"])


def test_a_size_at_which_no_append_ended_is_never_signed(ledger: Ledger) -> None:
    ledger.append([b"a", b"b"])
    for size in (1, 3, -1):
        with pytest.raises(LocalProtocolError, match="no head"):
            ledger._database.write(("INSERT INTO signed_heads VALUES (?, ?)", [(size, b"note")]))


def test_a_write_is_whole_or_nothing(ledger: Ledger) -> None:
    ledger.append([b"a"])
    with pytest.raises(LocalProtocolError):
        ledger._database.write(
            ("INSERT INTO blobs VALUES (?, ?)", [("digest", b"data")]),
            ("INSERT INTO entries (number, data) VALUES (?, ?)", [(1, b"b"), (5, b"c")]),
        )
    assert (ledger.blobs(), list(ledger.entries())) == ((), [b"a"])


def test_entries_that_were_changed_behind_its_back_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with Ledger.create(path, ORIGIN, KEY) as ledger:
        ledger.append([b"a", b"b"])
    raw = sqlite3.connect(path)
    raw.execute("DROP TRIGGER entries_no_UPDATE")
    raw.execute("UPDATE entries SET data = x'63' WHERE number = 1")
    raw.commit()
    raw.close()
    with pytest.raises(VerificationError, match="hash to the head"):
        Ledger.open(path, KEY)


def test_a_restored_backup_is_noticed_by_the_second_place(tmp_path: Path) -> None:
    path, guard, backup = tmp_path / "ledger.sqlite", tmp_path / "guard", tmp_path / "backup.sqlite"
    with Ledger.create(path, ORIGIN, KEY, guard=guard) as ledger:
        ledger.append([b"a"])
        ledger.checkpoint.verify(ledger.verifier)
    shutil.copy(path, backup)
    with Ledger.open(path, KEY, guard=guard) as ledger:
        ledger.append([b"b"])
        assert ledger.checkpoint.checkpoint.size == 2
    shutil.copy(backup, path)
    with pytest.raises(VerificationError, match="old backup"):
        Ledger.open(path, KEY, guard=guard)


def test_a_backup_restored_under_a_running_operator_signs_nothing(tmp_path: Path) -> None:
    one, other, guard = tmp_path / "one.sqlite", tmp_path / "other.sqlite", tmp_path / "guard"
    with Ledger.create(one, ORIGIN, KEY, guard=guard) as first:
        first.append([b"a"])
    shutil.copy(one, other)
    with Ledger.open(one, KEY, guard=guard) as first, Ledger.open(other, KEY, guard=guard) as second:
        second.append([b"not signed yet"])
        first.append([b"b", b"c"])
        assert first.checkpoint.checkpoint.size == 3
        with pytest.raises(VerificationError, match="old backup"):
            second.checkpoint  # noqa: B018
        with pytest.raises(VerificationError, match="old backup"):
            second.append([b"more"])
        assert second.size == 2
        first.append([b"d"])


def test_a_fork_of_equal_length_is_noticed_by_the_second_place(tmp_path: Path) -> None:
    guards = [tmp_path / "guard 1", tmp_path / "guard 2"]
    for number, guard in enumerate(guards):
        with Ledger.create(tmp_path / f"{number}.sqlite", ORIGIN, KEY, guard=guard) as ledger:
            ledger.append([b"a", bytes([number])])
            ledger.checkpoint.verify(ledger.verifier)
    with pytest.raises(VerificationError, match="another root"):
        Ledger.open(tmp_path / "0.sqlite", KEY, guard=guards[1])


def test_a_second_place_that_went_missing_is_asked_after(tmp_path: Path) -> None:
    path, guard = tmp_path / "ledger.sqlite", tmp_path / "guard"
    with Ledger.create(path, ORIGIN, KEY, guard=guard) as ledger:
        for entry in (b"a", b"b"):
            ledger.append([entry])
            assert ledger.checkpoint.encode() == guard.read_bytes()
    guard.unlink()
    with pytest.raises(VerificationError, match="no file"):
        Ledger.open(path, KEY, guard=guard)


def sign_each(ledger: Ledger, *entries: bytes) -> None:
    """Append one entry at a time, and sign each head."""
    for entry in entries:
        ledger.append([entry])
        ledger.checkpoint.verify(ledger.verifier)


@pytest.mark.parametrize("whole", [0, 1, 2])
def test_a_second_place_that_is_full_at_first_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: int
) -> None:
    path, guard, write = tmp_path / "ledger.sqlite", tmp_path / "guard", files.write_atomic
    room = iter(range(100))

    def full_after_some(file: Path, data: bytes) -> None:
        if next(room) >= whole:
            raise UnavailableError("room", got="No space left on device", do="make some")
        write(file, data)

    monkeypatch.setattr(files, "write_atomic", full_after_some)
    with Ledger.create(path, ORIGIN, KEY, guard=guard) as ledger, pytest.raises(UnavailableError):
        sign_each(ledger, b"a", b"b")
    monkeypatch.undo()
    with Ledger.open(path, KEY, guard=guard) as ledger:
        ledger.append([b"more"])
        assert ledger.checkpoint.encode() == guard.read_bytes()


def test_a_blob_is_stored_once_under_its_digest(ledger: Ledger) -> None:
    digest = ledger.put_blob(b"margins")
    assert digest == sha256(b"margins") == ledger.put_blob(b"margins")
    assert ledger.blob(digest) == b"margins"
    assert ledger.blobs() == (digest,)
    with pytest.raises(UsageError):
        ledger.blob(sha256(b"other"))


def test_cosignatures_stand_behind_the_signature_of_the_log(ledger: Ledger) -> None:
    ledger.append([b"a"])
    with pytest.raises(UsageError, match="signed head"):
        ledger.add_cosignatures(1, [])
    line = sign_note(ledger.checkpoint.note.text, "w.example", PrivateKey.generate()).signatures[0]
    ledger.add_cosignatures(1, [line])
    ledger.add_cosignatures(1, [line])
    assert ledger.checkpoint.note.signatures[1:] == (line,)
    with pytest.raises(UsageError, match="signed head"):
        ledger.add_cosignatures(2, [line])
    ledger.append([b"b"])
    assert len(ledger.checkpoint.note.signatures) == 1


def test_a_tree_that_is_not_there_yet_cannot_be_asked_for(ledger: Ledger) -> None:
    ledger.append([b"a"])
    for ask in (ledger.root_at, ledger.consistency_proof, lambda size: ledger.inclusion_proof(0, size)):
        with pytest.raises(UsageError):
            ask(2)


def test_after_a_storage_error_the_ledger_asks_to_be_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with Ledger.create(path, ORIGIN, KEY) as ledger:
        ledger.append([b"a"])
        ledger._database._connection.execute("PRAGMA max_page_count=1")
        with pytest.raises(UnavailableError, match="full"):
            ledger.append([bytes(60_000)] * 20)
        with pytest.raises(UnavailableError, match="failed earlier"):
            ledger.append([b"b"])
    with Ledger.open(path, KEY) as ledger:
        assert list(ledger.entries()) == [b"a"]
        ledger.append([b"b"])


class LedgerAgainstList(RuleBasedStateMachine):
    """Any sequence of appends, crashes and proofs gives what a plain list gives."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[bytes] = []
        self.roots = {0: merkle.EMPTY_ROOT}

    @initialize()
    def create(self) -> None:
        import tempfile

        self.folder = Path(tempfile.mkdtemp())
        self.guard = self.folder / "guard"
        self.ledger = Ledger.create(self.folder / "ledger", ORIGIN, KEY, guard=self.guard)

    @rule(batch=st.lists(st.binary(max_size=5), max_size=3), copies=st.sampled_from([1, 1, 90, 260]))
    def append(self, batch: list[bytes], copies: int) -> None:
        head = self.ledger.append(batch * copies)
        self.entries += batch * copies
        self.roots[len(self.entries)] = merkle.root_of_leaves(map(merkle.leaf_hash, self.entries))
        assert head.root == self.roots[len(self.entries)]

    @rule()
    def sign(self) -> None:
        signed = self.ledger.checkpoint
        signed.verify(self.ledger.verifier)
        assert signed.checkpoint.root == self.roots[len(self.entries)]
        assert self.guard.read_bytes() == signed.encode()

    @rule()
    def restart(self) -> None:
        before = self.ledger.root
        self.ledger.close()
        self.ledger = Ledger.open(self.folder / "ledger", KEY, guard=self.guard)
        assert self.ledger.root == before

    @rule(data=st.data())
    def prove(self, data: st.DataObject) -> None:
        sizes = st.sampled_from(sorted(self.roots))
        old, new = sorted((data.draw(sizes), data.draw(sizes)))
        proof = self.ledger.consistency_proof(old, new)
        merkle.verify_consistency(old, self.roots[old], new, self.roots[new], proof)
        if new:
            index = data.draw(st.integers(0, new - 1))
            path = self.ledger.inclusion_proof(index, new)
            leaf = merkle.leaf_hash(self.entries[index])
            merkle.verify_inclusion(leaf, index, new, path, self.roots[new])

    @invariant()
    def same_entries(self) -> None:
        if hasattr(self, "ledger"):
            assert self.ledger.size == len(self.entries)
            assert list(self.ledger.entries(max(0, self.ledger.size - 3))) == self.entries[-3:]

    def teardown(self) -> None:
        if hasattr(self, "ledger"):
            assert list(self.ledger.entries()) == self.entries
            self.ledger.close()
            shutil.rmtree(self.folder)


TestLedgerAgainstList = LedgerAgainstList.TestCase
TestLedgerAgainstList.settings = settings(max_examples=15, stateful_step_count=12)
