"""The fuzzer's seeds are taken, its finds stay fixed, and small changes of the seeds never get past a
parser.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st


def _parsers() -> ModuleType:
    path = Path(__file__).parents[2] / "fuzz" / "parsers.py"
    spec = importlib.util.spec_from_file_location("fuzz_parsers", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


parsers = _parsers()
SEEDS = parsers.seeds()
FOUND = sorted((Path(__file__).parents[2] / "vectors" / "fuzz").glob("*"))


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: parsers.PARSERS[seed[0]][0])
def test_every_parser_takes_its_seed(seed: bytes) -> None:
    assert parsers.check(seed)


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.name)
def test_what_the_fuzzer_found_stays_fixed(path: Path) -> None:
    parsers.check(path.read_bytes())


@given(st.sampled_from(SEEDS), st.integers(0, 2000), st.binary(max_size=4), st.integers(0, 4))
def test_a_seed_with_a_few_other_bytes_is_refused_or_written_back(
    seed: bytes, place: int, inserted: bytes, removed: int
) -> None:
    place = 1 + place % len(seed)
    parsers.check(seed[:place] + inserted + seed[place + removed :])
