"""Blocks of work on several threads, results in order: the same bytes for any number of threads.

numpy releases the interpreter lock in its loops. Nothing is ever added up across threads: every block is
computed by one thread, and the caller combines the blocks in their order.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from patronage_protocol.errors import UsageError

__all__ = ["check_threads", "in_order"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def check_threads(threads: int | None) -> int:
    """The number of threads to use; every core that this process may use by default.

    Raises:
        UsageError: fewer than one.
    """
    if threads is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if threads < 1:
        raise UsageError("at least one thread", got=str(threads), do="leave it out to use every core")
    return threads


def in_order(function: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """`map(function, items)` on `threads` threads; at most `threads + 1` results are held at a time."""
    if threads == 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Result]] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
