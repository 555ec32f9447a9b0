"""Settings that a person writes are refused with the key that is wrong."""

from pathlib import Path

import pytest

from patronage_protocol.errors import DataError, UnavailableError
from patronage_protocol.settings import Settings, read_settings


class Sample(Settings):
    name: str
    threads: int = 0


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("name = 'ann'\nthread = 2\n", "thread: Extra inputs"),
        ("threads = 2\n", "name: Field required"),
        ("name = 'ann'\nthreads = 'two'\n", "threads: "),
        ("name = \n", "Invalid value"),
        ("name = 'ann'\nname = 'bob'\n", "Cannot overwrite"),
    ],
)
def test_a_wrong_key_is_named_with_its_file(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "owner.toml"
    path.write_text(text)
    with pytest.raises(DataError, match=problem) as caught:
        read_settings(path, Sample)
    assert str(caught.value).startswith(f"{path}: expected ")


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "owner.toml"
    path.write_bytes(b"name = '\xff'")
    with pytest.raises(DataError, match="TOML in UTF-8"):
        read_settings(path, Sample)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"owner\.toml"):
        read_settings(tmp_path / "owner.toml", Sample)


def test_settings_that_are_right_are_read(tmp_path: Path) -> None:
    path = tmp_path / "owner.toml"
    path.write_text("name = 'ann'\nthreads = 2\n")
    assert read_settings(path, Sample) == Sample(name="ann", threads=2)
