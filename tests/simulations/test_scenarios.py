from pathlib import Path

import pytest

from patronage_protocol.errors import DataError, UsageError
from patronage_protocol.preferences import overlap
from patronage_simulations.scenarios import Scenario, generate, load_scenario, presets
from patronage_simulations.skills import SKILLS

every_preset = pytest.mark.parametrize("name", presets())


@pytest.fixture
def write(tmp_path: Path):
    text = presets()["tiny"].read_text()

    def altered(old: str, new: str) -> Path:
        assert old in text
        path = tmp_path / "mine.toml"
        path.write_text(text.replace(old, new, 1))
        return path

    return altered


def test_the_shipped_scenarios_are_these() -> None:
    assert set(presets()) == {
        "demo",
        "fidelity",
        "free-riders",
        "honest",
        "paper",
        "paper-small",
        "poisoned",
        "signature",
        "tiny",
        "tiny-rewards",
        "tiny-slices",
    }


def test_the_paper_preset_has_the_conditions_of_the_paper_and_a_twin_that_is_smaller() -> None:
    paper, small = load_scenario("paper"), load_scenario("paper-small")
    lora, dpo = paper.terms.lora, paper.terms.dpo
    assert (lora.rank, lora.alpha, dpo.beta, dpo.learning_rate) == (8, 16.0, 0.1, 2e-5)
    assert (dpo.epochs, dpo.batch_size, dpo.gradient_accumulation) == (4, 32, 4)
    assert len(paper.owners) == 4
    assert len({pair.prompt_digest for pair in generate(paper).held_out}) == 128
    for scenario in (paper, small):
        assert scenario.terms.game.utility == "reward"
        assert len(scenario.terms.game.objectives) == 2
    assert small.terms.lora == lora
    assert (small.terms.dpo.beta, small.terms.dpo.epochs) == (dpo.beta, dpo.epochs)
    assert [owner.skills for owner in small.owners] == [owner.skills for owner in paper.owners]
    assert all(0 < few.pairs < many.pairs for few, many in zip(small.owners, paper.owners, strict=True))


def test_plain_pairs_have_the_words_of_the_conversation() -> None:
    scenario = load_scenario("tiny")
    spoken, written = generate(scenario), generate(scenario.model_copy(update={"conversational": False}))
    for talk, text in zip(spoken.held_out, written.held_out, strict=True):
        assert isinstance(text.prompt, str)
        assert text.prompt == " ".join(turn.content for turn in talk.prompt) + "\n"
        assert (text.chosen, text.rejected) == (talk.chosen[0].content, talk.rejected[0].content)
        assert text.source == talk.source


@every_preset
def test_a_preset_is_named_as_its_file_and_keeps_held_out_prompts_from_its_owners(name: str) -> None:
    scenario = load_scenario(name)
    assert scenario.name == name
    data = generate(scenario)
    assert list(data.owners) == [owner.name for owner in scenario.owners]
    assert len(data.held_out) == scenario.held_out.pairs_per_skill * len(scenario.held_out.skills)
    for owner in scenario.owners:
        assert overlap(data.held_out, data.owners[owner.name]).prompts == ()
        assert owner.quality == "copy" or len(data.owners[owner.name]) == owner.pairs


@every_preset
def test_the_held_out_pairs_of_a_preset_cover_every_skill_of_its_owners(name: str) -> None:
    data = generate(load_scenario(name))
    taught = {pair.source for pairs in data.owners.values() for pair in pairs}
    assert taught <= {pair.source for pair in data.held_out}


def wrong_labels(scenario: Scenario, owner: str) -> float:
    pairs = generate(scenario.model_copy(update={"conversational": True})).owners[owner]
    wrong = 0
    for pair in pairs:
        prompt, chosen, rejected = (
            "\n".join(message.content for message in part if not isinstance(message, str))
            for part in (pair.prompt, pair.chosen, pair.rejected)
        )
        wrong += SKILLS[pair.source].prefers(prompt, rejected, chosen)
    return wrong / len(pairs)


