"""Run a whole consortium on one machine: found it, carry its messages, verify and report the outcome."""

from pathlib import Path
from typing import Literal

from patronage_protocol.policy import shared_base_model
from patronage_protocol.rounds import Round
from patronage_server.report import read_report, save
from patronage_simulations.consortium import Plan, found, open_next
from patronage_simulations.engines import SimulatedClock, clock_after, run_engine
from patronage_simulations.progress import Progress

__all__ = ["simulate"]


def simulate(
    plan: Plan, folder: Path, *, engine: Literal["local", "ray"], progress: Progress, rounds: int = 1
) -> tuple[Round, ...]:
    """Found the consortium of `plan` in `folder`, run its rounds, verify its ledger, write the reports.

    From the second on a round starts from the consortium's adapter of the one before, and every owner trains
    on its pairs again: what is paid is the increment.

    Returns:
        The rounds as the published ledger tells them.

    Raises:
        PatronageError: the plan cannot be carried out, or the ledger does not hold.
    """
    cache = Path(plan.cache) if plan.cache else None
    base = shared_base_model(plan.base_model, precision=plan.precision, device=plan.device, cache=cache)
    consortium = found(folder, plan, base, now=SimulatedClock().now())
    run_engine(engine, consortium, progress)
    for _ in range(rounds - 1):
        consortium = open_next(consortium, plan, base, now=clock_after(consortium).now())
        run_engine(engine, consortium, progress)
    states = []
    for number in range(1, rounds + 1):
        report = read_report(consortium.ledger, round_number=number)
        save(report, folder / ("report.html" if number == rounds else f"report-{number}.html"))
        states.append(report.state)
    progress.say("ledger verified, report written")
    return tuple(states)
