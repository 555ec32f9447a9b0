"""The machine's clock, as the operator waits on it."""

import signal
import threading
import time

import pytest

from patronage_server.clock import SystemClock


class Ended(BaseException):
    """What the handler of a signal raises, as Flower's does."""


def test_a_signal_that_another_thread_raises_ends_a_long_wait() -> None:
    def handler(*_: object) -> None:
        raise Ended

    before = signal.signal(signal.SIGUSR1, handler)
    thread = threading.Timer(0.2, signal.raise_signal, [signal.SIGUSR1])
    began = time.monotonic()
    try:
        thread.start()
        with pytest.raises(Ended):
            SystemClock().sleep(30)
    finally:
        thread.join()
        signal.signal(signal.SIGUSR1, before)
    assert time.monotonic() - began < 15


def test_a_wait_takes_its_time() -> None:
    began = time.monotonic()
    SystemClock().sleep(0.7)
    assert time.monotonic() - began >= 0.7
