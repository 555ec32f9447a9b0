from pathlib import Path

import pytest

from patronage_protocol.errors import DataError
from patronage_protocol.pair_files import owners_from_folder, read_pairs
from patronage_simulations.studies.ultrafeedback import SOURCES, split, write


def rows(source: str, count: int) -> list[dict[str, object]]:
    """As the data set has them: a prompt beside two conversations that begin with it."""
    return [
        {
            "source": source,
            "prompt": f"{source} {k}",
            "chosen": [
                {"role": "user", "content": f"{source} {k}"},
                {"role": "assistant", "content": f"good {k}"},
            ],
            "rejected": [
                {"role": "user", "content": f"{source} {k}"},
                {"role": "assistant", "content": f"bad {k}"},
            ],
            "score_chosen": 8.0,
        }
        for k in range(count)
    ]


DATA = [
    *rows("evol_instruct", 9),
    *rows("flan_v2_cot", 4),
    *rows("flan_v2_niv2", 5),
    *rows("sharegpt", 9),
    *rows("ultrachat", 9),
    *rows("truthful_qa", 9),
]


def test_every_source_is_an_owner_and_no_owner_has_a_held_out_prompt() -> None:
    owners, held_out = split(DATA, sources=SOURCES, held_out=8)
    assert {owner: len(pairs) for owner, pairs in owners.items()} == dict.fromkeys(SOURCES, 7)
    assert len(held_out) == len({pair.prompt_digest for pair in held_out}) == 8
    assert [pair.source for pair in held_out] == [source for source in SOURCES for _ in range(2)]
    scored = {pair.prompt_digest for pair in held_out}
    assert not any(pair.prompt_digest in scored for pairs in owners.values() for pair in pairs)


def test_the_order_of_the_rows_does_not_decide_what_is_held_out() -> None:
    assert split(DATA[::-1], sources=SOURCES, held_out=6)[1] == split(DATA, sources=SOURCES, held_out=6)[1]


def test_a_prompt_of_two_sources_is_held_out_of_both() -> None:
    twice = [{**row, "source": "sharegpt"} for row in rows("evol_instruct", 9)]
    owners, held_out = split([*DATA, *twice], sources=SOURCES, held_out=8)
    scored = {pair.prompt_digest for pair in held_out}
    assert not any(pair.prompt_digest in scored for pairs in owners.values() for pair in pairs)


def test_unusable_rows_are_left_out_and_a_source_without_enough_prompts_is_named() -> None:
    same = {"source": "sharegpt", "prompt": "p", "chosen": "x", "rejected": "x"}
    owners, _ = split([*DATA, same], sources=SOURCES, held_out=4)
    assert len(owners["sharegpt"]) == 8
    with pytest.raises(DataError, match="more than 9 prompts of the source evol_instruct"):
        split(DATA, sources=SOURCES, held_out=36)


def test_what_is_written_is_what_simulate_reads(tmp_path: Path) -> None:
    owners, held_out = split(DATA, sources=SOURCES, held_out=4)
    write(owners, held_out, tmp_path / "out")
    files = owners_from_folder(tmp_path / "out" / "owners")
    assert {name: read_pairs(path).pairs for name, path in files.items()} == owners
    assert read_pairs(tmp_path / "out" / "heldout.jsonl").pairs == held_out
