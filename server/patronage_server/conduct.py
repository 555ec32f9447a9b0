"""`patronage operator round`: start the round's run, or go on with it, and say what happens until it ends.

What happens is read from the ledger, and how the run stands from SuperLink; neither is taken from the exit
status of a command. Nothing is lost when this process ends: the round goes on, and `--resume` looks again.
"""

import time
from collections.abc import Callable

from patronage_protocol.errors import UnavailableError, UsageError
from patronage_protocol.rounds import Phase, Round
from patronage_server.bundle import BUNDLE
from patronage_server.control import Control, RunReport, open_control
from patronage_server.follow import end_is_cosigned, entries_since, is_driven, last_round, line_of
from patronage_server.home import OperatorHome
from patronage_server.network import Network

__all__ = ["conduct"]

POLL_SECONDS = 1.0
RUNNING = "running"
START_SECONDS = 120.0
"""How long a ServerApp may take from `running` until it has the ledger open. A second, on a quiet machine."""

SLOW_SECONDS = 60.0
"""After so long it is told that a run has still not begun."""

IDLE_POLLS = 5
"""So often in a row must the ledger be found undriven before a run that calls itself running is given up."""

Say = Callable[[str], None]


def conduct(
    home: OperatorHome, network: Network, *, resume: bool, say: Say, engine: str = "local"
) -> tuple[Round, RunReport]:
    """Take the round of manifest.json to its end.

    Args:
        home: the operator's folder.
        network: its network side.
        resume: go on with a round that is under way.
        say: gets one line for each thing that happens.
        engine: where a run that is started scores adapters: `local`, or `ray`.

    Returns:
        The round, final, and the run that ended it.

    Raises:
        UsageError: the round is under way and `resume` is not set, or is final already.
        UnavailableError: SuperLink is not up, or the run failed; what was recorded stays.
    """
    ledger = home.store
    digest = home.manifest().digest
    state = last_round(ledger)
    if state is not None and state.manifest.digest == digest:
        _require_startable(state, resume=resume, ended=end_is_cosigned(ledger, state))
    with open_control(network) as control:
        run = _running(control, home, resume=resume)
        if run is None:
            config = {"patronage-home": str(home.path.absolute()), "patronage-engine": engine}
            run = control.start_run(BUNDLE, config)
            say(f"run {run} started")
        else:
            say(f"run {run} is under way")
        report = _Follower(home, control, run, say).until_finished()
    state = last_round(ledger)
    if not report.completed or state is None or state.phase is not Phase.FINAL:
        raise UnavailableError(
            f"run {run} to complete",
            got=f"{report.outcome or report.status}: {_last_line(report.details)}",
            do="see flower/superlink.log, then go on with: patronage operator round DIR --resume",
        )
    return state, report


def _require_startable(state: Round, *, resume: bool, ended: bool) -> None:
    if state.phase is Phase.FINAL and ended:
        raise UsageError(
            f"terms of a round after round {state.manifest.round}, which is final",
            got="its terms again",
            do="draw up new ones: patronage operator invite DIR",
        )
    if not resume:
        raise UsageError(
            "a round that has not begun",
            got=f"round {state.manifest.round} in the phase {state.phase.value}",
            do="go on with it: patronage operator round DIR --resume",
        )


def _running(control: Control, home: OperatorHome, *, resume: bool) -> int | None:
    """The run that is under way, if any; one that nobody drives any more is ended first."""
    ledger = home.store
    for report in control.runs():
        if not report.active:
            continue
        if not resume:
            raise UsageError(
                "no run under way",
                got=f"run {report.run}, {report.status}",
                do="look at it with: patronage operator round DIR --resume",
            )
        if is_driven(ledger):
            return report.run
        control.stop_run(report.run)
    return None


class _Follower:
    """Reads the ledger and the run's status in turn until the run has finished."""

    def __init__(self, home: OperatorHome, control: Control, run: int, say: Say) -> None:
        self._ledger = home.store
        self._control = control
        self._run = run
        self._say = say
        self._seen = len(entries_since(self._ledger, 0))
        self._began: float | None = None
        self._idle = 0
        self._up = True
        self._slow_at = time.monotonic() + SLOW_SECONDS

    def until_finished(self) -> RunReport:
        """Wait, and say what comes."""
        while True:
            self._new_entries()
            report = self._look()
            if report is not None and not report.active:
                self._new_entries()
                return report
            if report is not None and self._abandoned(report):
                self._control.stop_run(self._run)
            if report is not None and report.status != RUNNING:
                self._tell_slow(report)
            time.sleep(POLL_SECONDS)

    def _new_entries(self) -> None:
        for entry in entries_since(self._ledger, self._seen):
            self._seen += 1
            self._say(line_of(entry))

    def _look(self) -> RunReport | None:
        try:
            report = self._control.run(self._run)
        except UnavailableError as error:
            if self._up:
                self._say(f"waiting for SuperLink: {error}")
            self._up = False
            return None
        if not self._up:
            self._say("SuperLink is back")
        self._up = True
        return report

    def _tell_slow(self, report: RunReport) -> None:
        """Flower starts another ServerApp when one has not come up in 30 seconds: a busy machine has none."""
        if time.monotonic() >= self._slow_at:
            self._slow_at = float("inf")
            self._say(
                f"run {self._run} is still {report.status}: its ServerApp must be up within 30 seconds; "
                "is this machine very busy?"
            )

    def _abandoned(self, report: RunReport) -> bool:
        """Whether the ServerApp died without a word, which SuperLink notices only minutes later."""
        if report.status != RUNNING:
            return False
        now = time.monotonic()
        self._began = self._began or now
        if is_driven(self._ledger):
            self._began = now - START_SECONDS
            self._idle = 0
        elif now - self._began >= START_SECONDS:
            self._idle += 1
        return self._idle >= IDLE_POLLS


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no reason given"])[-1]
