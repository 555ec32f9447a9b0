"""What the processes of a federation use, by kind, read from /proc while they run (Linux)."""

import os
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean

from patronage_simulations.federation import Federation

__all__ = ["Watch"]

KINDS = {
    "flower-superlink": "operator: SuperLink",
    "flower-superexec": "operator: SuperLink's executor",
    "flwr-serverapp": "operator: ServerApp",
    "flower-supernode": "owner: SuperNode",
    "serve": "operator: serve (gateway)",
    "join": "owner: join (executor, training)",
}
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Watch:
    """The peak memory and the CPU time of the federation's processes, looked at every half second."""

    running: Federation
    peak: dict[tuple[str, int], int] = field(default_factory=dict)
    cpu: dict[tuple[str, int], float] = field(default_factory=dict)

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Look until the context ends."""
        ended = threading.Event()

        def look() -> None:
            while not ended.wait(0.5):
                self.look()

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def look(self) -> None:
        """Look once."""
        for number in _family([process.pid for process in self.running.processes.values()]):
            try:
                words = Path(f"/proc/{number}/cmdline").read_bytes().decode("utf-8", "replace").split("\0")
                status = Path(f"/proc/{number}/status").read_text(encoding="ascii", errors="replace")
                times = Path(f"/proc/{number}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
            except OSError:
                continue  # it ended meanwhile
            kind = next((KINDS[Path(word).name] for word in words if Path(word).name in KINDS), "")
            lines = [line for line in status.splitlines() if line.startswith("VmHWM")]
            if kind and lines:
                self.peak[kind, number] = int(lines[0].split()[1]) * 1024
                self.cpu[kind, number] = (int(times[11]) + int(times[12])) / TICKS

    def shares(self) -> dict[str, float]:
        """Kind of process to its mean share of the memory now, in bytes (Pss, proc_pid_smaps(5))."""
        found: dict[str, list[int]] = defaultdict(list)
        for kind, number in self.peak:
            try:
                rollup = Path(f"/proc/{number}/smaps_rollup").read_text(encoding="ascii")
            except OSError:
                continue  # it has ended
            found[kind] += [int(line.split()[1]) * 1024 for line in rollup.splitlines() if line[:4] == "Pss:"]
        return {kind: mean(sizes) for kind, sizes in found.items()}

    def peaks(self) -> dict[str, float]:
        """Kind of process to its peak, in bytes, the largest of that kind."""
        found: dict[str, list[int]] = defaultdict(list)
        for (kind, _), size in self.peak.items():
            found[kind].append(size)
        return {kind: float(max(sizes)) for kind, sizes in found.items()}


def _family(roots: list[int]) -> set[int]:
    """These processes and all that descend from them."""
    children: dict[int, list[int]] = defaultdict(list)
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text(encoding="ascii", errors="replace")
        except OSError:
            continue
        children[int(stat.rpartition(")")[2].split()[1])].append(int(folder.name))
    found, open_ones = set(roots), list(roots)
    while open_ones:
        for child in children[open_ones.pop()]:
            if child not in found:
                found.add(child)
                open_ones.append(child)
    return found
