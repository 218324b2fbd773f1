"""Decides when each source frame is shown: on the grid of its frame rate, or by its own time stamp (docs/videos.md).

Containers round time stamps (MKV, WebM and FLV to milliseconds), and the time stamps of cameras jitter. Sampled by such
stamps, 30 to 15 fps would take frames 1, 2, 4, 7 instead of 0, 2, 4, 6. So the filter graph puts frames on the exact
grid of the stream's frame rate, and logs their stamps. At the end, `choose` says whether the grid was right. So an
ordinary video is decoded only once.
"""

import math
import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

STAMP = re.compile(
    rb"(?:\x1b\[[\d;]+m\[Eval @ [^]\n]*\] \x1b\[0m)?(?:\x1b\[0;32m\[verbose\] \x1b\[0m)?"
    rb"\x1b\[0;32m(-?\d+\.\d{6}|-?nan)\n(?:\x1b\[0m)?"
)
"""The graph's message for each frame in the coloured log: its time stamp in microseconds. It may stand in the middle of
a line of another thread, and then without its level."""

_TICKS = 1_000_000  # a second, of the stamps in the graph
_VERBOSE = 40  # AV_LOG_VERBOSE

# Delay of each frame, in frames of the source or of the output, whichever is shorter. With it, no sampling time is at
# the border of two frames for 24, 25, 30, 48, 50, 60, 120, 240 fps to 10, 12, 15, 30: borders are at least 1/24 away.
_DELAY = Fraction(1, 64)

# In source frames.
_GAP = (0.75, 0.625)  # if a frame is later than this, frames are missing; the first value while the phase is uncertain
_UNCERTAIN = 16  # frames
_PHASE_FRAMES = 64  # frames in the running mean of the phase
_SPREAD = 1.0  # largest spread of the stamps around the grid: half a frame to each side
_SPREAD_WITH_GAPS = 0.375  # with gaps less, or two alternating rates would look like one rate with gaps
_CLEAR_SPREAD = 0.5  # up to this, no other rate is tried
_MOST_ROUNDING = 0.25  # largest extra spread for a coarse time base

_LEAST_FRAMES = 16  # with fewer, no other rate than the declared one is chosen
_MOST_FPS = 240  # a higher rate with more gaps than frames is a time base, not a frame rate
_NTSC = (24, 30, 48, 60, 120, 240)  # rates that are also used times 1000/1001


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Timing of a video's frames, if the grid of its declared frame rate does not fit."""

    rate: str
    """Exact frame rate in frames per second; the mean if `by_stamps`."""
    by_stamps: bool
    """The frame rate varies: each frame is shown from its own time stamp on."""


@dataclass(frozen=True)
class GridState:
    """What the filter graph knows of a video after some of its frames."""

    frames: int
    before: float
    """Register 0, the last frame's stamp, in frames."""
    place: float
    """Register 1."""
    phase: float
    """Register 2."""


def setpts_on_grid(fps: str, rate: str | None, *, after: GridState | None = None) -> str:
    """The expression for ffmpeg's `setpts` that puts frames on the grid, and logs their stamps.

    It does the same arithmetic as `_Grid.add`, which explains the registers. At the end ffmpeg evaluates it once more,
    for the end of the last frame.

    Args:
        fps: frame rate of the output.
        rate: frame rate of the source; None for the rate that the stream declares.
        after: frames that are not decoded; None for none.
    """
    source = "FR" if rate is None else f"({rate})"
    number, known = "N", ""
    if after is not None:
        number = f"(N+{after.frames})"
        known = f"if(eq(N,0),st(0,{after.before!r});st(1,{after.place!r});st(2,{after.phase!r}));"
    return (
        f"{known}st(3,PTS*{source}*TB);st(3,if(isnan(ld(3)),ld(2)+ld(1)+1,ld(3)));"
        f"if(eq({number},0),st(1,0);st(2,ld(3)),"
        "if(lt(ld(3),ld(0)),st(1,ld(1)+1);st(2,ld(3)-ld(1)),"
        "st(4,ld(3)-ld(2)-ld(1)-1);"
        f"st(5,if(gt(ld(4),if(lt({number},{_UNCERTAIN}),{_GAP[0]},{_GAP[1]})),floor(ld(4)+0.5),0));"
        f"st(1,ld(1)+1+ld(5));st(2,ld(2)+(ld(4)-ld(5))/min({number}+1,{_PHASE_FRAMES}))));"
        f"st(0,ld(3));print(PTS,{_VERBOSE});"
        f"ld(1)/({source}*TB)+{_DELAY}/(max({source},{fps})*TB)"
    )


