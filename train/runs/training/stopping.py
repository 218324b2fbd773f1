"""ctrl-C and SIGTERM as a request to stop, which the loop obeys between two steps."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopWish:
    """A request to stop the training.

    Args:
        can_wait: the initial value.
    """

    def __init__(self, *, can_wait: bool) -> None:
        self.signal: signal.Signals | None = None
        """The signal received; None if none."""
        self.can_wait = can_wait
        """Whether the loop will obey it soon; otherwise a signal raises KeyboardInterrupt."""

    @property
    def asked(self) -> bool:
        """Whether a signal was received."""
        return self.signal is not None


@contextmanager
def stop_on_signals(*, can_wait: bool) -> Iterator[StopWish]:
    """A context in which the first ctrl-C or SIGTERM is a request to stop, if it can wait; a second one, or one that
    cannot wait, raises KeyboardInterrupt at once.

    The handler of a request only sets a flag, because it may run in the middle of a line being printed.

    In threads other than the main thread, signal handling does not change.
    """
    wish = StopWish(can_wait=can_wait)
    if threading.current_thread() is not threading.main_thread():
        yield wish
        return

    def note(number: int, _frame: FrameType | None) -> None:
        if wish.asked or not wish.can_wait:
            raise KeyboardInterrupt
        wish.signal = signal.Signals(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield wish
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
