"""Files are whole or absent."""

import errno
import os
import stat
from pathlib import Path

import pytest

from patronage_protocol.errors import UnavailableError, UsageError
from patronage_protocol.files import new_folder, read_bytes, whole_folder, write_atomic


def test_a_file_is_replaced_and_has_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    write_atomic(path, b"old")
    write_atomic(path, b"new", mode=0o600)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("call", ["fsync", "fchmod", "replace"])
def test_a_full_disk_leaves_the_old_file_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "ledger"
    write_atomic(path, b"old")

    def full(*_arguments: object, **_options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path if call == "replace" else os, call, full)
    with pytest.raises(UnavailableError, match="No space left on device; free some room"):
        write_atomic(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_reading_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_bytes(b"x" * 11)
    assert len(read_bytes(path, limit=11)) == 11
    with pytest.raises(UsageError, match="at most 10 bytes"):
        read_bytes(path, limit=10)
    with pytest.raises(UnavailableError, match="No such file"):
        read_bytes(tmp_path / "absent", limit=10)


def test_a_folder_with_files_in_it_is_not_taken(tmp_path: Path) -> None:
    assert new_folder(tmp_path / "a" / "b").is_dir()
    assert new_folder(tmp_path / "a" / "b").is_dir()
    (tmp_path / "a" / "b" / "file").touch()
    with pytest.raises(UsageError, match="a folder with files in it; name another with --out"):
        new_folder(tmp_path / "a" / "b")


def test_a_folder_is_there_when_all_its_files_are(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "folder"
    with whole_folder(path) as folder:
        (folder / "a").write_bytes(b"1")
        assert not path.exists()
    assert (path / "a").read_bytes() == b"1"
    assert list(path.parent.iterdir()) == [path]


def test_an_error_while_a_folder_is_filled_leaves_nothing(tmp_path: Path) -> None:
    def fill(error: Exception) -> None:
        with whole_folder(tmp_path / "folder") as folder:
            (folder / "a").write_bytes(b"1")
            raise error

    with pytest.raises(KeyError):
        fill(KeyError("any"))
    with pytest.raises(UnavailableError, match="No space left on device; free some room"):
        fill(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_already_is_kept(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "old").touch()
    with pytest.raises(UsageError, match="with files in it"), whole_folder(tmp_path / "folder") as folder:
        (folder / "new").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["folder", "old"]
