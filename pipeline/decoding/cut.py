"""The part of a video to decode, and where decoding starts: at the last key frame before it, if known.

The frames are those that a decode of the whole video gives there. Where decoding begins in the middle, the filter graph
is given what it would know by then, and what it logs has to agree with the time stamps of all packets; where it does
not, all of the video is decoded, and the part is taken out.
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
"""Frames that decoding begins earlier than needed, for filters that look at the frames around one."""
_AFTER_KEY = 500  # microseconds that are sought behind a key frame, for time stamps that are rounded


@dataclass(frozen=True)
class Start:
    """The frame that decoding begins with."""

    index: int
    """Among the video's frames."""
    seconds: str | None
    """Seek position for ffmpeg, in seconds; None for no seek."""
    state: GridState | None
    """State of the filter graph at that point; None without one, or if frames are shown by their own stamps."""


@dataclass(frozen=True, eq=False)
class Timeline:
    """When each frame of a video is shown, from its packets, without decoding them."""

    ticks: npt.NDArray[np.int64]
    """(N,) time stamps, sorted."""
    time_base: Fraction
    """Seconds of a tick."""
    keys: npt.NDArray[np.int64]
    """Indices of frames that decoding can begin with."""

    @cached_property
    def stamps(self) -> npt.NDArray[np.float64]:
        """(N,) in microseconds, rounded as ffmpeg does."""
        numerator, denominator = (self.time_base * _TICKS).as_integer_ratio()
        scaled = self.ticks * numerator
        rounded = np.sign(scaled) * ((2 * np.abs(scaled) + denominator) // (2 * denominator))
        stamps: npt.NDArray[np.float64] = rounded.astype(np.float64)
        return stamps


@dataclass(frozen=True)
class Cut:
    """A part of a video, as the filter graph needs it."""

    first: int
    """Frame at the stored rate; of `source`, microseconds after the first frame."""
    stop: int | None
    """Likewise; None for the video's end."""
    start: Start | None = None
    """None to decode all frames."""
    origin: int = 0
    """Ticks of the video's first frame; only where `start` is given."""
    end_ticks: int | None = None
    """Of `source`, stamp of a frame behind the part; None where there is none."""
    logged: tuple[float, ...] = field(default=(), repr=False, compare=False)
    """Stamps of all frames as the graph logs them; only where `start` is given."""
    _seeking: "_Seeking | None" = field(default=None, repr=False, compare=False)

    @classmethod
    def whole(cls, segment: Segment, settings: DecodeSettings) -> Self:
        """To be taken out of all of its video's frames."""
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
        """To be taken out of all frames."""
        return Cut(self.first, self.stop)

    def beginning_with(self, stamp: float | None) -> "Cut":
        """The same where decoding turns out to begin with another frame; None for one without a stamp."""
        if self._seeking is None or stamp is None:
            return self.without_start()
        return self._seeking.cut(self.without_start(), stamp=stamp)

    def agrees(self, logged: Sequence[float]) -> bool:
        """Whether frames with these stamps are those that it was planned for."""
        assert self.start is not None
        known = self.logged[self.start.index :][: len(logged)]
        # The last of several may be where the last frame ends, which is asked for, too.
        sure = max(len(logged) - 1, 1)
        return list(known[:sure]) == list(logged[:sure]) and len(logged) > 0


@dataclass(frozen=True, eq=False)
class _Seeking:
    """What it takes to begin in the middle."""

    timeline: Timeline
    settings: DecodeSettings
    by_stamps: bool
    registers: npt.NDArray[np.float64]
    last: int
    """Index of the first frame that is needed."""
    target: int | None = None
    """Index of the key frame that is sought; None until it is chosen."""

    def cut(self, cut: Cut, *, stamp: float | None = None) -> Cut:
        """`cut`, from the key frame on that is sought or, where it is given, from the frame with that stamp on."""
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
        cut: of the part, as it is taken out of all frames.
        segment: the part.
        timeline: of the video.
        settings: as in `decode_arguments`.
        sampling: how its frames are timed.
        declared: rate of the stream.

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
    """Why a part is not one of a video of that length; None where it is."""
    if Fraction(segment.start) >= seconds:
        return f"it begins at {segment.start} s, and its video ends at {float(seconds):.3f} s"
    if segment.end is not None and Fraction(segment.end) > seconds + TOLERANCE_SECONDS:
        return f"it ends at {segment.end} s, and its video at {float(seconds):.3f} s"
    return None
