"""A run's predictions along a video: for each window, and for segments of windows with the same class.

Shapes: T frames, H height, W width, C classes.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from resact.errors import DecodeError
from resact.train.clips.packed_clips import PackedClips
from resact.train.clips.sampling import centre_clip
from resact.train.clips.transform import transform_batch
from resact.train.runs.testing.metrics import ranking, video_scores
from resact.train.runs.testing.predictions import require_finite
from resact.train.runs.testing.trained import TrainedRun

_ON_GPU = 8  # windows at a time


class Window(Protocol):
    """A stretch of a video."""

    @property
    def start_seconds(self) -> float:
        """Start of its first frame, in seconds."""

    @property
    def stop_seconds(self) -> float:
        """End of its last frame, in seconds."""

    @property
    def frames(self) -> npt.NDArray[np.uint8]:
        """(T, H, W, 3)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """The prediction for a window or a segment."""

    start_seconds: float
    stop_seconds: float
    windows: int
    """Number of windows that it was made of."""
    scores: npt.NDArray[np.float64]
    """(C,) probabilities; for a segment, the mean over its windows."""

    def top(self, count: int) -> list[tuple[int, float]]:
        """The most likely classes and their probabilities; of equal ones the earlier class first."""
        return [(int(place), float(self.scores[place])) for place in ranking(self.scores[None])[0, :count]]


def predict_windows(trained: TrainedRun, windows: Iterable[Window]) -> Iterator[Row]:
    """Predict each window from its centre crop, as in testing. On a GPU, several at a time.

    Args:
        trained: the run.
        windows: each has `trained.geometry.frames_read` frames at the frame rate of the run's store, or all frames of a
            shorter video, which are extended as in training.

    Raises:
        DecodeError: raised by `windows`, after the rows so far; or a window has no two frames one step apart.
        DivergedError: the network's logits are not finite.
    """
    size = _batch_size(trained)
    batch: list[Window] = []
    failure: DecodeError | None = None
    source = iter(windows)
    while failure is None:
        try:
            window = next(source, None)
        except DecodeError as error:  # what came before is good
            window, failure = None, error
        if window is not None:
            batch.append(window)
        if batch and (window is None or len(batch) == size):
            yield from _rows(trained, batch)
            batch = []
        if window is None and failure is None:
            return
    raise failure


def merge_rows(rows: Iterable[Row]) -> Iterator[Row]:
    """Join neighbouring windows with the same most likely class into segments; each is yielded when another class
    follows.

    First, a window's scores are averaged with those of the windows that overlap at least half of it, so that a single
    wrong window makes no segment. A window stands for its middle, so a border is half-way between the middles of its
    two windows. The first segment starts with the first window, and the last one ends with the last.

    Raises:
        DecodeError: raised by `rows`, after the segment in which they broke off.
    """
    segment: _Segment | None = None
    try:
        for row in _smoothed(rows):
            if segment is not None and segment.label == row.top(1)[0][0]:
                segment.add(row)
                continue
            start = row.start_seconds
            if segment is not None:
                start = (segment.middle + _middle(row)) / 2
                yield segment.as_row(start)
            segment = _Segment(row, start)
    except DecodeError:
        if segment is not None:
            yield segment.as_row(segment.stop)
        raise
    if segment is not None:
        yield segment.as_row(segment.stop)


def _smoothed(rows: Iterable[Row]) -> Iterator[Row]:
    """The rows with mean scores, each as soon as no window that shares half of it can follow."""
    held: deque[Row] = deque()
    waiting = 0  # of those held, the last ones, which are not yielded yet
    failure: DecodeError | None = None
    try:
        for row in rows:
            held.append(row)
            waiting += 1
            while not _share_half(held[-waiting], row):
                yield _mean(held[-waiting], held)
                waiting -= 1
            while not _share_half(held[0], held[-waiting]):
                held.popleft()
    except DecodeError as error:
        failure = error
    for place in range(len(held) - waiting, len(held)):
        yield _mean(held[place], held)
    if failure is not None:
        raise failure


def _share_half(one: Row, other: Row) -> bool:
    length = one.stop_seconds - one.start_seconds
    return abs(_middle(other) - _middle(one)) <= length / 2 + 1e-9


def _mean(row: Row, held: Iterable[Row]) -> Row:
    return replace(row, scores=np.mean([other.scores for other in held if _share_half(row, other)], axis=0))


class _Segment:
    """Windows of one class, as they come."""

    def __init__(self, row: Row, start: float) -> None:
        self.label, self._start = row.top(1)[0][0], start
        self._windows, self._sum = 0, np.zeros_like(row.scores)
        self.add(row)

    def add(self, row: Row) -> None:
        self._windows += 1
        self._sum += row.scores
        self.middle, self.stop = _middle(row), row.stop_seconds

    def as_row(self, stop: float) -> Row:
        return Row(
            start_seconds=self._start, stop_seconds=stop, windows=self._windows, scores=self._sum / self._windows
        )


def _batch_size(trained: TrainedRun) -> int:
    return _ON_GPU if trained.device.type == "cuda" else 1  # a CPU gains nothing, and each row comes at once


def _middle(row: Row) -> float:
    return (row.start_seconds + row.stop_seconds) / 2


def _rows(trained: TrainedRun, batch: list[Window]) -> Iterator[Row]:
    geometry = trained.geometry
    for window in batch:
        if "residual" in geometry.streams and len(window.frames) <= geometry.step:
            raise DecodeError(
                f"too short: {len(window.frames)} frames, and a residual is of two frames that are "
                f"{geometry.step} apart"
            )
    frames = torch.cat([torch.from_numpy(window.frames).flatten() for window in batch]).to(trained.device)
    sizes = [window.frames.size for window in batch]
    shapes = [window.frames.shape[:3] for window in batch]
    packed = PackedClips(
        frames=frames,
        offsets=[0, *accumulate(sizes[:-1])],
        heights=[height for _, height, _ in shapes],
        widths=[width for _, _, width in shapes],
        clips=[centre_clip(geometry, *shape) for shape in shapes],
    )
    clips = transform_batch(packed, geometry, trained.record.normalisation)
    logits_BC = trained.logits(clips).cpu().numpy()
    require_finite(logits_BC[:, None], [f"the window at {window.start_seconds:g} s" for window in batch])
    for window, scores in zip(batch, video_scores(logits_BC[:, None]), strict=True):
        yield Row(start_seconds=window.start_seconds, stop_seconds=window.stop_seconds, windows=1, scores=scores)
