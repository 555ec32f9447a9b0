"""Run a whole consortium on one machine: found it, carry its messages, verify and report the outcome."""

from pathlib import Path
from typing import Literal

from patronage_protocol.policy import shared_base_model
from patronage_protocol.rounds import Round
from patronage_server.report import read_report, save
from patronage_simulations.consortium import Plan, found
from patronage_simulations.engines import SimulatedClock, run_engine
from patronage_simulations.progress import Progress

__all__ = ["simulate"]


def simulate(plan: Plan, folder: Path, *, engine: Literal["local", "ray"], progress: Progress) -> Round:
    """Found the consortium of `plan` in `folder`, run its round, verify its ledger, write the report.

    Returns:
        The round as the published ledger tells it.

    Raises:
        PatronageError: the plan cannot be carried out, or the ledger does not hold.
    """
    cache = Path(plan.cache) if plan.cache else None
    base = shared_base_model(plan.base_model, precision=plan.precision, device=plan.device, cache=cache)
    consortium = found(folder, plan, base, now=SimulatedClock().now())
    run_engine(engine, consortium, progress)
    report = read_report(consortium.ledger)
    save(report, folder / "report.html")
    progress.say("ledger verified, report written")
    return report.state