@every_preset
def test_an_owner_of_a_preset_has_the_quality_that_is_named(name: str) -> None:
    scenario = load_scenario(name)
    originals = {owner.name: owner for owner in scenario.owners}
    for owner in scenario.owners:
        wrong = wrong_labels(scenario, owner.name)
        if owner.quality == "flipped":
            assert wrong == pytest.approx(owner.fraction, abs=0.5 / owner.pairs)
        elif owner.quality == "random":
            assert 0.2 < wrong < 0.8
        elif owner.copy_of is not None:
            data = generate(scenario).owners
            assert set(data[owner.name]) == set(data[owner.copy_of])
            assert originals[owner.copy_of].copy_of is None
        else:
            assert wrong == 0


def test_generation_depends_on_the_seed_and_on_nothing_else() -> None:
    scenario = load_scenario("tiny")
    assert generate(scenario) == generate(load_scenario("tiny"))
    other = scenario.model_copy(update={"seed": scenario.seed + 1})
    assert generate(other).held_out != generate(scenario).held_out


def test_one_owner_more_leaves_the_pairs_of_the_others_alone() -> None:
    scenario = load_scenario("tiny")
    fewer = scenario.model_copy(update={"owners": scenario.owners[:2]})
    for name, pairs in generate(fewer).owners.items():
        assert generate(scenario).owners[name] == pairs


def test_a_scenario_is_found_by_its_path_too(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(presets()["tiny"].read_bytes())
    assert load_scenario(path) == load_scenario(str(path)) == load_scenario("tiny")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seed = 1", "sead = 1", "sead: Extra inputs are not permitted"),
        ("seed = 1", 'seed = "one"', "seed: Input should be a valid integer"),
        (
            "[terms.dpo]\nbeta = 0.1",
            "[terms.dpo]\nbeta = -0.1",
            "terms.dpo.beta: Input should be greater than 0",
        ),
        ('name = "flipped"', 'name = "Flipped"', "owners.2.name: String should match pattern"),
        ('name = "flipped"', 'name = "clean"', "two owners have the same name"),
        (
            '"secrecy"',
            '"juggling"',
            "owners.0.skills: Value error, 'juggling' is no skill; there",
        ),
        ('"secrecy"', '"politeness"', "owners.0.skills: Value error, a skill is named twice"),
        ('quality = "few"', 'quality = "rich"', "owners.1.quality: Input should be 'clean', 'few'"),
        ('quality = "few"', 'quality = "flipped"', "fraction belongs to the quality flipped, which needs it"),
        ('quality = "few"', 'quality = "few"\nfraction = 0.5', "fraction belongs to the quality flipped"),
        ('quality = "few"', 'quality = "few"\ncopy_of = "clean"', "copy_of belongs to the quality copy"),
        ('copy_of = "clean"', 'copy_of = "clean"\npairs = 3', "leave them out"),
        ('copy_of = "clean"', 'copy_of = "nobody"', "mimic copies nobody, which is no owner with own pairs"),
        ('copy_of = "clean"', 'copy_of = "mimic"', "mimic copies mimic, which is no owner with own pairs"),
        ("[held_out]\nskills", "[held_out]\nskill", "held_out.skill: Extra inputs are not permitted"),
        ('[held_out]\nskills = ["politeness", "secrecy"]', "[held_out]", "held_out: Value error, skills are"),
        ("[terms.dpo]", "[terms.dpo", "expected TOML in UTF-8"),
    ],
)
def test_a_mistake_in_a_scenario_is_named_by_file_and_key_in_one_line(
    write, old: str, new: str, message: str
) -> None:
    path = write(old, new)
    with pytest.raises(DataError) as caught:
        load_scenario(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: ")
    assert message in line
    assert "\n" not in line


def test_what_is_neither_preset_nor_file_is_told_the_presets() -> None:
    with pytest.raises(UsageError, match=r"a preset \(demo, .*tiny\) or a scenario file, got 'dmeo'"):
        load_scenario("dmeo")
