"""ctrl-C and SIGTERM as a request to stop, which the loop obeys between two steps."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopWish:
    """A request to stop the training."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        """The signal received; None if none."""

    @property
    def asked(self) -> bool:
        """Whether a signal was received."""
        return self.signal is not None


@contextmanager
def stop_on_signals() -> Iterator[StopWish]:
    """A context in which the first ctrl-C or SIGTERM is a request to stop, and a second one raises KeyboardInterrupt at
    once.

    The handler only sets a flag, because it may run in the middle of a line being printed.

    In threads other than the main thread, signal handling does not change.
    """
    wish = StopWish()
    if threading.current_thread() is not threading.main_thread():
        yield wish
        return

    def note(number: int, _frame: FrameType | None) -> None:
        if wish.asked:
            raise KeyboardInterrupt
        wish.signal = signal.Signals(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield wish
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
