"""Child processes that do not outlive their parent, and the commands of this installation.

On Linux the kernel ends a child when its parent is gone, however that came (prctl(2), PR_SET_PDEATHSIG). On
other systems a parent that is killed outright leaves its child behind, as is usual there.
"""

import ctypes
import os
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path

from patronage_protocol.errors import MissingExtraError, UnavailableError

__all__ = ["command_path", "start_child", "stop_child"]

PR_SET_PDEATHSIG = 1
STOP_SECONDS = 10.0


def command_path(name: str, *, extra: str) -> Path:
    """Where the command `name` of this Python installation lies.

    Raises:
        MissingExtraError: it is not installed; `extra` brings it.
    """
    for folder in (Path(sys.executable).parent, Path(sysconfig.get_path("scripts"))):
        if (folder / name).exists():
            return folder / name
    raise MissingExtraError(name, extra=extra)


def start_child(
    command: Sequence[str], *, environment: Mapping[str, str], log: Path
) -> subprocess.Popen[bytes]:
    """Start a process that ends with this one; its output is added to `log`, and it reads nothing.

    Args:
        command: the program and its arguments.
        environment: what differs from this process's own.
        log: a file, made if need be.

    Raises:
        UnavailableError: the log cannot be written, or the program not be started.
    """
    try:
        with log.open("ab") as output:
            return subprocess.Popen(  # noqa: S603 - callers build the command themselves
                list(command),
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509 - see below
            )
    except OSError as error:
        raise UnavailableError(
            f"{Path(command[0]).name} to start", got=str(error), do="make room or mend permissions"
        ) from error


def stop_child(process: subprocess.Popen[bytes]) -> None:
    """End a process and wait for it; one that does not listen is killed."""
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


# Loaded before any fork: between fork and exec only this one call is made, which takes no lock.
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def _end_with_parent() -> None:
    if _libc is not None:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
