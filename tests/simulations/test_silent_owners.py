"""Whole rounds in which one connected node does not answer everything: what that costs the others."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import Context, Message, RecordDict

from patronage_client.app import client_app
from patronage_protocol.ledger.published import read_published
from patronage_protocol.rounds import Phase
from patronage_protocol.verify import verify_ledger
from patronage_protocol.wire import Action
from patronage_protocol.witnessing import check_quorum
from patronage_server.app import server_app
from patronage_server.cosigning import STRAGGLER_SECONDS
from patronage_server.nodes import Answer, Nodes
from patronage_simulations.consortium import Consortium
from patronage_simulations.grid import LocalGrid

Trained = Callable[..., Consortium]


class Jumping:
    """A clock on which no wait takes time."""

    def __init__(self) -> None:
        self.time = time.time()

    def now(self) -> int:
        return int(self.time)

    def sleep(self, seconds: float) -> None:
        self.time += seconds


@dataclass
class PartlySilent(LocalGrid):
    """A grid on which one node does not hear what is asked by these names."""

    node: int = 1
    unheard: tuple[str, ...] = ()

    def _push(self, message: Message) -> str:
        message_id = super()._push(message)
        action = message.metadata.message_type.rpartition(".")[2]
        if message.metadata.dst_node_id == self.node and action in self.unheard:
            self._waiting.pop()
        return message_id


def contexts_of(consortium: Consortium) -> dict[int, Context]:
    return {
        node: Context(node, node, {"patronage-home": str(home)}, RecordDict(), {})
        for node, home in enumerate(consortium.owners, start=1)
    }


def run(consortium: Consortium, *unheard: str) -> int:
    """Run the round with a first owner that is silent when asked this; returns the seconds that it took."""
    clock = Jumping()
    began = clock.now()
    app = server_app(lambda _context: consortium.operator, clock=clock, listener=lambda *_: None)
    app(
        PartlySilent(client_app(), contexts_of(consortium), unheard=unheard),
        Context(1, 0, {}, RecordDict(), {}),
    )
    return clock.now() - began


@pytest.mark.parametrize("others", [2, 4])
def test_a_quorum_waits_for_a_silent_witness_for_seconds_alone(trained: Trained, others: int) -> None:
    owners = {name: seed for seed, name in enumerate(("ann", "bob", "cy", "dan", "eve")[: others + 1])}
    consortium = trained(owners)
    steps = 2  # the close and the end
    assert run(consortium, Action.COSIGN) <= steps * (STRAGGLER_SECONDS[0] + 2)
    (state,) = verify_ledger(consortium.ledger).rounds
    assert state.players == tuple(owners), "a witness that does not cosign is paid like the others"
    cosigned = tuple(owners)[1:]
    assert check_quorum(state.witnessed[0], state.manifest) == cosigned
    assert check_quorum(read_published(consortium.ledger).signed, state.manifest) == cosigned


def test_without_a_quorum_the_silent_are_waited_for_until_the_deadline(trained: Trained) -> None:
    consortium = trained({"ann": 1, "bob": 2})
    assert consortium.manifest.witness.quorum == 2
    assert run(consortium, Action.COSIGN) >= consortium.manifest.witness.seconds
    (state,) = verify_ledger(consortium.ledger).rounds
    assert (state.phase, state.aborted) == (Phase.FINAL, "witnesses")


@pytest.mark.parametrize("signed_late", [False, True])
def test_a_quorum_that_arrives_late_stands_if_it_signed_in_time(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, signed_late: bool
) -> None:
    consortium = trained({"ann": 1, "bob": 2})
    clock, ask = Jumping(), Nodes.ask

    def slow(nodes: Nodes, action: str, *arguments: Any, **options: Any) -> Iterator[Answer]:
        yield from ask(nodes, action, *arguments, **options)
        if action == Action.COSIGN:
            clock.sleep(consortium.manifest.witness.seconds + 1)

    monkeypatch.setattr(Nodes, "ask", slow)
    if signed_late:
        later = SimpleNamespace(time=lambda: time.time() + consortium.manifest.witness.seconds + 60)
        monkeypatch.setattr("patronage_client.owner.time", later)
    app = server_app(lambda _context: consortium.operator, clock=clock, listener=lambda *_: None)
    app(LocalGrid(client_app(), contexts_of(consortium)), Context(1, 0, {}, RecordDict(), {}))
    (state,) = verify_ledger(consortium.ledger).rounds
    assert (state.phase, state.aborted) == (Phase.FINAL, "witnesses" if signed_late else None)


def test_an_owner_that_takes_no_receipt_keeps_none_from_the_others(trained: Trained) -> None:
    consortium = trained({"ann": 1, "bob": 2, "cy": 3})
    run(consortium, Action.RECEIPT)
    kept = [(owner / "rounds" / "orchard-1" / "receipt.tlog-proof").exists() for owner in consortium.owners]
    assert kept == [False, True, True]
