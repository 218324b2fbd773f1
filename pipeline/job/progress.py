"""Prep's progress display: a bar on a terminal, otherwise a plain line every few seconds."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console

from resact.cache.layout import VideoRecord, printable
from resact.progress import Figure, PlainLines, ProgressLine, duration

_PLAIN_LINE_SECONDS = 5.0
_NOTES_SHOWN = 5  # of a data set from cameras with two lenses each video may have one


class PrepProgress:
    """Counts records and shows progress. A context manager.

    Args:
        console: where to show it.
        total: number of videos to prep.
    """

    def __init__(self, console: Console, total: int) -> None:
        self._console, self._total = console, total
        self.videos = self.frames = self.bytes = self.failed = self._notes = 0
        self._start = time.monotonic()
        self._line = ProgressLine(console, "prep: starting")
        self._plain = PlainLines(_PLAIN_LINE_SECONDS)

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    def add(self, record: VideoRecord) -> None:
        """One more video is done."""
        if not self.videos:
            self._line.restart("prep", self._total)
        self.videos += 1
        self.frames += record.num_frames
        self.bytes += int(record.frame_bytes.sum())
        self.failed += record.status == "failed"
        if record.status != "ok":
            self._console.print(printable(f"{record.status}: {record.video_id}: {record.problem}"))
        if record.note is not None:
            self._notes += 1
            if self._notes <= _NOTES_SHOWN:
                self._console.print(printable(f"note: {record.video_id}: {record.note}"))
        rate = f"{self.frames / max(self.seconds, 1e-9):,.0f} frames/s"
        size, failed = f"{self.bytes / 1e9:.2f} GB", f"{self.failed} failed"
        left = (self._total - self.videos) * self.seconds / self.videos
        if self._line.live:
            figures = [
                Figure(f"{self.videos:,}/{self._total:,}", 1),
                Figure(rate),
                Figure(size, 3),
                Figure(failed, 2),
                Figure(f"{duration(left)} left"),
            ]
            self._line.update(self.videos, figures=figures)
        elif self._plain.due():
            done = f"{self.videos:,} of {self._total:,} videos"
            self._console.print(f"prep: {done}, {rate}, {size}, {failed}, {left:,.0f} s left")

    def begin(self, what: str) -> None:
        """The videos are done, and something else follows."""
        self._line.restart(what)

    def tell(self, line: str) -> None:
        """Print a line without disturbing the display."""
        self._console.print(printable(line))

    def __enter__(self) -> Self:
        self._line.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._line.__exit__()
        more = self._notes - _NOTES_SHOWN
        if more > 0:
            self._console.print(f"note: the same for {more:,} more videos (`note` in their attributes)")