def delay_seconds(fps: str, rate: Fraction) -> Fraction:
    """Seconds by which frames on the grid begin late."""
    return _DELAY / max(rate, Fraction(fps))


def setpts_by_stamps(*, origin: int | None = None) -> str:
    """The `setpts` expression for frames that are shown from their own stamps on, counted from the first one.

    If the clock goes back, or a frame has no stamp, the frame gets the same distance from its predecessor as that one
    had.

    Args:
        origin: stamp of the first frame, in ticks, if decoding begins after it and none of this occurs. Stamps are
            logged then.
    """
    if origin is not None:
        return f"{log_stamps()}-({origin})"
    return (
        "st(2,if(gte(PTS,ld(0))*gt(N,0),PTS-ld(0),ld(2)));st(1,if(gt(N,0),ld(1)+ld(2),0));"
        "st(0,if(isnan(PTS),ld(0)+ld(2),PTS));ld(1)"
    )


def log_stamps() -> str:
    """The expression for ffmpeg's `setpts` that leaves the stamps as they are and logs them, in ticks."""
    return f"print(PTS,{_VERBOSE})"


class _Grid:
    """Places of frames on a rate's grid, as the filter graph finds them."""

    def __init__(self, rate: Fraction) -> None:
        self.gaps = 0
        """Number of gaps where frames are missing."""
        self.spread = 0.0
        """Spread of the stamps around their grid positions, in frames: the largest over all stretches of one clock."""
        self._rate = rate.numerator / rate.denominator
        self._count = 0
        self.before = self.phase = 0.0
        """Registers 0 and 2; the phase is where place 0 would be."""
        self._place = 0.0  # register 1
        self._low = self._high = 0.0

    def add(self, stamp: float) -> float:
        """The frame's place, counted from the first frame's."""
        at = stamp * self._rate * (1 / _TICKS)
        if math.isnan(at):
            at = self.phase + self._place + 1
        if self._count == 0:
            self._place, self.phase = 0.0, at
            self._low = self._high = at
        elif at < self.before:  # the clock starts again
            self._place, self.phase = self._place + 1, at - self._place
            self._low = self._high = at - self._place
        else:
            behind = at - self.phase - self._place - 1
            gap = math.floor(behind + 0.5) if behind > _GAP[self._count >= _UNCERTAIN] else 0
            self._place += 1 + gap
            self.phase += (behind - gap) / min(self._count + 1, _PHASE_FRAMES)
            self.gaps += gap > 0
        self.before = at
        self._count += 1
        off = at - self._place
        self._low, self._high = min(self._low, off), max(self._high, off)
        self.spread = max(self.spread, self._high - self._low)
        return self._place


def grid_registers(stamps: Sequence[float], rate: Fraction) -> npt.NDArray[np.float64]:
    """(N, 3) registers 0, 1 and 2 of the filter graph after each frame; register 1 is its place on the grid.

    Args:
        stamps: time stamps in microseconds; NaN for a frame without one.
        rate: frame rate, in frames per second.
    """
    grid, registers = _Grid(rate), np.empty((len(stamps), 3))
    for row, stamp in zip(registers, stamps, strict=True):
        place = grid.add(stamp)
        row[:] = grid.before, place, grid.phase
    return registers


def fits(stamps: Sequence[float], rate: Fraction, time_base: Fraction) -> bool:
    """Whether the stamps of all frames, or of all frames so far, match the grid of a frame rate.

    If they do not fit now, they will not fit with more frames.

    Args:
        stamps: microseconds, as they were logged.
        rate: frame rate that the stream declares.
        time_base: seconds that the container's stamps are whole multiples of.
    """
    return _is_near(_fit(stamps, rate), rate, time_base)


