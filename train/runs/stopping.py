"""ctrl-C and SIGTERM as a wish that the loop grants between two steps."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class StopWish:
    """Whether somebody wants the training to stop."""

    def __init__(self) -> None:
        self.asked = False


@contextmanager
def stop_on_signals(say: Callable[[str], None]) -> Iterator[StopWish]:
    """Inside, the first ctrl-C or SIGTERM is a wish; a second one raises KeyboardInterrupt at once.

    In a thread other than the main one signals stay as they are.
    """
    wish = StopWish()
    if threading.current_thread() is not threading.main_thread():
        yield wish
        return

    def note(number: int, _frame: FrameType | None) -> None:
        if wish.asked:
            raise KeyboardInterrupt
        wish.asked = True
        say(f"{signal.Signals(number).name}: stopping after this step; once more stops at once")

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield wish
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
