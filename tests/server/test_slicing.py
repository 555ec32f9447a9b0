"""An owner makes a slice, the operator takes it, and the terms of the next round name it."""

import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from patronage_client.founding import found_owner
from patronage_client.home import OwnerHome
from patronage_client.slicing import contribute
from patronage_protocol.cli import application
from patronage_protocol.errors import DataError, LocalProtocolError, UsageError, VerificationError
from patronage_protocol.held_out import check_opening
from patronage_protocol.joining import write_envelope
from patronage_protocol.keys import PrivateKey
from patronage_protocol.manifest import Manifest
from patronage_protocol.pair_files import write_pairs
from patronage_protocol.preferences import PreferencePair
from patronage_protocol.slices import Contribution
from patronage_server.founding import Founding, found_operator
from patronage_server.home import OperatorHome
from patronage_server.invite import invite
from patronage_server.network import Network, NetworkConfig
from patronage_server.registry import register
from patronage_server.slicing import take_slice

CONFIG = NetworkConfig(name="operator", consortium="demo", address="127.0.0.1:18443", superlink_port=18092)


def pairs(path: Path, who: str, number: int = 4) -> Path:
    write_pairs(
        path, [PreferencePair(prompt=f"{who} {j}", chosen="yes", rejected="no") for j in range(number)]
    )
    return path


@pytest.fixture
def operator(tmp_path: Path) -> Network:
    found_operator(tmp_path / "operator", Founding(CONFIG, "tiny", pairs(tmp_path / "held.jsonl", "held")))
    terms = tmp_path / "operator" / "terms.toml"
    terms.write_text(terms.read_text().replace("most_percent = 0", "most_percent = 40"))
    return Network.load(tmp_path / "operator")


@pytest.fixture
def slice_of(tmp_path: Path, operator: Network, key_of: Callable[[str], PrivateKey]) -> Callable[..., Path]:
    """The slice.json of a registered owner, with pairs about `what`."""

    def make(name: str, what: str) -> Path:
        folder = tmp_path / name
        if not folder.exists():
            found_owner(
                folder,
                name=name,
                data=pairs(tmp_path / "data.jsonl", "train"),
                base_model="tiny",
                operator_key=key_of("operator").public.text,
            )
            register(operator, folder / "registration.json")
        home = OwnerHome.load(folder)
        contribute(home, pairs(tmp_path / f"{name}.jsonl", what))
        return home.slice

    return make


def take(operator: Network, path: Path) -> Contribution:
    return take_slice(OperatorHome.load(operator.home), operator, path)


def test_a_slice_that_was_taken_is_among_the_held_out_pairs_and_can_be_opened(
    operator: Network, slice_of: Callable[..., Path]
) -> None:
    for name in ("bob", "ann"):
        path = slice_of(name, name)
        assert take(operator, path) == take(operator, path)
        kept = operator.home / "slices" / f"{name}.json"
        assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(kept.stat().st_mode) == 0o600
    found = OperatorHome.load(operator.home).held_out_sets(["ann", "bob", "cy"])
    assert [(part.owner, part.pairs, part.prompts) for part in found.slices] == [("ann", 4, 4), ("bob", 4, 4)]
    assert [pair.prompt for pair in found.pairs[3:5]] == ["held 3", "ann 0"]
    check_opening(found.open(9), found.commitment, *found.slices)


def test_the_pairs_of_a_round_are_those_that_its_terms_commit_to(
    operator: Network, slice_of: Callable[..., Path], manifest_of: Callable[..., Manifest]
) -> None:
    take(operator, slice_of("ann", "ann"))
    home = OperatorHome.load(operator.home)
    found = home.held_out_sets(["ann"])
    slices = {"most_percent": 50, "of": found.slices}
    manifest = manifest_of("ann", "bob", held_out=found.commitment, slices=slices)
    assert home.committed_pairs(manifest).pairs == found.pairs
    take(operator, slice_of("bob", "bob"))
    assert home.committed_pairs(manifest).pairs == found.pairs, "what came later is of the next round"
    home.slice_file("ann").unlink()
    with pytest.raises(LocalProtocolError, match=r"restore held-out.jsonl, held-out.secret and slices/"):
        home.committed_pairs(manifest)


