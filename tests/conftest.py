"""What many tests start from: keys, terms, a manifest."""

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from patronage_protocol.keys import PrivateKey
from patronage_protocol.ledger.checkpoints import Checkpoint, SignedCheckpoint
from patronage_protocol.ledger.cosignatures import Ed25519Cosigner
from patronage_protocol.ledger.trust import quorum_size
from patronage_protocol.manifest import (
    MAX_WITNESSES,
    BaseModelTerms,
    Deadlines,
    DpoTerms,
    GameTerms,
    HeldOutTerms,
    IntakeTerms,
    IntervalTerms,
    LoraGroup,
    LoraTerms,
    Manifest,
    Party,
    PayoutTerms,
    WitnessTerms,
)
from patronage_protocol.rounds import Round
from patronage_protocol.witnessing import witness_name

pytest_plugins = ("played", "consortium")  # rounds that were played, as published ledgers

# A test does not fail because the machine is busy.
settings.register_profile("patronage", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patronage")

NOW = 1_800_000_000


def key_of(name: str) -> PrivateKey:
    """The key that a party of this name has in tests."""
    return PrivateKey.from_seed(name.encode().ljust(32, b"."))


@pytest.fixture(name="key_of")
def key_of_fixture() -> Callable[[str], PrivateKey]:
    return key_of


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Torch on one thread: small tensors are slower on more, and sums come out in another order."""
    import torch  # here, since most of the protocol's tests do without

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def cosigned_head(state: Round, keys: Callable[[str], PrivateKey], *owners: str) -> SignedCheckpoint:
    """The head of a round's entries, signed by its operator, cosigned by these owners or all witnesses."""
    manifest = state.manifest
    head = Checkpoint(manifest.origin, state.tree.size, state.tree.root())
    lines = [
        Ed25519Cosigner(witness_name(manifest.consortium, owner), keys(owner)).cosign(head, state.time)
        for owner in owners or manifest.witness.owners
    ]
    signed = head.sign(keys(manifest.operator.name))
    return SignedCheckpoint(head, signed.note.with_signatures(*lines))


@pytest.fixture(name="cosigned_head")
def cosigned_head_fixture() -> Callable[..., SignedCheckpoint]:
    return cosigned_head


@pytest.fixture
def payout_terms() -> Callable[..., PayoutTerms]:
    """Payout terms with a budget of 1000.00 EUR, gated, with any field replaced."""

    def make(**changes: Any) -> PayoutTerms:
        fields = {
            "policy": "gated",
            "currency": "EUR",
            "exponent": 2,
            "budget": 100_000,
            "max_detectable_percent": 100,
        }
        return PayoutTerms.model_validate({**fields, **changes})

    return make


@pytest.fixture
def manifest_of(payout_terms: Callable[..., PayoutTerms]) -> Callable[..., Manifest]:
    """A manifest for owners of these names, with any field replaced."""

    def make(*owners: str, **changes: Any) -> Manifest:
        fields: dict[str, Any] = {
            "schema_version": 1,
            "consortium": "orchard",
            "round": 1,
            "seed": "5e" * 32,
            "operator": Party(name="operator", key=key_of("operator").public.text),
            "owners": tuple(Party(name=name, key=key_of(name).public.text) for name in owners),
            "min_players": 1,
            "base_model": BaseModelTerms(
                name="tiny",
                architecture="LlamaForCausalLM",
                precision="float32",
                weights="0a" * 32,
                tokenizer="0b" * 32,
            ),
            "lora": LoraTerms(
                rank=2,
                alpha=4.0,
                init_seed=0,
                groups=(
                    LoraGroup(
                        module="model.layers.{}.self_attn.q_proj",
                        layers=(0, 1),
                        in_features=4,
                        out_features=6,
                    ),
                ),
            ),
            "dpo": DpoTerms(
                beta=0.1,
                learning_rate=1e-3,
                epochs=1,
                batch_size=4,
                gradient_accumulation=1,
                warmup_steps=0,
                schedule="constant",
                max_grad_norm=1.0,
                max_length=64,
                seed=0,
            ),
            "intake": IntakeTerms(max_bytes=10_000, max_norm=10.0, copy_cosine=0.99),
            "held_out": HeldOutTerms(root="0c" * 32, pairs=4, prompts=3),
            "game": GameTerms(composition="sum", utility="sigmoid", scale_bits=16),
            "interval": IntervalTerms(level=0.95, replicates=200, seed=1),
            "payout": payout_terms(),
            "deadlines": Deadlines(accept=NOW + 100, commit=NOW + 200, reveal=NOW + 300),
            "versions": {"patronage": "0.1.0"},
        }
        fields |= changes
        if "witness" not in fields:
            names = tuple(sorted(owner.name for owner in fields["owners"]))[:MAX_WITNESSES]
            quorum = quorum_size(len(names), faulty := (len(names) - 1) // 3)
            fields["witness"] = WitnessTerms(owners=names, faulty=faulty, quorum=quorum, seconds=50)
        return Manifest.model_validate(fields)

    return make
