"""`resact predict --every`: prints rows along videos as they come, for people or programs."""

import csv
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resact.cli.common import open_console
from resact.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from resact.pipeline.job.windows import VideoWindows
    from resact.train.runs.testing.trained import TrainedRun
    from resact.train.runs.testing.windows import Row

FORMATS = ("table", "csv", "jsonl")

_PLAIN_LINE_SECONDS = 10.0


def require_format(format_: str | None, *, every: str | None, merge: bool, json_output: bool) -> str | None:
    """The format of rows; None without --every, which refuses options that need it.

    Raises:
        UsageError: no such format, or options that contradict each other.
    """
    if every is None and (merge or format_ is not None):
        raise UsageError(f"got {'--merge' if merge else '--format'} without --every: add it, such as --every 1s")
    if format_ not in (None, *FORMATS):
        raise UsageError(f"got --format {format_!r}, expected one of {', '.join(FORMATS)}")
    if format_ not in (None, "table") and json_output:
        raise UsageError(f"got --format {format_} with --json, but both write to standard output: leave one out")
    return None if every is None else format_ or "table"


def consoles(format_: str | None, *, json_output: bool) -> "tuple[Console, Callable[[str], None]]":
    """The console for notes and progress, and a function that writes a line of rows.

    On a terminal both share it. Otherwise rows go to standard output, each written at once, and the rest to standard
    error.
    """
    terminal = open_console(json_output)
    if json_output or format_ is None or terminal.is_terminal:
        return terminal, terminal.print
    return open_console(json_output=True), _flushed_line


