"""What prep shows while it works: a rich bar on a terminal, a plain line every few seconds elsewhere."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from resact.cache.layout import VideoRecord, printable

_PLAIN_LINE_SECONDS = 5.0
_NOTES_SHOWN = 5  # of a data set from cameras with two lenses each video may have one


class PrepProgress:
    """Counts records. A context manager.

    Args:
        console: where to show it.
        total: videos to do.
    """

    def __init__(self, console: Console, total: int) -> None:
        self._console, self._total = console, total
        self.videos = self.frames = self.bytes = self.failed = self._notes = 0
        self._start = self._last_line = time.monotonic()
        columns = (
            TextColumn("prep"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rates]}"),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._bar.add_task("prep", total=total, rates="")

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._start

    def add(self, record: VideoRecord) -> None:
        """One more video is done."""
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
        self._bar.update(self._task, completed=self.videos, rates=self._rates())
        now = time.monotonic()
        if self._bar.disable and now - self._last_line >= _PLAIN_LINE_SECONDS:
            self._last_line = now
            left = (self._total - self.videos) * self.seconds / self.videos
            self._console.print(f"prep: {self.videos:,} of {self._total:,} videos, {self._rates()}, {left:,.0f} s left")

    def tell(self, line: str) -> None:
        """Show a line for people."""
        self._console.print(printable(line))

    def _rates(self) -> str:
        rate = self.frames / max(self.seconds, 1e-9)
        return f"{rate:,.0f} frames/s, {self.bytes / 1e9:.2f} GB, {self.failed} failed"

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        more = self._notes - _NOTES_SHOWN
        if more > 0:
            self._console.print(f"note: likewise {more:,} more videos (`note` in their attributes)")
