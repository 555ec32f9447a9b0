import hashlib
from pathlib import Path

import pytest

from patronage_protocol.development import check_development, development_terms
from patronage_protocol.errors import DataError
from patronage_protocol.pair_files import write_pairs
from patronage_protocol.preferences import PreferencePair

PAIRS = [PreferencePair(prompt=f"q{k} ", chosen="yes", rejected="no") for k in range(3)]


def test_the_digest_is_that_of_the_file_which_is_handed_out(tmp_path: Path) -> None:
    write_pairs(tmp_path / "development.jsonl", PAIRS)
    content = hashlib.sha256((tmp_path / "development.jsonl").read_bytes()).hexdigest()
    assert development_terms(PAIRS).content == content
    check_development(development_terms(PAIRS), PAIRS, where="here")


@pytest.mark.parametrize(
    "others",
    [PAIRS[:2], PAIRS[::-1], [*PAIRS[:2], PAIRS[2].model_copy(update={"rejected": "never"})]],
    ids=["fewer", "another order", "another text"],
)
def test_other_pairs_are_not_those_of_the_manifest(others: list[PreferencePair]) -> None:
    with pytest.raises(DataError, match="the 3 development pairs of the manifest"):
        check_development(development_terms(PAIRS), others, where="here")