def _flushed_line(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def predict_along(
    trained: "TrainedRun",
    videos: Sequence[Path],
    *,
    every: Fraction,
    merge: bool,
    top: int,
    format_: str,
    keep: bool,
    ffmpeg: str | None,
    timeout: float,
    console: "Console",
    write: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Write rows of each video as they come; if a video breaks off, its earlier rows are kept.

    Args:
        trained: the run.
        videos: video files.
        every: seconds between windows.
        merge: join windows of one class into segments.
        top: classes per row.
        format_: name in `FORMATS`.
        keep: also keep the rows in the result.
        ffmpeg: path of ffmpeg.
        timeout: time limit for each frame, in seconds.
        console: for notes and progress.
        write: writes a line of rows.

    Returns:
        For each video `video, status, problem, note, seconds`, and `windows` or `segments` if they are kept.
    """
    from resact.errors import DecodeError
    from resact.pipeline.job.windows import VideoWindows
    from resact.train.runs.testing.notes import padding_note
    from resact.train.runs.testing.windows import merge_rows, predict_windows

    settings = trained.record.store.settings
    lines = _LINES[format_](trained.record.classes, min(top, len(trained.record.classes)), merge=merge)
    for line in lines.head():
        write(line)
    results = []
    for video in videos:
        result: dict[str, Any] = {"video": str(video), "status": "failed", "problem": None, "note": None}
        kept: list[dict[str, Any]] = []
        windows = VideoWindows(
            video,
            settings.decode,
            codec=settings.codec,
            frames=trained.geometry.frames_read,
            every=every,
            ffmpeg=ffmpeg,
            timeout_seconds=timeout,
        )
        try:
            for line in lines.heading(str(video)):
                write(line)
            with _progress(console, windows, video.name) as told:
                rows = predict_windows(trained, told)
                for row in merge_rows(rows) if merge else rows:
                    write(lines.row(str(video), row))
                    if keep:
                        kept.append(_plain(row, trained.record.classes, top, merge=merge))
            result |= {"status": "damaged" if windows.problem else "ok", "problem": windows.problem}
            notes = [windows.note, padding_note(trained.geometry, windows.num_frames)]
            result["note"] = "; ".join(note for note in notes if note) or None
        except DecodeError as error:
            result["problem"] = str(error)
        result["seconds"] = round(windows.seconds, 3)
        if keep:
            result["segments" if merge else "windows"] = kept
        _tell(result, console)
        results.append(result)
    return results


def _tell(result: dict[str, Any], console: "Console") -> None:
    """Print a video's problem and note, if any."""
    from resact.cache.layout import printable

    if result["problem"]:
        console.print(printable(f"{result['video']}: {result['status']}: {result['problem']}"))
    if result["note"]:
        console.print(printable(f"{result['video']}: note: {result['note']}"))


class _Table:
    """Lines for people."""

    def __init__(self, classes: Sequence[str], top: int, *, merge: bool) -> None:
        self._classes, self._top, self._merge = classes, top, merge

    def head(self) -> Iterable[str]:
        return ()

    def heading(self, video: str) -> Iterable[str]:
        from resact.cache.layout import printable

        return [printable(video)]

    def row(self, video: str, row: "Row") -> str:  # noqa: ARG002 - the heading has it
        from resact.cache.layout import printable
        from resact.train.runs.testing.score_tables import percent

        named = "  ".join(f"{percent(share):>7} {self._classes[place]}" for place, share in row.top(self._top))
        return printable(f"  {_clock(row.start_seconds)} to {_clock(row.stop_seconds)} {named}")


class _Csv(_Table):
    """A line of column names, then one line per row."""

    def head(self) -> Iterable[str]:
        ranked = [f"{what}_{rank}" for rank in range(1, self._top + 1) for what in ("class", "probability")]
        return [_csv_line(["video", "start_seconds", "stop_seconds", *(["windows"] if self._merge else []), *ranked])]

    def heading(self, video: str) -> Iterable[str]:  # noqa: ARG002 - each row has it
        return ()

    def row(self, video: str, row: "Row") -> str:
        ranked = [part for place, share in row.top(self._top) for part in (self._classes[place], f"{share:.6g}")]
        times = [f"{row.start_seconds:.3f}", f"{row.stop_seconds:.3f}", *([row.windows] if self._merge else [])]
        return _csv_line([video, *times, *ranked])


class _JsonLines(_Csv):
    """One JSON object per line."""

    def head(self) -> Iterable[str]:
        return ()

    def row(self, video: str, row: "Row") -> str:
        return json.dumps({"video": video, **_plain(row, self._classes, self._top, merge=self._merge)})


_LINES = {"table": _Table, "csv": _Csv, "jsonl": _JsonLines}


def _plain(row: "Row", classes: Sequence[str], top: int, *, merge: bool) -> dict[str, Any]:
    return {
        "start_seconds": round(row.start_seconds, 3),
        "stop_seconds": round(row.stop_seconds, 3),
        **({"windows": row.windows} if merge else {}),
        "top": [{"class_name": classes[place], "probability": share} for place, share in row.top(top)],
    }


def _csv_line(values: Iterable[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(values)
    return text.getvalue()


def _clock(seconds: float) -> str:
    """`0:01:02.40`."""
    minutes, rest = divmod(round(seconds * 100), 6000)
    return f"{minutes // 60}:{minutes % 60:02}:{rest // 100:02}.{rest % 100:02}"


@contextmanager
def _progress(console: "Console", windows: "VideoWindows", name: str) -> "Iterator[Iterator[Any]]":
    """The windows, with progress as they are taken: a bar on a terminal, otherwise a plain line every few seconds."""
    from time import monotonic

    from resact.cache.layout import printable
    from resact.progress import Figure, PlainLines, ProgressLine, duration

    start, plain = monotonic(), PlainLines(_PLAIN_LINE_SECONDS)
    with ProgressLine(console, printable(name)) as line:

        def told() -> Iterator[Any]:
            for window in windows:
                yield window
                done, length = window.stop_seconds, windows.duration_seconds
                rate = done / max(monotonic() - start, 1e-9)
                figures = [Figure(f"{duration(done)}{f' of {duration(length)}' if length else ''}", 1)]
                figures.append(Figure(f"{rate:,.1f} times real time"))
                if length:
                    figures.append(Figure(f"{duration(max(0.0, length - done) / rate)} left"))
                line.update(done, total=length and max(length, done), figures=figures)
                if not line.live and plain.due():
                    console.print(printable(f"{name}: {', '.join(figure.text for figure in figures)}"))

        yield told()
        line.hide()