def test_one_owner_has_one_slice(operator: Network, slice_of: Callable[..., Path]) -> None:
    path = slice_of("ann", "ann")
    take(operator, path)
    with pytest.raises(UsageError, match="no slice yet, got"):
        slice_of("ann", "more")
    path.unlink()
    with pytest.raises(UsageError, match=r"one slice of ann, got another one .* remove .*ann\.json"):
        take(operator, slice_of("ann", "more"))


def test_prompts_that_are_held_out_already_are_refused(
    operator: Network, slice_of: Callable[..., Path]
) -> None:
    with pytest.raises(DataError, match="4 pairs with prompts of the operator, the first of them pair 1"):
        take(operator, slice_of("ann", "HELD"))
    take(operator, slice_of("bob", "bob"))
    with pytest.raises(DataError, match="4 pairs with prompts of the slice of bob"):
        take(operator, slice_of("cy", "Bob"))
    assert not (operator.home / "slices" / "ann.json").exists()


def test_a_slice_by_another_hand_or_of_nobody_is_refused(
    operator: Network, slice_of: Callable[..., Path], tmp_path: Path
) -> None:
    made = Contribution.draw_up("ann", [PreferencePair(prompt="x", chosen="a", rejected="b")])
    write_envelope(tmp_path / "forged.json", made.seal(PrivateKey.generate()))
    with pytest.raises(UsageError, match="register it first"):
        take(operator, tmp_path / "forged.json")
    slice_of("ann", "ann")
    with pytest.raises(VerificationError, match="signed by"):
        take(operator, tmp_path / "forged.json")


def test_terms_without_use_for_slices_refuse_them_at_once(
    operator: Network, slice_of: Callable[..., Path]
) -> None:
    path, terms = slice_of("ann", "ann"), operator.home / "terms.toml"
    good = terms.read_text()
    terms.write_text(good.replace("most_percent = 40", "most_percent = 0"))
    with pytest.raises(UsageError, match=r"set most_percent under \[slices\]"):
        take(operator, path)
    rewards = (
        'utility = "reward"\n[game.pool]\ncandidates = 4\nfrom_base = 2\nmax_new_tokens = 4\nseed = 0\n'
        'min_effective = 1.5\n[[game.objectives]]\nname = "a"\nreward = "python:a:b"\nweight = 1\n'
    )
    terms.write_text(good.replace('utility = "sigmoid"\nscale_bits = 20', f"scale_bits = 20\n{rewards}"))
    with pytest.raises(UsageError, match="utility reward, which takes no owners' slices"):
        take(operator, path)


def test_both_commands_say_the_root_that_the_terms_must_name(
    operator: Network, slice_of: Callable[..., Path], tmp_path: Path
) -> None:
    slice_of("ann", "ann").unlink()
    runner = CliRunner()
    made = runner.invoke(
        application(), ["owner", "slice", str(tmp_path / "ann"), str(tmp_path / "ann.jsonl"), "--json"]
    )
    told = json.loads(made.stdout)
    taken = runner.invoke(
        application(), ["operator", "slice", str(operator.home), str(tmp_path / "ann" / "slice.json")]
    )
    assert taken.stdout == f"ann  4 pairs  {told['root']}\n"
    assert (told["pairs"], told["slice"]) == (4, str(tmp_path / "ann" / "slice.json"))


def test_the_terms_of_the_next_round_name_the_slices_and_refuse_one_that_weighs_too_much(
    operator: Network, slice_of: Callable[..., Path]
) -> None:
    for name in ("ann", "bob"):
        take(operator, slice_of(name, name))
    home, terms = OperatorHome.load(operator.home), operator.home / "terms.toml"
    manifest = invite(home, operator, now=1_800_000_000)
    assert manifest.slices.of == home.held_out_sets(["ann", "bob"]).slices
    assert (manifest.slices.most_percent, manifest.held_out_pairs) == (40, 12)
    terms.write_text(terms.read_text().replace("most_percent = 40", "most_percent = 33"))
    with pytest.raises(UsageError, match=r"the slice of ann is 4 of 12 held-out pairs.* at most 33 %"):
        invite(home, operator, now=1_800_000_000)
