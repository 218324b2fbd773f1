"""Decodes one video to frames: ffmpeg runs as a process, frames come through a pipe, and only one is in memory.

ffmpeg first decodes strictly (`-xerror -err_detect explode`). A video that fails is decoded again as far as ffmpeg can
recover, and is marked damaged: otherwise half an AVI would look like a complete one. The graph is that of an ordinary
video; if the log shows at the first frame that the video needs more filters, ffmpeg is started again. Only at the end
is it known whether the frames were sampled correctly: if not, `OtherSamplingError` says how to start again. Formats and
cost are limited: docs/videos.md.
"""

import fcntl
import os
import signal
import subprocess
import tempfile
from array import array
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from itertools import chain
from pathlib import Path
from threading import Timer
from typing import IO, NoReturn

import numpy as np
import numpy.typing as npt

from resact.cache.settings import FIRST_RULE, DecodeSettings
from resact.errors import DecodeError, ToolError
from resact.pipeline.decoding.ffmpeg_log import FfmpegLog, SourceProperties, Treatment
from resact.pipeline.decoding.filter_graph import Pixels, decode_arguments
from resact.pipeline.decoding.frame_pipe import FramePipe
from resact.pipeline.decoding.frame_times import GridWatch, Sampling, choose, find_stamps, fits
from resact.pipeline.decoding.limits import (
    RESTRICTIONS,
    endless_log,
    ffmpeg_environment,
    limit_process,
    most_frames,
    too_many_frames,
)

_PIPE_BYTES = 1 << 20  # room for a frame, so that ffmpeg need not wait in the middle of one
_MAX_LOG_BYTES = 16 << 20  # that are read; a video with errors in all blocks logs tens of megabytes
_FIRST_LOOK = 32  # frames before the first check of their times; the next check is at twice as many

_CRASHES = {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGSYS}


class FfmpegKilledError(Exception):
    """A signal from outside ended ffmpeg: not the video's fault."""


class OtherSamplingError(Exception):
    """The frames were sampled wrongly: decode again, with `treatment`."""

    def __init__(self, treatment: Treatment) -> None:
        super().__init__("its frames are not those that were expected")
        self.treatment = treatment


