"""Publishing and reading: whole or refused, and the same folder from the same store."""

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from patronage_protocol import files
from patronage_protocol.canonical import sha256
from patronage_protocol.errors import FormatError, PatronageError, UnavailableError, VerificationError
from patronage_protocol.keys import PrivateKey
from patronage_protocol.ledger.merkle import leaf_hash
from patronage_protocol.ledger.notes import VerifierKey
from patronage_protocol.ledger.publish import CHECKPOINT, blob_path, publish
from patronage_protocol.ledger.published import read_published
from patronage_protocol.ledger.store import Ledger

KEY = PrivateKey.from_seed(b"\x12" * 32)
ORIGIN = "consortium.example/rounds"


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.create(tmp_path / "ledger.sqlite", ORIGIN, KEY) as made:
        made.append([f"entry {number}".encode() for number in range(5)])
        made.put_blob(b"margins")
        yield made


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_what_was_published_is_read(ledger: Ledger, tmp_path: Path) -> None:
    publish(ledger, tmp_path / "out")
    read = read_published(tmp_path / "out")
    assert read.entries == tuple(ledger.entries())
    assert read.signed == ledger.checkpoint
    assert dict(read.blobs) == {sha256(b"margins"): b"margins"}
    read.authenticate(ledger.verifier)
    with pytest.raises(VerificationError):
        read.authenticate(VerifierKey.ed25519(ORIGIN, PrivateKey.generate().public))
    assert set(tree(tmp_path / "out")) == {
        "checkpoint",
        "tile/0/000.p/5",
        "tile/entries/000.p/5",
        blob_path(sha256(b"margins")),
    }


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 513])
def test_a_ledger_of_any_size_is_published_and_read(tmp_path: Path, size: int) -> None:
    with Ledger.create(tmp_path / "ledger.sqlite", ORIGIN, KEY) as ledger:
        ledger.append([str(number).encode() for number in range(size)])
        publish(ledger, tmp_path / "out")
    assert len(read_published(tmp_path / "out").entries) == size


