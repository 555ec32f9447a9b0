"""Rounds over SuperLink and SuperNodes as separate processes, with TLS and node authentication."""

import random
import ssl
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from patronage_protocol.preferences import PreferencePair
from patronage_protocol.rounds import Phase
from patronage_protocol.verify import verify_ledger
from patronage_simulations.federation import Federation

pytestmark = pytest.mark.slow

NOUNS = ("tea", "sun", "rain", "book", "road", "lamp", "tree", "fish", "bird", "song")
TASTES = {"ann": ("kind", "rude"), "bob": ("short", "long"), "cid": ("warm", "cold")}
TERMS = """
min_players = 2
[seconds]
accept = {accept}
commit = {commit}
reveal = {reveal}
[lora]
rank = 2
alpha = 4.0
target_modules = ["q_proj", "v_proj"]
[dpo]
beta = 0.1
learning_rate = 5e-3
epochs = 1
batch_size = 8
gradient_accumulation = 1
warmup_steps = 0
schedule = "constant"
max_grad_norm = 1.0
max_length = 64
seed = 0
[intake]
max_bytes = 1000000
max_norm = 100.0
copy_cosine = 0.99
[game]
composition = "sum"
utility = "sigmoid"
scale_bits = 20
[interval]
level = 0.9
replicates = 200
seed = 0
[payout]
policy = "clipped"
currency = "EUR"
exponent = 2
budget = 10000
max_detectable_percent = 100000
"""


def pairs(taste: str, count: int, seed: int) -> list[PreferencePair]:
    good, bad = TASTES[taste]
    draw = random.Random(seed)
    return [
        PreferencePair(
            prompt=f"{draw.choice(NOUNS)} {draw.choice(NOUNS)}",
            chosen=f" {good} {draw.choice(NOUNS)}",
            rejected=f" {bad} {draw.choice(NOUNS)}",
        )
        for _ in range(count)
    ]


@pytest.fixture
def federation(tmp_path: Path) -> Callable[..., Federation]:
    def found(accept: int = 900, commit: int = 900, reveal: int = 900, **options: object) -> Federation:
        terms = tmp_path / "terms.toml"
        terms.write_text(TERMS.format(accept=accept, commit=commit, reveal=reveal))
        return Federation(
            tmp_path / "run",
            owners={name: pairs(name, 24, seed) for seed, name in enumerate(TASTES)},
            held_out=[pair for name in TASTES for pair in pairs(name, 12, 99)],
            terms=terms,
            **options,  # type: ignore[arg-type]
        )

    return found


def finish(running: Federation, seconds: float = 900.0) -> None:
    assert running.processes["round"].wait(seconds) == 0, running.log("round")


def test_a_plain_round_ends_with_verified_receipts(federation: Callable[..., Federation]) -> None:
    with federation() as running:
        running.invite()
        for owner in running.owners:
            running.join(owner)
        running.round()
        finish(running)
        (state,) = verify_ledger(running.published).rounds
        assert state.phase is Phase.FINAL
        assert state.players == ("ann", "bob", "cid")
        assert state.settlement is not None
        assert sum(one.amount for one in state.settlement.payments) == 10_000
        amounts = {one.owner: str(one.amount) for one in state.settlement.payments}
        for owner in running.owners:
            (receipt,) = running.command("owner", "receipts", running.home(owner), "--json")["receipts"]
            assert receipt["amount"] == amounts[owner]
        found = running.command("operator", "status", running.operator, "--json")
        assert found["round"]["phase"] == "final"
        assert [owner["node"] for owner in found["owners"]] == ["online"] * 3


def test_the_control_api_is_not_reachable_through_the_door(federation: Callable[..., Federation]) -> None:
    with federation() as running:
        network = (running.operator / "network.toml").read_text()
        address = network.split('address = "')[1].split('"')[0]
        authority = str(running.operator / "tls" / "ca.pem")
        context = ssl.create_default_context(cafile=authority)
        paths = ("/v1/control/start-run", "/v1/control/list-runs", "/v1/runtime/acquire-task", "/docs")
        with httpx.Client(base_url=f"https://{address}", verify=context) as client:
            assert [client.post(path).status_code for path in paths] == [404] * 4
            assert client.get("/health").status_code == 200
