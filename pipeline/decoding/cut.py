"""The part of a video to decode, and where decoding starts: at the last key frame before it, if known.

The frames equal those from decoding the whole video. If decoding starts in the middle, the filter graph gets the state
that it would have by then, and its log must agree with the time stamps of all packets. If not, the whole video is
decoded, and the part is cut out.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from typing import Self

import numpy as np
import numpy.typing as npt

from resact.cache.layout import Segment
from resact.cache.settings import DecodeSettings
from resact.errors import DecodeError
from resact.pipeline.decoding.frame_times import GridState, Sampling, delay_seconds, grid_registers

TOLERANCE_SECONDS = Fraction(1, 10)
"""Time by which a part may end after its video, as annotations are rounded."""

_TICKS = 1_000_000
_BEFORE = 2
"""Extra frames at the start, for filters that look at neighbouring frames."""
_AFTER_KEY = 500  # microseconds after a key frame at which ffmpeg seeks, because time stamps are rounded


@dataclass(frozen=True)
class Start:
    """The frame with which decoding starts."""

    index: int
    """Index of the frame in the video."""
    seconds: str | None
    """Seek position for ffmpeg, in seconds; None for no seek."""
    state: GridState | None
    """State of the filter graph at that point; None without one, or if frames are shown by their own stamps."""


@dataclass(frozen=True, eq=False)
class Timeline:
    """The time of each frame of a video, from its packets, without decoding them."""

    ticks: npt.NDArray[np.int64]
    """(N,) time stamps, sorted."""
    time_base: Fraction
    """Length of a tick, in seconds."""
    keys: npt.NDArray[np.int64]
    """Indices of frames at which decoding can start."""

    @cached_property
    def stamps(self) -> npt.NDArray[np.float64]:
        """(N,) time stamps in microseconds, rounded as in ffmpeg."""
        numerator, denominator = (self.time_base * _TICKS).as_integer_ratio()
        scaled = self.ticks * numerator
        rounded = np.sign(scaled) * ((2 * np.abs(scaled) + denominator) // (2 * denominator))
        stamps: npt.NDArray[np.float64] = rounded.astype(np.float64)
        return stamps


@dataclass(frozen=True)
class Cut:
    """A part of a video, in the form for the filter graph."""

    first: int
    """First frame at the stored frame rate; for `source`, microseconds after the video's first frame."""
    stop: int | None
    """Frame after the last one, in the same unit; None for the video's end."""
    start: Start | None = None
    """Where decoding starts; None to decode all frames."""
    origin: int = 0
    """Time stamp of the video's first frame, in ticks; only with `start`."""
    end_ticks: int | None = None
    """For `source`, time stamp of a frame after the part; None if there is none."""
    logged: tuple[float, ...] = field(default=(), repr=False, compare=False)
    """Time stamps of all frames as the graph logs them; only with `start`."""
    _seeking: "_Seeking | None" = field(default=None, repr=False, compare=False)

    @classmethod
    def whole(cls, segment: Segment, settings: DecodeSettings) -> Self:
        """A part to cut out of all frames of its video."""
        start, end = Fraction(segment.start), None if segment.end is None else Fraction(segment.end)
        if settings.max_seconds is not None:
            longest = start + Fraction(repr(settings.max_seconds))
            end = longest if end is None else min(end, longest)
        if settings.fps == "source":
            return cls(math.ceil(start * _TICKS), None if end is None else math.ceil(end * _TICKS))
        rate = Fraction(settings.fps)
        # Frame k is the one shown at (k + 1/2) / rate.
        first = math.ceil(start * rate - Fraction(1, 2))
        return cls(first, None if end is None else max(math.ceil(end * rate - Fraction(1, 2)), first + 1))

    def without_start(self) -> "Cut":
        """The same part, to cut out of all frames."""
        return Cut(self.first, self.stop)

    def beginning_with(self, stamp: float | None) -> "Cut":
        """The same part, if decoding turns out to start with another frame; None for a frame without a stamp."""
        if self._seeking is None or stamp is None:
            return self.without_start()
        return self._seeking.cut(self.without_start(), stamp=stamp)

    def agrees(self, logged: Sequence[float]) -> bool:
        """Whether the logged stamps are those that the plan expects."""
        assert self.start is not None
        known = self.logged[self.start.index :][: len(logged)]
        # ffmpeg also logs the end of the last frame, so the last of several stamps may be no frame's.
        sure = max(len(logged) - 1, 1)
        return list(known[:sure]) == list(logged[:sure]) and len(logged) > 0


