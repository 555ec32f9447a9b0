import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patronage_protocol.errors import DataError, MissingExtraError, UnavailableError
from patronage_protocol.pair_files import owners_from_folder, read_pairs, write_pairs
from patronage_protocol.preferences import ChatMessage, PreferencePair

GOOD = {"prompt": "Name a fruit.", "chosen": "A pear.", "rejected": "A car."}
LINE = json.dumps(GOOD).encode()


def file(folder: Path, content: bytes, name: str = "pairs.jsonl") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_pairs(path)
    line = str(caught.value)
    assert "\n" not in line
    return line


texts = st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip)


@given(st.lists(st.tuples(texts, texts, texts, st.text(st.characters(codec="utf-8"))), min_size=1))
def test_what_is_written_is_read_back_whatever_the_characters(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str, str]]
) -> None:
    pairs = []
    for prompt, chosen, rejected, source in rows:
        turns = (ChatMessage(role="user", content=prompt),)
        other = (ChatMessage(role="assistant", content=rejected),)
        pairs.append(PreferencePair(prompt=prompt, chosen=chosen, rejected=chosen + "!", source=source))
        pairs.append(PreferencePair(prompt=turns, chosen=turns + other, rejected=other, source=source))
    path = tmp_path_factory.mktemp("pairs") / "owner.jsonl"
    write_pairs(path, pairs)
    loaded = read_pairs(path)
    assert loaded.pairs == tuple(pairs)
    assert loaded.places == tuple(f"{path}:{number}" for number in range(1, len(pairs) + 1))


def test_only_a_line_feed_ends_a_row(tmp_path: Path) -> None:
    row = {**GOOD, "chosen": "one\u2028two\u2029three\x85four\x0bfive"}
    raw = json.dumps(row, ensure_ascii=False).encode()
    loaded = read_pairs(file(tmp_path, raw + b"\n" + LINE))
    assert loaded.pairs[0].chosen == row["chosen"]
    assert len(loaded.pairs) == 2


def test_byte_order_mark_carriage_returns_and_blank_lines_are_harmless(tmp_path: Path) -> None:
    loaded = read_pairs(file(tmp_path, b"\xef\xbb\xbf" + LINE + b"\r\n\r\n" + LINE + b"\r\n \n"))
    assert [place.rsplit(":", 1)[1] for place in loaded.places] == ["1", "3"]


BAD_LINES = {
    b"{not json": "no strict JSON",
    b'{"prompt": "a", "chosen": "b", "chosen": "d", "rejected": "c"}': "the key 'chosen' twice",
    b'{"prompt": "a", "chosen": "\xff", "rejected": "c"}': "no strict JSON",
    b'{"prompt": "a", "chosen": "b"}': "a row without rejected",
    b'{"prompt": "a", "chosen": "", "rejected": "c"}': "chosen is empty",
    b'{"prompt": "a", "chosen": "c", "rejected": "c"}': "identical",
    b"[" * 100_000: "no strict JSON",
    b"\xef\xbb\xbf" + LINE: "no strict JSON",
}


@pytest.mark.parametrize(("line", "reason"), BAD_LINES.items())
def test_a_bad_row_stops_the_reading_and_is_named_by_file_and_line(
    tmp_path: Path, line: bytes, reason: str
) -> None:
    path = file(tmp_path, LINE + b"\n" + line + b"\n" + LINE + b"\n{}\n[]\n")
    message = refusal(path)
    assert message.startswith(f"{path}:2: ")
    assert reason in message
    assert "2 more bad rows follow" in message


def test_bad_rows_can_be_left_out_and_are_counted(tmp_path: Path) -> None:
    content = b"\n".join([LINE, *BAD_LINES, LINE])
    loaded = read_pairs(file(tmp_path, content), on_bad_row="skip")
    assert len(loaded.pairs) == 2
    assert [bad.place.rsplit(":", 1)[1] for bad in loaded.skipped] == [
        str(number) for number in range(2, 2 + len(BAD_LINES))
    ]
    for bad, reason in zip(loaded.skipped, BAD_LINES.values(), strict=True):
        assert reason in bad.reason
    assert loaded.places[1].endswith(f":{2 + len(BAD_LINES)}")


def test_a_pair_that_the_check_refuses_is_a_bad_row(tmp_path: Path) -> None:
    long = json.dumps({**GOOD, "prompt": "word " * 99}).encode()
    path = file(tmp_path, LINE + b"\n" + long)

    def check(pair: PreferencePair) -> str | None:
        return f"a prompt of {len(pair.prompt)} characters" if len(pair.prompt) > 50 else None

    loaded = read_pairs(path, on_bad_row="skip", check=check)
    assert [bad.reason for bad in loaded.skipped] == ["a prompt of 495 characters"]
    with pytest.raises(DataError, match=r"pairs\.jsonl:2: .* a prompt of 495 characters;"):
        read_pairs(path, check=check)


@pytest.mark.parametrize("content", [b"", b"\n \r\n", b"\xef\xbb\xbf"])
def test_an_empty_file_holds_no_pair(tmp_path: Path, content: bytes) -> None:
    assert "got no row at all" in refusal(file(tmp_path, content))


def test_a_file_without_a_usable_row_is_refused_even_when_bad_rows_are_skipped(tmp_path: Path) -> None:
    path = file(tmp_path, b"{}\n[]\n")
    with pytest.raises(DataError, match=r"got 2 bad rows, the first: a row without prompt"):
        read_pairs(path, on_bad_row="skip")


