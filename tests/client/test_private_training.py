import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from patronage_client import privacy, private_training
from patronage_client.attribution.adapter_model import AdapterModel, tokenized
from patronage_client.home import OwnerHome
from patronage_client.privacy import PrivacyChoice, SecretStream, planned_privacy
from patronage_client.private_training import noisy_gradient, train_private_adapter
from patronage_protocol.adapters import decode, encode
from patronage_protocol.errors import FormatError, MissingExtraError, UsageError
from patronage_protocol.manifest import DpoTerms, LoraTerms
from patronage_protocol.messages import Privacy, Reveal
from patronage_protocol.policy import BaseModel, load_base_model, lora_groups
from patronage_protocol.preferences import PreferencePair

CHOICE = PrivacyChoice(epsilon=8.0, delta=1e-3)
SECRET = bytes(range(32))
DPO = DpoTerms(
    beta=0.1,
    learning_rate=3e-3,
    epochs=1,
    batch_size=4,
    gradient_accumulation=1,
    warmup_steps=0,
    schedule="constant",
    max_grad_norm=1.0,
    max_length=128,
    seed=3,
)
PAIRS = [
    PreferencePair(prompt=f"alice asks {i}: ", chosen="please " * (i % 4 + 1), rejected="no" * (i % 5 + 1))
    for i in range(14)
]


@pytest.fixture(scope="module")
def base() -> BaseModel:
    return load_base_model("tiny", device="cpu")


@pytest.fixture(scope="module")
def lora(base: BaseModel) -> LoraTerms:
    return LoraTerms(rank=2, alpha=4.0, init_seed=5, groups=lora_groups(base.model, ["q_proj", "v_proj"]))


def test_the_noise_is_what_the_accountant_asks_for() -> None:
    spent = planned_privacy(CHOICE, pairs=100, sample_rate=0.04, steps=50)
    assert 7.5 < spent.epsilon <= 8.0
    tighter = planned_privacy(replace(CHOICE, epsilon=1.0), pairs=100, sample_rate=0.04, steps=50)
    assert tighter.noise_multiplier > spent.noise_multiplier > 0.3
    longer = planned_privacy(CHOICE, pairs=100, sample_rate=0.04, steps=500)
    assert longer.noise_multiplier > spent.noise_multiplier


