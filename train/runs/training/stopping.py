"""ctrl-C and SIGTERM as a wish that the loop grants between two steps."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopWish:
    """Whether somebody wants the training to stop."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        """The one that came."""

    @property
    def asked(self) -> bool:
        """Whether one came."""
        return self.signal is not None


@contextmanager
def stop_on_signals() -> Iterator[StopWish]:
    """Inside, the first ctrl-C or SIGTERM is a wish; a second one raises KeyboardInterrupt at once.

    The handler does no more than take note: it may come in the middle of a line that is being printed.

    In a thread other than the main one signals stay as they are.
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
