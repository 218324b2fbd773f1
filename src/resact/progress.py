"""A progress line on the terminal: the work, a bar, and as many figures as fit.

The bar, the rate and the time left are shown at any width. If not all figures fit, the least important are left out.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task
from rich.text import Text

_BAR_SHARE, _WHAT_SHARE = 6, 4  # one part in so many of the width
_LEAST_BAR, _MOST_BAR = 8, 40


@dataclass(frozen=True)
class Figure:
    """One figure of a line, such as `27.3 clips/s`."""

    text: str
    rank: int = 0
    """0 is shown at any width; of the others, the highest is left out first."""


class ProgressLine:
    """A progress line, shown only on a terminal. A context manager.

    Args:
        console: where to show it. Without a terminal nothing is shown: see `live`.
        what: the work, in a word or two.
        total: units of work; None if unknown: then the bar only moves.
        unit: unit of the rate, to show rate, count and time left; None if the caller gives its own figures.
    """

    def __init__(self, console: Console, what: str, total: float | None = None, *, unit: str | None = None) -> None:
        width = console.width
        self._bar_width = max(_LEAST_BAR, min(_MOST_BAR, width // _BAR_SHARE))
        columns = _Words(self.what_of), BarColumn(bar_width=self._bar_width), _Words(self.line_of)
        self._unit, self._console = unit, console
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._progress.add_task(what, total=total, figures=())

    @property
    def live(self) -> bool:
        """Whether it is shown; if not, print a plain line from time to time."""
        return not self._progress.disable

    def update(
        self,
        done: float | None = None,
        *,
        what: str | None = None,
        total: float | None = None,
        figures: Sequence[Figure] = (),
    ) -> None:
        """Update the line.

        Args:
            done: units done; None for no change.
            what: name of the new work; default: no change.
            total: new number of units; None for no change.
            figures: figures in the order in which they are shown.
        """
        self._progress.update(self._task, completed=done, description=what, total=total, figures=tuple(figures))

    def restart(self, what: str, total: float | None = None, *, done: float = 0) -> None:
        """Start another piece of work, whose total may be unknown. What was there is shown as it ended."""
        self._progress.refresh()
        self._progress.remove_task(self._task)
        self._task = self._progress.add_task(what, total=total, completed=done, figures=())  # type: ignore[arg-type]

    def hide(self) -> None:
        """Remove the line from the screen."""
        self._progress.update(self._task, visible=False)

    def what_of(self, task: Task) -> str:
        """The work's name, shortened to the available width."""
        figures = self.figures_of(task)
        kept = _kept(figures)
        room = self._console.width - self._bar_width - 2 - _length(kept)
        if len(kept) < len(figures):  # the others matter more than the last words of it
            room = min(room, self._console.width // _WHAT_SHARE)
        return task.description if len(task.description) <= room else f"{task.description[: max(0, room - 1)]}…"

    def line_of(self, task: Task) -> str:
        """The figures that fit."""
        figures = list(self.figures_of(task))
        room = self._console.width - len(self.what_of(task)) - self._bar_width - 2
        while _length(figures) > room and (optional := [figure for figure in figures if figure.rank]):
            figures.remove(max(optional, key=lambda figure: figure.rank))
        return " ".join(figure.text for figure in figures)

    def figures_of(self, task: Task) -> Sequence[Figure]:
        """All figures."""
        given: Sequence[Figure] = task.fields["figures"]
        if task.total is None:
            return [*given, Figure(duration(task.elapsed or 0.0))]
        if self._unit is None:
            return given
        rate, left = task.finished_speed or task.speed, task.time_remaining
        return [
            Figure(f"{task.completed:,.0f}/{task.total:,.0f}", 1),
            *given,
            Figure(f"{rate:,.1f} {self._unit}/s" if rate else f"- {self._unit}/s"),
            Figure(f"{'-' if left is None else duration(left)} left"),
        ]

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


class _Words(ProgressColumn):
    """A column of what a function says of the task."""

    def __init__(self, words: Callable[[Task], str]) -> None:
        super().__init__()
        self._words = words

    def render(self, task: Task) -> Text:
        return Text(self._words(task), no_wrap=True)


def duration(seconds: float) -> str:
    """`1:02:03`: hours, minutes, seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


@contextmanager
def working(console: Console, what: str) -> Iterator[None]:
    """Show a moving bar during some work, and nothing afterwards."""
    with ProgressLine(console, what) as line:
        try:
            yield
        finally:
            line.hide()


class PlainLines:
    """Decides when it is time for another plain line, without a terminal."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._last = seconds, time.monotonic()

    def due(self) -> bool:
        """Whether enough seconds have passed since the last line; if so, the line counts as printed."""
        now = time.monotonic()
        if now - self._last < self._seconds:
            return False
        self._last = now
        return True


def _kept(figures: Sequence[Figure]) -> list[Figure]:
    return [figure for figure in figures if not figure.rank]


def _length(figures: Sequence[Figure]) -> int:
    return sum(len(figure.text) + 1 for figure in figures) - bool(figures)