class GridWatch:
    """Watches whether frames match the grid of a frame rate while they come: like `fits`, without starting over each
    time.

    Args:
        rate: frames a second.
        time_base: seconds that the container's stamps are whole multiples of.
    """

    def __init__(self, rate: Fraction, time_base: Fraction) -> None:
        self.stamps = array("d")
        """Time stamps in microseconds, as logged; append new ones here."""
        self._rate, self._time_base, self._seen = rate, time_base, 0
        self._grid = _Grid(rate)

    def fits(self) -> bool:
        """Whether all stamps so far match, except the last, which may be the end of the video."""
        for stamp in self.stamps[self._seen : -1]:
            self._grid.add(stamp)
            self._seen += 1
        return _is_near(_Fit(self._grid.spread, self._grid.gaps, self._seen), self._rate, self._time_base)


def choose(stamps: Sequence[float], declared: Fraction | None, time_base: Fraction) -> Sampling | None:
    """How to time the frames, given all stamps; None if the grid of the declared frame rate is best.

    Args:
        stamps: microseconds, as they were logged.
        declared: declared frames per second; None if the stream does not say.
        time_base: seconds that the container's stamps are whole multiples of.
    """
    fit = _fit(stamps, declared) if declared else None
    if declared and fit and _is_clear(fit, declared, time_base):
        return None
    for rate in _constant_rates(stamps):
        other = _fit(stamps, rate)
        if not other.gaps and _is_clear(other, rate, time_base):
            return Sampling(rate=str(rate), by_stamps=False)
    if declared and fit and _is_near(fit, declared, time_base) and not _is_time_base(fit, declared):
        return None
    return Sampling(rate=str(_mean_rate(stamps) or declared or 1), by_stamps=True)


@dataclass(frozen=True)
class _Fit:
    """How well stamps match the grid of a rate."""

    spread: float
    gaps: int
    frames: int


def _fit(stamps: Sequence[float], rate: Fraction) -> _Fit:
    at = np.asarray(stamps) * float(rate) / _TICKS - np.arange(len(stamps))
    spread = float(np.ptp(at)) if len(stamps) else 0.0
    if spread < _GAP[1] and (np.diff(stamps) >= 0).all():  # no gaps: the same result as `_Grid`, but faster
        return _Fit(spread, 0, len(stamps))
    grid = _Grid(rate)
    for stamp in stamps:
        grid.add(stamp)
    return _Fit(grid.spread, grid.gaps, len(stamps))


def _is_near(fit: _Fit, rate: Fraction, time_base: Fraction) -> bool:
    return fit.spread <= (_SPREAD_WITH_GAPS + _rounding(rate, time_base) if fit.gaps else _SPREAD)


def _is_clear(fit: _Fit, rate: Fraction, time_base: Fraction) -> bool:
    """Whether the match is so close that no other rate needs to be tried."""
    spread = _SPREAD_WITH_GAPS if fit.gaps else _CLEAR_SPREAD
    return fit.spread <= spread + _rounding(rate, time_base) and not _is_time_base(fit, rate)


def _is_time_base(fit: _Fit, rate: Fraction) -> bool:
    return rate > _MOST_FPS and 2 * fit.gaps > fit.frames


def _rounding(rate: Fraction, time_base: Fraction) -> float:
    return min(float(rate * time_base), _MOST_ROUNDING)


def _constant_rates(stamps: Sequence[float]) -> list[Fraction]:
    """Possible frame rates: usual rates next to an estimate, the nearest first, and the estimate itself."""
    known = np.asarray(stamps)
    if len(known) < _LEAST_FRAMES or not (np.diff(known) > 0).all():
        return []
    slope = float(np.polyfit(np.arange(len(known)), known - known[0], 1)[0])
    estimate = Fraction(round(_TICKS / slope * _TICKS), _TICKS)
    whole = Fraction(round(estimate))
    usual = [whole, whole * 1000 / 1001] if whole in _NTSC else [whole]
    return [rate for rate in (*sorted(usual, key=lambda rate: abs(rate - estimate)), estimate) if rate > 0]


def _mean_rate(stamps: Sequence[float]) -> Fraction | None:
    known = np.asarray(stamps)
    steps = np.diff(known[~np.isnan(known)])
    shown = steps[steps > 0]
    return Fraction(round(len(shown) * _TICKS / float(shown.sum()) * 1000), 1000) if len(shown) else None


def find_stamps(log: bytes, into: "array[float]") -> bytes:
    """Extract the logged stamps from a part of ffmpeg's log that consists of complete lines.

    Returns:
        The rest of the log.
    """
    into.extend(float(stamp) for stamp in STAMP.findall(log))
    return STAMP.sub(b"", log)