class VideoDecoder:
    """One run of ffmpeg over one video. A context manager: leaving it early ends the process.

    Iterating yields uint8 frames, each valid until the next one: (H, W, 3) for `rgb24`; for `yuvj420p` the three planes
    one after another, (H * W * 3 / 2,). `height` and `width` are known from the first frame on.

    Args:
        source: the video.
        settings: as in `decode_arguments`.
        pixels: as in `decode_arguments`.
        strict: as in `decode_arguments`.
        binary: path of ffmpeg.
        timeout_seconds: time limit of the whole run.
        treatment: what the video needs, from an `OtherSamplingError`; default: read from the log.
        live: the frames are used as they come. `timeout_seconds` is then for each frame, there may be any number of
            them, and `OtherSamplingError` comes before the first frame that is not where its time stamp says.
    """

    def __init__(
        self,
        source: Path,
        settings: DecodeSettings,
        pixels: Pixels,
        *,
        strict: bool,
        binary: str,
        timeout_seconds: float,
        treatment: Treatment | None = None,
        live: bool = False,
    ) -> None:
        self.treatment = treatment or Treatment()
        """What the video needs, known from the first frame on."""
        self.properties: SourceProperties | None = None
        """What ffmpeg reported about the source before the first frame."""
        self._live = live
        self._source, self._settings, self._pixels, self._strict = source, settings, pixels, strict
        self._binary, self._timeout_seconds = binary, timeout_seconds
        self._timed_out = False
        self._num_frames = 0
        self._samples = settings.fps != "source" and settings.rule > FIRST_RULE
        self._declared: tuple[Fraction, Fraction] | None = None  # rate, and what time stamps are multiples of
        self._log = _temporary_file()  # closed in __exit__; a pipe would fill up and deadlock
        self._start()
        self._start_timer()

    def _start_timer(self) -> None:
        self._timer = Timer(self._timeout_seconds, self._time_out)
        self._timer.daemon = True
        self._timer.start()

    def _start(self) -> None:
        arguments = decode_arguments(
            os.fspath(self._source), self._settings, self._pixels, strict=self._strict, treatment=self.treatment
        )
        self._process = subprocess.Popen(
            [self._binary, *RESTRICTIONS, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
            bufsize=0,
            env=ffmpeg_environment(),
            start_new_session=True,  # ctrl-C on a terminal must reach us only
        )
        assert self._process.stdout is not None
        self._pipe: IO[bytes] = self._process.stdout
        limit_process(self._process.pid)
        _widen(self._pipe)
        self._frames = FramePipe(self._pipe, self._pixels)

    @property
    def height(self) -> int:
        """Height of the frames; 0 before the first one."""
        return self._frames.height

    @property
    def width(self) -> int:
        """Width of the frames; 0 before the first one."""
        return self._frames.width

    def _stop(self) -> None:
        self._process.kill()
        self._process.wait()
        self._pipe.close()

    def _start_again(self, treatment: Treatment) -> None:
        self._stop()
        self._log.seek(0)
        self._log.truncate()
        self.treatment = treatment
        self._start()
        if self._timed_out:  # the timer has killed the process before this one
            self._process.kill()

    def __enter__(self) -> "VideoDecoder":
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._stop()
        self._log.close()

    def _time_out(self) -> None:
        self._timed_out = True
        self._process.kill()

    def __iter__(self) -> Iterator[npt.NDArray[np.uint8]]:
        while True:
            frames = iter(self._frames)
            first = next(frames, None)
            if first is None:
                self._process.wait()  # its log is complete only at its end
            needed = self._needed(ended=first is None)
            if needed == self.treatment:
                break
            self._start_again(needed)
        found = chain([] if first is None else [first], frames)
        if self._live:
            yield from self._as_they_come(found)
            return
        most, keeps_time = most_frames(self._settings), True
        for frame in found:
            if self._num_frames == most:
                raise too_many_frames(self._settings)
            self._num_frames += 1
            if keeps_time:  # otherwise only the log matters: these frames will be decoded again
                yield frame
                looks = self._num_frames >= _FIRST_LOOK and self._num_frames.bit_count() == 1
                keeps_time = not looks or self._keeps_time()

    def _as_they_come(self, frames: Iterator[npt.NDArray[np.uint8]]) -> Iterator[npt.NDArray[np.uint8]]:
        sampling, rate, watch = self.treatment.sampling, self._declared and self._declared[0], None
        if sampling is not None:
            rate = None if sampling.by_stamps else Fraction(sampling.rate)
        if self._samples and rate is not None and self._declared is not None:
            watch = GridWatch(rate, self._declared[1])
        offset = 0
        for frame in frames:
            self._timer.cancel()  # the time limit does not count while the frame is used
            self._num_frames += 1
            if watch is not None:
                offset = self._read_stamps(offset, watch.stamps)
                if self._num_frames >= _FIRST_LOOK and not watch.fits():
                    assert self._declared is not None
                    better = choose(watch.stamps[:-1], *self._declared)
                    raise OtherSamplingError(replace(self.treatment, keep_last=False, sampling=better))
            yield frame
            self._start_timer()

    def _read_stamps(self, offset: int, into: "array[float]") -> int:
        """Reads the stamps logged since `offset`; returns the offset for the next call."""
        while piece := os.pread(self._log.fileno(), _PIPE_BYTES, offset):
            lines = piece[: piece.rfind(b"\n") + 1]
            if not lines:
                break
            find_stamps(lines, into)
            offset += len(lines)
        return offset

    def _needed(self, *, ended: bool) -> Treatment:
        """What the video needs: from the log, and from before."""
        log, stamps = self._read_log()
        found, known = log.treatment, self.treatment
        midway = known.midway
        if log.unfit and midway is None:
            raise DecodeError(log.unfit)
        self.properties = log.properties
        self._declared = None
        if log.properties is not None and log.properties.fps is not None:
            self._declared = Fraction(log.properties.fps), log.properties.time_base
        needed = replace(found, keep_last=found.keep_last or known.keep_last, sampling=known.sampling, cut=known.cut)
        if midway is not None and (needed != known or not midway.agrees(stamps[:1])):
            raise OtherSamplingError(replace(known, cut=midway.beginning_with(stamps[0] if stamps else None)))
        untimed = log.properties is not None and self._declared is None and known.sampling is None
        if self._samples and untimed and ended and replace(needed, keep_last=known.keep_last) == known:
            return replace(known, sampling=self._choose(log, stamps))  # without a frame rate there are no frames
        return needed

    def _keeps_time(self) -> bool:
        """Whether the frames so far match the declared rate. If not, decoding stops early and starts again."""
        if not self._samples or self.treatment.sampling is not None or self._declared is None or self.treatment.midway:
            return True
        stamps, _ = self._read_lines_logged()
        return fits(stamps[:-1], *self._declared)  # the last one may be the end of the video

    def _choose(self, log: FfmpegLog, stamps: "array[float]") -> Sampling | None:
        properties = log.properties
        assert properties is not None
        if len(stamps) < (log.frames_in or 0):
            raise _unknown_log()
        declared = None if properties.fps is None else Fraction(properties.fps)
        return choose(stamps[: log.frames_in], declared, properties.time_base)

    def finish(self, *, keep_sampling: bool = False) -> tuple[SourceProperties | None, list[str]]:
        """After the last frame: the source's properties, and ffmpeg's complaints.

        Args:
            keep_sampling: keep the frames even if another sampling would be better.

        Returns:
            The properties (None if ffmpeg found no video) and the complaints, sorted because ffmpeg's threads log in
            any order.

        Raises:
            OtherSamplingError: all frames have to be decoded again.
            DecodeError: timeout, a file that may not be opened, frames of several sizes, or a crash of ffmpeg.
            FfmpegKilledError: a signal from outside ended ffmpeg.
            ToolError: the log has nothing about the source: an ffmpeg of an unknown version.
        """
        code = self._process.wait()
        if self._timed_out:
            seconds = f"{self._timeout_seconds:g} s (--timeout)"
            raise DecodeError(f"no frame within {seconds}" if self._live else f"not decoded within {seconds}")
        log, stamps = self._read_log()
        cut = self.treatment.midway
        if cut is not None and (code or log.complaints or not cut.agrees(stamps)):
            raise OtherSamplingError(replace(self.treatment, cut=cut.without_start()))
        if log.unfit and cut is None:
            raise DecodeError(log.unfit)
        if len(log.sizes) > 1:  # ffmpeg would stretch the later ones to the first one's size
            first, second = log.sizes[:2]
            raise DecodeError(
                f"its frames change from {first} to {second} midway: cut it there, or re-encode it to one size"
            )
        number = log.signal or -code
        if number > 0:
            self._tell_of_signal(number)
        if not self._num_frames and not self._strict and log.refusal:  # a strict run is followed by another one
            raise DecodeError(log.refusal)
        if log.properties is None and self.width:
            if os.fstat(self._log.fileno()).st_size > _MAX_LOG_BYTES:
                raise DecodeError("ffmpeg logs too much about it to find what matters: re-encode it")
            raise _unknown_log()
        ended = [f"ffmpeg ended with exit code {code}"] if code > 0 else []
        complaints, properties = sorted([*log.complaints, *ended]), log.properties
        if properties is not None and self._samples and not (complaints and self._strict):
            sampling = self.treatment.sampling
            if sampling is None and cut is None:  # a part was timed by the stamps of all packets
                sampling = self._choose(log, stamps)
            if sampling != self.treatment.sampling and not keep_sampling:
                raise OtherSamplingError(replace(self.treatment, keep_last=False, sampling=sampling))
            if sampling is not None:
                properties = replace(properties, fps=sampling.rate)
        return properties, complaints

    def _tell_of_signal(self, number: int) -> NoReturn:
        name = signal.Signals(number).name if number in list(signal.Signals) else f"signal {number}"
        if number == signal.SIGXFSZ:
            raise endless_log()
        if number in _CRASHES:
            raise DecodeError(
                f"ffmpeg {self._settings.ffmpeg} crashes on it ({name}): re-encode it, or use another ffmpeg with "
                "--ffmpeg PATH"
            )
        raise FfmpegKilledError(name)

    def _read_log(self) -> tuple[FfmpegLog, "array[float]"]:
        stamps, text = self._read_lines_logged()
        return FfmpegLog(text.decode("utf-8", "replace"), self._source, rule=self._settings.rule), stamps

    def _read_lines_logged(self) -> tuple["array[float]", bytearray]:
        """All time stamps, and the rest of the log up to a limit."""
        stamps, kept, rest, offset = array("d"), bytearray(), b"", 0
        # `pread` does not move the file position, which ffmpeg shares.
        while piece := os.pread(self._log.fileno(), _PIPE_BYTES, offset):
            offset += len(piece)
            lines, end, begun = (rest + piece).rpartition(b"\n")
            kept += find_stamps(lines + end, stamps)[: _MAX_LOG_BYTES - len(kept)]
            rest = begun if len(begun) < _PIPE_BYTES else b""
        kept += rest[: _MAX_LOG_BYTES - len(kept)]
        return stamps, kept


def _unknown_log() -> ToolError:
    return ToolError("this ffmpeg does not log what it decodes in a form known to resact: use ffmpeg 5.1 to 7")


def _temporary_file() -> IO[bytes]:
    try:
        return tempfile.TemporaryFile()
    except OSError as error:
        raise ToolError(
            f"ffmpeg's log cannot be written ({error.strerror}): set TMPDIR to a writable folder"
        ) from error


def _widen(pipe: IO[bytes]) -> None:
    # Refused beyond the user's limit for pipes; a smaller pipe only makes more system calls.
    with suppress(PermissionError):
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