def test_a_deleted_folder_is_published_again_to_the_same_bytes(ledger: Ledger, tmp_path: Path) -> None:
    publish(ledger, tmp_path / "out")
    before = tree(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    publish(ledger, tmp_path / "out")
    assert tree(tmp_path / "out") == before


def test_partial_tiles_stay_until_the_full_one_is_there(ledger: Ledger, tmp_path: Path) -> None:
    out = tmp_path / "out"
    publish(ledger, out)
    ledger.append([b"six"])
    publish(ledger, out)
    assert {"tile/0/000.p/5", "tile/0/000.p/6"} <= set(tree(out))
    assert len(read_published(out).entries) == 6
    ledger.append([b"more"] * 300)
    publish(ledger, out)
    read_published(out)
    assert {name for name in tree(out) if name.startswith("tile/0/")} == {"tile/0/000", "tile/0/001.p/50"}


def test_an_earlier_partial_tile_must_be_the_beginning_of_the_later_one(
    ledger: Ledger, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    publish(ledger, out)
    ledger.append([b"six"])
    publish(ledger, out)
    for name in ("tile/0/000.p/5", "tile/entries/000.p/5"):
        good = (out / name).read_bytes()
        for bad in (good[:-1], good + b"\x00", good[:-1] + bytes([good[-1] ^ 1]), b""):
            (out / name).write_bytes(bad)
            with pytest.raises(VerificationError, match="follow from the entries"):
                read_published(out)
        (out / name).write_bytes(good)
    read_published(out)


@pytest.mark.parametrize(
    "name", ["extra", "tile/0/000.p/6", "tile/0/000", "tile/1/000.p/1", "blobs/sha256/" + "0" * 64]
)
def test_a_file_that_is_not_called_for_is_refused(ledger: Ledger, tmp_path: Path, name: str) -> None:
    publish(ledger, tmp_path / "out")
    (tmp_path / "out" / name).parent.mkdir(exist_ok=True, parents=True)
    (tmp_path / "out" / name).write_bytes(b"x" * 32)
    with pytest.raises(VerificationError, match=name):
        read_published(tmp_path / "out")


@pytest.mark.parametrize(
    "name", ["tile/0/junk", "tile/x", "blobs/sha256/short", "blobs/other", ".checkpoint.x.part"]
)
def test_a_file_with_another_name_is_refused(ledger: Ledger, tmp_path: Path, name: str) -> None:
    publish(ledger, tmp_path / "out")
    (tmp_path / "out" / name).write_bytes(b"x")
    with pytest.raises((VerificationError, FormatError)):
        read_published(tmp_path / "out")


def test_every_missing_file_is_noticed(ledger: Ledger, tmp_path: Path) -> None:
    publish(ledger, tmp_path / "out")
    for name, data in tree(tmp_path / "out").items():
        if name.startswith("blobs/"):
            continue  # whether a blob is needed is for those who know what entries mean
        (tmp_path / "out" / name).unlink()
        with pytest.raises((VerificationError, UnavailableError)):
            read_published(tmp_path / "out")
        (tmp_path / "out" / name).write_bytes(data)
    read_published(tmp_path / "out")


def test_links_are_refused(ledger: Ledger, tmp_path: Path) -> None:
    publish(ledger, tmp_path / "out")
    (tmp_path / "out" / "tile" / "0" / "000.p" / "4").symlink_to("5")
    with pytest.raises(VerificationError, match="a link"):
        read_published(tmp_path / "out")


def test_every_flipped_byte_is_noticed(ledger: Ledger, tmp_path: Path) -> None:
    out = tmp_path / "out"
    publish(ledger, out)
    for name, data in tree(out).items():
        for place in range(len(data)):
            (out / name).write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
            with pytest.raises(PatronageError):
                read_published(out).authenticate(ledger.verifier)
        (out / name).write_bytes(data)
    read_published(out).authenticate(ledger.verifier)


def test_a_blob_that_changes_after_the_check_is_noticed(ledger: Ledger, tmp_path: Path) -> None:
    publish(ledger, tmp_path / "out")
    read = read_published(tmp_path / "out")
    (tmp_path / "out" / blob_path(sha256(b"margins"))).write_bytes(b"marginal")
    with pytest.raises(VerificationError):
        read.blobs[sha256(b"margins")]
    with pytest.raises(KeyError):
        read.blobs["0" * 64]


def test_only_the_named_blobs_are_published(ledger: Ledger, tmp_path: Path) -> None:
    secret = ledger.put_blob(b"not yet revealed")
    publish(ledger, tmp_path / "out", blobs=[sha256(b"margins")])
    assert list(read_published(tmp_path / "out").blobs) == [sha256(b"margins")]
    publish(ledger, tmp_path / "out", blobs=[secret])
    assert set(read_published(tmp_path / "out").blobs) == {sha256(b"margins"), secret}


def test_a_reader_never_sees_a_checkpoint_whose_tiles_are_missing(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    publish(ledger, out)
    before = (out / CHECKPOINT).read_bytes()
    ledger.append([b"x"] * 300)
    written: list[str] = []
    real = files.write_atomic

    def watched(path: Path, data: bytes, *, mode: int = 0o644) -> None:
        assert (out / CHECKPOINT).read_bytes() == before
        real(path, data, mode=mode)
        written.append(path.name)

    monkeypatch.setattr(files, "write_atomic", watched)
    publish(ledger, out)
    assert written[-1] == CHECKPOINT
    assert written.count(CHECKPOINT) == 1
    assert len(read_published(out).entries) == 305


def test_a_publication_that_broke_off_is_finished_by_the_next(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    publish(ledger, out)
    ledger.append([b"x"] * 300)
    real = files.write_atomic
    for broken in range(3):
        calls = 0

        def failing(path: Path, data: bytes, *, mode: int = 0o644, broken: int = broken) -> None:
            nonlocal calls
            calls += 1
            if calls > broken:
                (path.parent / f".{path.name}.abcd.part").write_bytes(data[:1])
                raise UnavailableError("room", got="none", do="free some")
            real(path, data, mode=mode)

        monkeypatch.setattr(files, "write_atomic", failing)
        with pytest.raises(UnavailableError):
            publish(ledger, out)
    monkeypatch.setattr(files, "write_atomic", real)
    publish(ledger, out)
    assert len(read_published(out).entries) == 305


def test_a_ledger_that_does_not_continue_the_published_one_is_not_published(
    ledger: Ledger, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    publish(ledger, out)
    before = tree(out)
    for size, seed in [(3, KEY), (5, KEY), (9, KEY), (9, PrivateKey.generate())]:
        path = tmp_path / f"fork-{size}-{seed.public.keyid[:4]}.sqlite"
        with Ledger.create(path, ORIGIN, seed) as fork:
            fork.append([b"other"] * size)
            with pytest.raises(VerificationError):
                publish(fork, out)
    assert tree(out) == before


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("change", range(4))
def test_an_entry_that_was_changed_with_its_tile_does_not_have_the_signed_root(
    ledger: Ledger, tmp_path: Path, number: int, change: int
) -> None:
    """Who can write the folder can make tiles agree with other entries; the signed root is beyond reach."""
    publish(ledger, tmp_path / "out")
    entries = list(ledger.entries())
    entries[number] = f"entry {number}"[:-1].encode() + bytes([0x41 + change])
    bundle = b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)
    (tmp_path / "out/tile/entries/000.p/5").write_bytes(bundle)
    (tmp_path / "out/tile/0/000.p/5").write_bytes(b"".join(map(leaf_hash, entries)))
    with pytest.raises(VerificationError, match="entries with the root"):
        read_published(tmp_path / "out")


@pytest.mark.parametrize("other", [b"", b"margin", b"margins2", b"Margins", b"\x00", b"x", b"y", b"z"])
def test_a_blob_that_changes_after_it_was_listed_is_noticed(
    ledger: Ledger, tmp_path: Path, other: bytes
) -> None:
    publish(ledger, tmp_path / "out")
    read = read_published(tmp_path / "out")
    (tmp_path / "out" / blob_path(sha256(b"margins"))).write_bytes(other)
    with pytest.raises(VerificationError, match="bytes with SHA-256"):
        read.blobs[sha256(b"margins")]
    with pytest.raises(VerificationError, match="bytes with SHA-256"):
        read_published(tmp_path / "out")


def test_a_folder_or_a_blob_that_the_disk_does_not_give_is_not_taken_for_absent(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(ledger, tmp_path / "out")
    scan, opened = os.scandir, Path.open

    def failing_scan(path: str) -> object:
        if str(path).endswith("tile"):
            raise OSError(errno.EIO, "Input/output error")
        return scan(path)

    def failing_open(path: Path, *words: str, **named: str) -> object:
        if path.name == sha256(b"margins"):
            raise OSError(errno.EIO, "Input/output error")
        return opened(path, *words, **named)  # type: ignore[call-overload]

    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", failing_scan)
        with pytest.raises(UnavailableError, match="Input/output error"):
            read_published(tmp_path / "out")
    monkeypatch.setattr(Path, "open", failing_open)
    with pytest.raises(UnavailableError, match="Input/output error"):
        read_published(tmp_path / "out")


def test_a_bundle_that_does_not_parse_is_named(ledger: Ledger, tmp_path: Path) -> None:
    publish(ledger, tmp_path / "out")
    bundle = tmp_path / "out/tile/entries/000.p/5"
    bundle.write_bytes(bundle.read_bytes()[:-1])
    with pytest.raises(FormatError) as caught:
        read_published(tmp_path / "out")
    assert caught.value.where == str(bundle)


@pytest.mark.parametrize("name", [CHECKPOINT, "tile/0/000.p/5", "tile/entries/000.p/5"])
def test_a_file_that_is_too_large_to_be_one_is_refused_unread(
    ledger: Ledger, tmp_path: Path, name: str
) -> None:
    publish(ledger, tmp_path / "out")
    os.truncate(tmp_path / "out" / name, 2**24 + 2**10)
    with pytest.raises(VerificationError, match="at most") as refused:
        read_published(tmp_path / "out")
    assert refused.value.where == str(tmp_path / "out" / name)


def test_a_blob_lies_in_its_own_folder_and_nowhere_deeper(ledger: Ledger, tmp_path: Path) -> None:
    publish(ledger, tmp_path / "out")
    for place in ("blobs/sha256/deeper", "blobs", "tile", "zzz"):
        path = tmp_path / "out" / place / sha256(b"x")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
        with pytest.raises((VerificationError, FormatError)):
            read_published(tmp_path / "out")
        path.unlink()
        if place in {"blobs/sha256/deeper", "zzz"}:
            path.parent.rmdir()
    read_published(tmp_path / "out")