def test_an_unknown_ending_a_plain_folder_and_a_missing_file_are_told_apart(tmp_path: Path) -> None:
    assert "a file that ends in '.csv'" in refusal(file(tmp_path, LINE, "pairs.csv"))
    assert "another folder" in refusal(tmp_path)
    with pytest.raises(UnavailableError, match="nothing there"):
        read_pairs(tmp_path / "absent.jsonl")


def test_a_line_without_end_is_refused_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("patronage_protocol.row_files.MAX_LINE", 50)
    assert "line 1 of more than 50 bytes" in refusal(file(tmp_path, b" " * 60))


ROWS = [
    {**GOOD, "source": "fruit", "score": 1.0},
    {**GOOD, "chosen": "", "source": None, "score": 2.0},
    {**GOOD, "chosen": "An apple.", "source": None, "score": 3.0},
]


def saved(folder: Path, form: str, rows: list[dict[str, object]]) -> Path:
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_list(rows)
    path = folder / ("pairs.parquet" if form == "parquet" else "pairs")
    if form == "parquet":
        data.to_parquet(path)
    else:
        data.with_format("numpy").save_to_disk(path)
    return path


@pytest.mark.parametrize("form", ["parquet", "folder"])
def test_parquet_and_dataset_folders_hold_the_same_rows(tmp_path: Path, form: str) -> None:
    path = saved(tmp_path, form, ROWS)
    loaded = read_pairs(path, on_bad_row="skip")
    assert [(pair.chosen, pair.source) for pair in loaded.pairs] == [("A pear.", "fruit"), ("An apple.", "")]
    assert loaded.places == (f"{path}:1", f"{path}:3")
    assert [bad.place for bad in loaded.skipped] == [f"{path}:2"]
    assert refusal(path).startswith(f"{path}:2: ")


@pytest.mark.parametrize("form", ["parquet", "folder"])
def test_conversations_in_columns_become_messages(tmp_path: Path, form: str) -> None:
    ask = {"role": "user", "content": "Name a fruit.", "name": "ann"}
    rows = [
        {
            "chosen": [{**ask, "name": None}, {"role": "assistant", "content": text, "name": None}],
            "rejected": [{**ask, "name": None}, {"role": "assistant", "content": "A car.", "name": None}],
        }
        for text in ("A pear.", "An apple.")
    ]
    loaded = read_pairs(saved(tmp_path, form, rows))
    assert [pair.chosen for pair in loaded.pairs] == [
        (ChatMessage(role="assistant", content=text),) for text in ("A pear.", "An apple.")
    ]
    assert loaded.pairs[0].prompt == (ChatMessage(role="user", content="Name a fruit."),)


def test_a_folder_of_several_splits_asks_for_one(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_list([GOOD])
    datasets.DatasetDict(train=data, test=data).save_to_disk(tmp_path / "pairs")
    assert "got the splits test, train; name the folder of one split" in refusal(tmp_path / "pairs")
    assert len(read_pairs(tmp_path / "pairs" / "train").pairs) == 1


def test_a_broken_parquet_file_and_a_broken_folder_are_refused_in_one_line(tmp_path: Path) -> None:
    whole = saved(tmp_path, "parquet", ROWS).read_bytes()
    assert "no whole Parquet file" in refusal(file(tmp_path, whole[:-20], "cut.parquet"))
    folder = saved(tmp_path, "folder", ROWS)
    for arrow in folder.glob("*.arrow"):
        arrow.write_bytes(arrow.read_bytes()[:40])
    assert "no whole data set" in refusal(folder)


def test_without_the_optional_library_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'patronage\[client\]'"):
        read_pairs(file(tmp_path, b"PAR1", "pairs.parquet"))


def test_owners_are_the_files_of_a_folder_without_the_held_out_one(tmp_path: Path) -> None:
    for name in ("beta.jsonl", "alpha.jsonl", "heldout.jsonl", "README.md", ".hidden"):
        file(tmp_path, LINE, name)
    saved_folder = tmp_path / "gamma"
    saved_folder.mkdir()
    file(saved_folder, b"{}", "state.json")
    owners = owners_from_folder(tmp_path, held_out=tmp_path / "." / "heldout.jsonl")
    assert owners == {
        "alpha": tmp_path / "alpha.jsonl",
        "beta": tmp_path / "beta.jsonl",
        "gamma": saved_folder,
    }
    assert list(owners) == ["alpha", "beta", "gamma"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a.jsonl", "B.jsonl"], r"B\.jsonl: expected an owner's name .* got 'B'; rename it"),
        (["a.jsonl", "b.csv"], r"b\.csv: expected pairs of an owner"),
        (["a.jsonl", "a.parquet"], r"got a\.jsonl and a\.parquet"),
        (["a.jsonl"], r"expected at least two owners, got only 'a'"),
        ([], r"expected at least two owners, got none"),
    ],
)
def test_a_folder_that_is_no_consortium_is_refused(tmp_path: Path, names: list[str], message: str) -> None:
    for name in names:
        file(tmp_path, LINE, name)
    with pytest.raises(DataError, match=message):
        owners_from_folder(tmp_path)


def test_a_missing_folder_of_owners_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="absent"):
        owners_from_folder(tmp_path / "absent")
