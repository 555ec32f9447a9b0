"""Run every case and print the table: python -m patronage_simulations.faults [--every N]."""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from patronage_simulations.faults.cases import (
    CALLS,
    FAULTS,
    OPERATIONS,
    Lab,
    Outcome,
    prepare,
)
from patronage_simulations.faults.scenarios import SCENARIOS

_HEADER = ("operation", "call", "fault", "cases", "acknowledged", "lost", "forks", "not recovered", "unclear")
_ROW = "{:<9} {:<10} {:<15} {:>5} {:>12} {:>5} {:>5} {:>13} {:>7}"


def main(arguments: list[str] | None = None) -> int:
    """Print the tables; 0 if every promise held."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--operation", choices=OPERATIONS, help="only this operation")
    parser.add_argument("--call", action="append", choices=CALLS, help="only this system call (repeatable)")
    parser.add_argument(
        "--every", type=int, default=1, help="take every n-th instance of a call (default: all)"
    )
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as place:
        scratch = Path(place)
        prepare(scratch / "prepared")
        sound = _scenarios(scratch)
        if shutil.which("strace") is None:
            print("strace is not here: no system call was hurt", file=sys.stderr)  # noqa: T201
            return 3
        operations = (options.operation,) if options.operation else OPERATIONS
        print(_ROW.format(*_HEADER))  # noqa: T201
        with Lab(scratch / "prepared", scratch) as lab:
            outcomes = [
                outcome
                for o in operations
                for outcome in _operation(o, options.call or CALLS, options.every, lab)
            ]
    bad = [o for o in outcomes if o.lost or o.forked or o.stuck or o.unclear]
    print(_line("all", "", "", outcomes))  # noqa: T201
    for outcome in bad[:10]:
        print(outcome, file=sys.stderr)  # noqa: T201
    return 1 if bad or not sound else 0


def _operation(operation: str, calls: Sequence[str], every: int, lab: Lab) -> Iterator[Outcome]:
    found = lab.instances(operation)
    for call in calls:
        for fault in FAULTS:
            outcomes = [
                lab.run_case(operation, call, f"{fault}:when={instance}") for instance in found[call][::every]
            ]
            if outcomes:
                print(_line(operation, call, fault.partition("=")[2], outcomes), flush=True)  # noqa: T201
            yield from outcomes


def _scenarios(scratch: Path) -> bool:
    sound = True
    for scenario in SCENARIOS:
        folder = scratch / scenario.__name__
        shutil.copytree(scratch / "prepared", folder)
        try:
            result = scenario(folder)
        except AssertionError as error:
            sound, result = False, f"BROKEN: {error}"
        print(f"{scenario.__name__.replace('_', ' '):<37} {result}", flush=True)  # noqa: T201
    return sound


def _line(operation: str, call: str, fault: str, outcomes: list[Outcome]) -> str:
    counts = [
        len(outcomes),
        sum(outcome.acknowledged for outcome in outcomes),
        *(
            sum(getattr(outcome, flag) for outcome in outcomes)
            for flag in ("lost", "forked", "stuck", "unclear")
        ),
    ]
    return _ROW.format(operation, call, fault, *counts)


if __name__ == "__main__":
    sys.exit(main())
