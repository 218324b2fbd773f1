"""A line on the terminal that moves while work goes on: what it is, a bar, and the figures that there is room for.

At any width the bar, the rate and the time left stay. Where there is no room for all figures, the least important go.
"""

import time
from collections.abc import Iterator, Sequence
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
    """0 stays at any width; of the others the highest goes first."""


class ProgressLine:
    """One line, in a terminal only. A context manager.

    Args:
        console: where to show it. Elsewhere than in a terminal nothing is shown: see `live`.
        what: the work, in a word or two.
        total: units of work; None where that is not known: then the bar shows that something moves.
        unit: of the rate, which then is shown, with the count and the time left; None for figures of the caller's own.
    """

    def __init__(self, console: Console, what: str, total: float | None = None, *, unit: str | None = None) -> None:
        width = console.width
        self._bar_width = max(_LEAST_BAR, min(_MOST_BAR, width // _BAR_SHARE))
        columns = _What(self), BarColumn(bar_width=self._bar_width), _Figures(self)
        self._unit, self._console = unit, console
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._progress.add_task(what, total=total, figures=())

    @property
    def live(self) -> bool:
        """Whether it is shown: where it is not, a plain line now and then may be."""
        return not self._progress.disable

    def update(
        self,
        done: float | None = None,
        *,
        what: str | None = None,
        total: float | None = None,
        figures: Sequence[Figure] = (),
    ) -> None:
        """Show how far it is.

        Args:
            done: units; None for as many as before.
            what: another work from here on.
            total: another number of units; None for as many as before.
            figures: in the order in which they are shown.
        """
        self._progress.update(self._task, completed=done, description=what, total=total, figures=tuple(figures))

    def restart(self, what: str, total: float | None = None, *, done: float = 0) -> None:
        """Begin with another piece of work, whose total may not be known."""
        self._progress.remove_task(self._task)
        self._task = self._progress.add_task(what, total=total, completed=done, figures=())  # type: ignore[arg-type]

    def hide(self) -> None:
        """Leave nothing on the screen."""
        self._progress.update(self._task, visible=False)

    def what_of(self, task: Task) -> str:
        """As much of it as there is room for."""
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
        """All of them."""
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


class _Line(ProgressColumn):
    def __init__(self, line: ProgressLine) -> None:
        super().__init__()
        self._line = line


class _What(_Line):
    def render(self, task: Task) -> Text:
        return Text(self._line.what_of(task), no_wrap=True)


class _Figures(_Line):
    def render(self, task: Task) -> Text:
        return Text(self._line.line_of(task), no_wrap=True)


def duration(seconds: float) -> str:
    """`1:02:03`: hours, minutes, seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


@contextmanager
def working(console: Console, what: str) -> Iterator[None]:
    """Show that something moves while it is done, and nothing afterwards."""
    with ProgressLine(console, what) as line:
        try:
            yield
        finally:
            line.hide()


class PlainLines:
    """Elsewhere than in a terminal: when it is time for another line."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._last = seconds, time.monotonic()

    def due(self) -> bool:
        """Whether so many seconds have passed since the last one; then it counts as written."""
        now = time.monotonic()
        if now - self._last < self._seconds:
            return False
        self._last = now
        return True


def _kept(figures: Sequence[Figure]) -> list[Figure]:
    return [figure for figure in figures if not figure.rank]


def _length(figures: Sequence[Figure]) -> int:
    return sum(len(figure.text) + 1 for figure in figures) - bool(figures)
