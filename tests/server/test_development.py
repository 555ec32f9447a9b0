from pathlib import Path

import pytest

from patronage_protocol.development import development_terms
from patronage_protocol.errors import UsageError
from patronage_protocol.pair_files import read_pairs, write_pairs
from patronage_protocol.preferences import PreferencePair
from patronage_server.development import published_development
from patronage_server.founding import Founding, found_operator
from patronage_server.home import OperatorHome
from patronage_server.network import NetworkConfig

CONFIG = NetworkConfig(name="operator", consortium="demo", address="127.0.0.1:18444", superlink_port=18093)
HELD_OUT = [PreferencePair(prompt=f"held {k} ", chosen="yes", rejected="no") for k in range(4)]
PUBLIC = [PreferencePair(prompt=f"public {k} ", chosen="yes", rejected="no") for k in range(3)]


def founding(folder: Path, public: list[PreferencePair] | None) -> Founding:
    write_pairs(folder / "held-out.jsonl", HELD_OUT)
    if public is None:
        return Founding(CONFIG, "tiny", folder / "held-out.jsonl")
    write_pairs(folder / "public.jsonl", public)
    return Founding(CONFIG, "tiny", folder / "held-out.jsonl", development=folder / "public.jsonl")


def test_the_manifest_names_the_development_pairs_that_the_operator_keeps(tmp_path: Path) -> None:
    found_operator(tmp_path / "operator", founding(tmp_path, PUBLIC))
    home = OperatorHome.load(tmp_path / "operator")
    assert read_pairs(home.development).pairs == tuple(PUBLIC)
    assert published_development(home, HELD_OUT) == development_terms(PUBLIC)


def test_an_operator_need_not_have_any(tmp_path: Path) -> None:
    found_operator(tmp_path / "operator", founding(tmp_path, None))
    assert published_development(OperatorHome.load(tmp_path / "operator"), HELD_OUT) is None


def test_held_out_pairs_are_not_published_as_development_pairs(tmp_path: Path) -> None:
    mixed = [*PUBLIC, HELD_OUT[2]]
    with pytest.raises(UsageError, match=r"got 1 of 4 that do \(the first is number 4\)"):
        found_operator(tmp_path / "operator", founding(tmp_path, mixed))
    assert not (tmp_path / "operator").exists()
    found_operator(tmp_path / "operator", founding(tmp_path, PUBLIC))
    home = OperatorHome.load(tmp_path / "operator")
    write_pairs(home.development, mixed)
    with pytest.raises(UsageError, match="share no prompt with the held-out pairs"):
        published_development(home, HELD_OUT)
