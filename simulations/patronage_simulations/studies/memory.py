"""The peak memory of a process, for studies; on Linux.

Not `getrusage`: what it tells a child begins at the size of its parent.
"""

from pathlib import Path

__all__ = ["peak_megabytes"]


def peak_megabytes() -> float:
    """The largest resident size of this process so far, in MiB (VmHWM of proc(5))."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024