@dataclass(frozen=True, eq=False)
class _Seeking:
    """What is needed to start decoding in the middle."""

    timeline: Timeline
    settings: DecodeSettings
    by_stamps: bool
    registers: npt.NDArray[np.float64]
    last: int
    """Index of the first frame that is needed."""
    target: int | None = None
    """Index of the key frame to seek; None until it is chosen."""

    def cut(self, cut: Cut, *, stamp: float | None = None) -> Cut:
        """`cut`, with decoding from the target key frame, or from the frame with the given stamp."""
        logged = self.timeline.ticks.astype(np.float64) if self._logs_ticks else self.timeline.stamps
        target = self.target
        if target is None:
            keys = self.timeline.keys[self.timeline.keys <= self.last - _BEFORE]
            target = int(keys[-1]) if len(keys) else 0
        begin = target if stamp is None else int(np.searchsorted(logged, stamp))
        if begin > self.last or (stamp is not None and logged[begin] != stamp):
            return cut
        stamps, seconds = self.timeline.stamps, None
        if target:
            behind = min(_AFTER_KEY, (stamps[target + 1] - stamps[target]) / 2)
            seconds = f"{(stamps[target] + behind) / _TICKS:.6f}"
        state = None
        if not self._logs_ticks and begin:
            before, place, phase = self.registers[begin - 1]
            state = GridState(begin, float(before), float(place), float(phase))
        return replace(
            cut,
            start=Start(begin, seconds, state),
            origin=int(self.timeline.ticks[0]),
            end_ticks=self._end_ticks(cut),
            logged=tuple(logged.tolist()),
            _seeking=replace(self, target=target),
        )

    def _end_ticks(self, cut: Cut) -> int | None:
        if self.settings.fps != "source" or cut.stop is None:
            return None
        ticks = self.timeline.ticks
        behind = ticks[(ticks - ticks[0]) * float(self.timeline.time_base * _TICKS) > cut.stop]
        return int(behind[0]) if len(behind) else None

    @property
    def _logs_ticks(self) -> bool:
        return self.by_stamps or self.settings.fps == "source"


def plan_cut(
    cut: Cut,
    segment: Segment,
    timeline: Timeline,
    settings: DecodeSettings,
    *,
    sampling: Sampling | None,
    declared: Fraction,
) -> Cut:
    """Plan where decoding starts for a part.

    Args:
        cut: the part, cut out of all frames.
        segment: the part.
        timeline: timeline of the video.
        settings: as in `decode_arguments`.
        sampling: timing of its frames.
        declared: declared frame rate of the stream.

    Raises:
        DecodeError: the part lies outside the video.
    """
    rate = declared if sampling is None else Fraction(sampling.rate)
    by_stamps = sampling is not None and sampling.by_stamps
    since_first = timeline.ticks - timeline.ticks[0]
    registers = np.empty((0, 3))
    if settings.fps == "source" or by_stamps:
        seconds = [int(tick) * timeline.time_base for tick in since_first[-2:]]
        length = seconds[-1] + (seconds[-1] - seconds[0] if len(seconds) > 1 else 1 / rate)
    else:
        registers = grid_registers(timeline.stamps.tolist(), rate)
        length = (int(registers[-1, 1]) + 1) / rate
    if settings.fps == "source":
        shown = since_first * float(timeline.time_base * _TICKS) + 0.5
    elif by_stamps:
        shown = since_first * float(timeline.time_base * Fraction(settings.fps)) + 0.5
    else:
        delay = float(delay_seconds(settings.fps, rate))
        shown = (registers[:, 1] / float(rate) + delay) * float(Fraction(settings.fps)) + 0.5
    if problem := outside(segment, length):
        raise DecodeError(problem)
    last = max(int(np.searchsorted(shown, cut.first, side="right")) - 1, 0)
    return _Seeking(timeline, settings, by_stamps, registers, max(last - 1, 0)).cut(cut)


def outside(segment: Segment, seconds: Fraction) -> str | None:
    """Why a part does not lie inside a video of that length; None if it does."""
    if Fraction(segment.start) >= seconds:
        return f"it begins at {segment.start} s, and its video ends at {float(seconds):.3f} s"
    if segment.end is not None and Fraction(segment.end) > seconds + TOLERANCE_SECONDS:
        return f"it ends at {segment.end} s, and its video at {float(seconds):.3f} s"
    return None