def test_one_step_on_all_pairs_is_the_gaussian_mechanism() -> None:
    """Without sampling, one release with noise s is (alpha, alpha / (2 s^2)) Renyi private: Mironov 2017."""
    spent = planned_privacy(PrivacyChoice(1.0, 1e-5), pairs=100, sample_rate=1.0, steps=1)
    s, d = spent.noise_multiplier, 1e-5
    alphas = np.linspace(1.01, 200, 100_000)
    bound = alphas / (2 * s * s) + np.log1p(-1 / alphas) - (math.log(d) + np.log(alphas)) / (alphas - 1)
    assert spent.epsilon == pytest.approx(float(bound.min()), rel=0.02)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (PrivacyChoice(8.0, 0.5), "below 1 / 14 pairs"),
        (PrivacyChoice(-1.0, 1e-3), "above 0"),
        (PrivacyChoice(1e-9, 1e-3), "expected privacy that some amount of noise gives"),
    ],
)
def test_a_guarantee_that_cannot_be_given_is_refused(choice: PrivacyChoice, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        planned_privacy(choice, pairs=14, sample_rate=0.3, steps=8)


def test_without_opacus_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(privacy, "import_module", missing)
    with pytest.raises(MissingExtraError, match=r"pip install 'patronage\[private\]'"):
        planned_privacy(CHOICE, pairs=14, sample_rate=0.3, steps=8)


def test_the_secret_stream_is_chacha20_and_its_normals_are_normal() -> None:
    stream = SecretStream(SECRET, 7)
    normals = stream.normal(100_001)
    assert abs(normals.mean()) < 0.02
    assert normals.std() == pytest.approx(1, abs=0.02)
    assert (np.abs(normals) > 1.96).mean() == pytest.approx(0.05, abs=0.005)
    assert np.array_equal(normals, SecretStream(SECRET, 7).normal(100_001))
    assert not np.array_equal(normals[:10], SecretStream(SECRET, 8).normal(10))


def gradient_without_noise(
    base: BaseModel, lora: LoraTerms, clip: float, rate: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The released gradient of all pairs with the noise taken off, and the pairs' own gradients."""
    model, data = AdapterModel(base, lora, beta=0.1), tokenized(base, PAIRS, max_length=128)
    spent = Privacy(
        epsilon=1.0,
        delta=1e-3,
        noise_multiplier=2.0,
        clip=clip,
        sample_rate=rate,
        steps=1,
        accountant="rdp",
    )
    released = noisy_gradient(model, data, spent, SecretStream(SECRET, 0), at_once=5)
    stream = SecretStream(SECRET, 0)
    chosen = [i for i, u in enumerate(stream.uniform(14)) if u < rate]
    noise = torch.from_numpy(stream.normal(model.size)).float()
    one = torch.ones(1)
    own = torch.stack([model.weighted_gradient(data.take([i]), one) for i in chosen])
    return released * rate * 14 - 2.0 * clip * noise, own


@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_no_pair_moves_the_sum_by_more_than_the_clipping_norm(
    base: BaseModel, lora: LoraTerms, rate: float
) -> None:
    clip = 0.05
    total, own = gradient_without_noise(base, lora, clip, rate)
    norms = own.norm(dim=1)
    assert (norms > clip).any()
    clipped = own * (clip / norms.clamp(min=clip))[:, None]
    assert clipped.norm(dim=1).max() <= clip * 1.0001
    torch.testing.assert_close(total, clipped.sum(0), rtol=1e-2, atol=1e-5)


def test_the_same_secret_gives_the_same_adapter_and_another_gives_another(
    base: BaseModel, lora: LoraTerms, tmp_path: Path
) -> None:
    def train(secret: bytes) -> bytes:
        trained, spent = train_private_adapter(
            base, PAIRS, dpo=DPO, lora=lora, choice=CHOICE, secret=secret, workdir=tmp_path
        )
        assert spent.steps == trained.statistics.steps == 4
        assert spent.sample_rate == pytest.approx(4 / 14)
        return encode(trained.tensors)

    first = train(SECRET)
    assert train(SECRET) == first
    assert train(bytes(32)) != first
    decode(first, lora, max_bytes=len(first))
    assert list(tmp_path.iterdir()) == []


class PoweredOffError(BaseException):
    """The machine goes down in the middle."""


def test_an_interrupted_private_training_goes_on_with_the_same_noise(
    base: BaseModel, lora: LoraTerms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(private_training, "SAVE_SECONDS", -1.0)
    done: list[int] = []

    def power_off(step: int, total: int) -> None:
        done.append(step)
        if len(done) == 2:
            raise PoweredOffError

    def train(folder: str) -> bytes:
        trained, _ = train_private_adapter(
            base,
            PAIRS,
            dpo=DPO,
            lora=lora,
            choice=CHOICE,
            secret=SECRET,
            workdir=tmp_path / folder,
            progress=power_off,
        )
        return encode(trained.tensors)

    with pytest.raises(PoweredOffError):
        train("one")
    resumed = train("one")
    assert done == [1, 2, 3, 4]
    assert train("two") == resumed


def test_a_reveal_says_what_was_spent_and_one_without_privacy_says_nothing() -> None:
    fields = {
        "consortium": "orchard",
        "round": 1,
        "manifest": "0a" * 32,
        "author": "ann",
        "adapter": "0b" * 32,
        "salt": "0c" * 32,
        "size": 10,
        "pairs": 14,
    }
    plain = Reveal.model_validate(fields)
    assert b"privacy" not in plain.encode()
    assert Reveal.decode(plain.encode()) == plain
    spent = planned_privacy(CHOICE, pairs=14, sample_rate=4 / 14, steps=8)
    private = Reveal.model_validate({**fields, "privacy": spent.model_dump()})
    assert Reveal.decode(private.encode()) == private
    with pytest.raises(FormatError):
        Reveal.decode(plain.encode()[:-1] + b',"privacy":null}')


def test_what_was_asked_for_in_join_is_remembered(tmp_path: Path) -> None:
    from patronage_client.founding import found_owner
    from patronage_protocol.keys import PrivateKey
    from patronage_protocol.pair_files import write_pairs

    write_pairs(tmp_path / "pairs.jsonl", PAIRS)
    home = tmp_path / "ann"
    key = PrivateKey.from_seed(bytes(32)).public.text
    found_owner(home, name="ann", data=tmp_path / "pairs.jsonl", base_model="tiny", operator_key=key)
    assert OwnerHome.load(home).privacy is None
    OwnerHome.load(home).ask_for_privacy(8.0, 1e-5)
    assert OwnerHome.load(home).privacy == PrivacyChoice(8.0, 1e-5)
