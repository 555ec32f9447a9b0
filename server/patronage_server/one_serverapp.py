"""Starts Flower's ServerApp in the place of the one before; run as a program, on the standard library alone.

    one_serverapp.py LOCK PROGRAM [ARGUMENT...]

SuperLink (flwr 1.41) gives a ServerApp 30 seconds from its start to its first word, and then starts another.
The one before has lost its place by then, and goes on starting: on a busy machine they become more and more,
none comes up, and the machine is busy with them. So whoever holds the lock is ended first. The lock goes with
a file descriptor that the program inherits and that closes when it ends, however that comes: nobody is taken
for a process that had its number.
"""

import fcntl
import os
import signal
import sys

__all__: list[str] = []


def main(lock: str, program: str, *arguments: str) -> None:
    """End whoever holds the lock, take it, and become the program."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 32, 0)
        if holder:
            os.kill(int(holder), signal.SIGKILL)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    os.set_inheritable(descriptor, True)
    os.execv(program, [program, *arguments])  # noqa: S606 - SuperLink's own command line


if __name__ == "__main__":
    main(*sys.argv[1:])
