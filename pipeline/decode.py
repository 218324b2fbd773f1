"""One video to frames: ffmpeg in a process of its own, frames through a pipe, never more than one in memory.

ffmpeg first decodes strictly (`-xerror -err_detect explode`). A video that fails so is decoded again as far as ffmpeg
can recover, and is called damaged: half an AVI otherwise looks like a whole one.
"""

import fcntl
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from threading import Timer
from typing import IO, Literal

import ffmpeg
import imageio_ffmpeg
import numpy as np
import numpy.typing as npt

from resact.cache.settings import DecodeSettings
from resact.errors import DecodeError, ToolError, UsageError

Pixels = Literal["rgb24", "yuvj420p"]
"""RGB, or full-range 4:2:0 planes in the colours that JPEG fixes (BT.601)."""

_PIPE_BYTES = 1 << 20  # a frame fits, so that ffmpeg need not wait for us in the middle of one
_MAX_LOG_BYTES = 8 << 20  # of ffmpeg's log, a video broken at each macroblock writes tens of megabytes

_GRAPH_INPUT = re.compile(r"graph \S+ input from stream \S+ .*?w:(\d+) h:(\d+) .*?fr:(\d+)/(\d+)")
_SCALED = re.compile(r"Parsed_scale_\d+ .*-> w:(\d+) h:(\d+)")
_SIGNALLED = re.compile(r"received signal (\d+)")
_DURATION = re.compile(r"Duration: (\d+):(\d+):(\d+\.\d+)")
_COMPLAINT = re.compile(r"\[(?:error|fatal|panic)\] (.*)")
_ADDRESS = re.compile(r" @ 0x[0-9a-f]+")


@dataclass(frozen=True, kw_only=True)
class SourceProperties:
    """What ffmpeg says of a video before scaling."""

    width: int
    height: int
    fps: str | None
    """Exact fraction, such as `30000/1001`; None where ffmpeg does not know it."""
    duration_seconds: float | None
    """As the container says; None where it does not."""


class FfmpegKilledError(Exception):
    """A signal that was not ours ended ffmpeg: nothing that the video is to blame for."""


@lru_cache
def find_ffmpeg(binary: str | None = None) -> tuple[str, str]:
    """Ffmpeg's path and version.

    Args:
        binary: a path or a name on PATH; None for the one that the `imageio-ffmpeg` wheel brings.

    Raises:
        ToolError: it is not there or does not run.
    """
    path = binary or imageio_ffmpeg.get_ffmpeg_exe()
    try:
        first = subprocess.run([path, "-version"], capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise ToolError(f"ffmpeg does not run ({error}): pass --ffmpeg PATH, or reinstall imageio-ffmpeg") from None
    match = re.match(r"ffmpeg version (\S+)", first)
    if match is None:
        raise ToolError(f"{path} is not ffmpeg (it says {first[:60]!r}): pass --ffmpeg PATH")
    return path, match[1]


def decode_arguments(source: str, settings: DecodeSettings, pixels: Pixels, *, strict: bool) -> list[str]:
    """Ffmpeg's arguments, its own name apart.

    Args:
        source: path of the video.
        settings: frame rate, short side, scaler, length.
        pixels: what the frames are made of.
        strict: stop at the first thing that is wrong.
    """
    inputs: dict[str, object] = {"threads": 1, "protocol_whitelist": "file,pipe"}
    if settings.max_seconds is not None:
        inputs["t"] = repr(settings.max_seconds)
    if strict:
        inputs["err_detect"] = "explode"
    # `V`: a cover picture is not a video.
    video = ffmpeg.input("source", **inputs)["V:0"]
    if settings.fps != "source":
        video = video.filter("fps", fps=settings.fps)
    side = settings.short_side
    scale = {"w": f"if(lte(iw,ih),{side},-2)", "h": f"if(lte(iw,ih),-2,{side})", "flags": settings.scaler}
    output = {"fps_mode": "passthrough", "pix_fmt": pixels}
    if pixels == "rgb24":
        output |= {"format": "image2pipe", "vcodec": "ppm"}
    else:
        # Without `bitexact` the planes, unlike RGB frames, depend on what vector instructions the processor has.
        scale |= {"flags": f"{settings.scaler}+bitexact", "out_range": "pc", "out_color_matrix": "bt601"}
        output |= {"format": "yuv4mpegpipe", "strict": "-1"}
    stream = ffmpeg.output(video.filter("scale", **scale), "pipe:1", **output).global_args(
        "-nostdin", "-hide_banner", "-loglevel", "repeat+level+verbose", "-filter_threads", "1",
        "-filter_complex_threads", "1", *(["-xerror"] if strict else []),
    )  # fmt: skip
    arguments = list(ffmpeg.get_args(stream))
    # `file:` keeps colons and leading dashes in names from meaning anything. ffmpeg-python takes only names in UTF-8.
    arguments[arguments.index("-i") + 1] = f"file:{source}"
    return arguments


class VideoDecoder:
    """One run of ffmpeg over one video. A context manager: left early, it leaves no process behind.

    Iterating gives uint8 frames that are valid until the next one: (H, W, 3) for `rgb24`; for `yuvj420p` the planes
    one behind the other as (H * W * 3 / 2,), with `height` and `width` known from the first frame on.

    Args:
        source: the video.
        settings: as in `decode_arguments`.
        pixels: likewise.
        strict: likewise.
        binary: ffmpeg.
        timeout_seconds: for the whole run.
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
    ) -> None:
        self.height = self.width = 0
        self._source, self._timeout_seconds = source, timeout_seconds
        self._timed_out = False
        self._pixels = pixels
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__; a pipe would fill up and deadlock
        arguments = decode_arguments(os.fspath(source), settings, pixels, strict=strict)
        self._process = subprocess.Popen(
            [binary, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
            bufsize=0,
            start_new_session=True,  # a terminal's ctrl-C is for us to act on
        )
        assert self._process.stdout is not None
        self._pipe: IO[bytes] = self._process.stdout
        _widen(self._pipe)
        self._timer = Timer(timeout_seconds, self._time_out)
        self._timer.daemon = True
        self._timer.start()

    def __enter__(self) -> "VideoDecoder":
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._process.kill()
        self._process.wait()
        self._pipe.close()
        self._log.close()

    def _time_out(self) -> None:
        self._timed_out = True
        self._process.kill()

    def __iter__(self) -> Iterator[npt.NDArray[np.uint8]]:
        return self._planes() if self._pixels == "yuvj420p" else self._rgb()

    def _rgb(self) -> Iterator[npt.NDArray[np.uint8]]:
        """PPM images, one behind the other: three lines, then the pixels."""
        header = self._read_lines(3)
        if header:
            self.width, self.height = (int(number) for number in header.split()[1:3])
            shape = (self.height, self.width, 3)
            yield from (frame.reshape(shape) for frame in self._frames(header, self.height * self.width * 3, read=True))

    def _planes(self) -> Iterator[npt.NDArray[np.uint8]]:
        """YUV4MPEG2: a line for the stream, then for each frame a line and its planes."""
        header = self._read_lines(1)
        if header:
            fields = {text[:1]: text[1:] for text in header.decode("ascii").split()[1:]}
            self.width, self.height = int(fields["W"]), int(fields["H"])
            yield from self._frames(b"FRAME\n", self.height * self.width * 3 // 2, read=False)

    def _frames(self, header: bytes, size: int, *, read: bool) -> Iterator[npt.NDArray[np.uint8]]:
        """Frames of `size` bytes, each behind the same header; `read` says that the first one's has been read."""
        buffer = np.empty(len(header) + size, np.uint8)
        frame = buffer[len(header) :]
        if read and not self._fill(frame.data):
            return
        if read:
            yield frame
        while self._fill(buffer.data):
            if buffer[: len(header)].tobytes() != header:
                raise ToolError("this ffmpeg writes frames in a form unknown to resact: use ffmpeg 5.1 to 7")
            yield frame

    def _read_lines(self, count: int) -> bytes:
        """The stream's first lines; empty where it ends before."""
        lines = bytearray()
        while lines.count(b"\n") < count:
            byte = self._pipe.read(1)
            if not byte:
                return b""
            lines += byte
        return bytes(lines)

    def _fill(self, buffer: memoryview) -> bool:
        """Read as many bytes as fit; False where the stream ends before."""
        done = 0
        while done < len(buffer):
            count = self._pipe.readinto(buffer[done:])  # type: ignore[attr-defined]
            if not count:
                return False
            done += count
        return True

    def finish(self) -> tuple[SourceProperties | None, list[str]]:
        """After the last frame: what the source is, and what ffmpeg complained of.

        Returns:
            None where ffmpeg found no video, and complaints, sorted because ffmpeg's threads log in any order.

        Raises:
            DecodeError: out of time, or frames of more than one size.
            FfmpegKilledError: a signal ended ffmpeg.
            ToolError: a log that says nothing of the source, of an ffmpeg too unlike those we know.
        """
        code = self._process.wait()
        if self._timed_out:
            raise DecodeError(f"not decoded within {self._timeout_seconds:g} s (--timeout)")
        self._log.seek(0)
        log = self._log.read(_MAX_LOG_BYTES).decode("utf-8", "replace")
        sizes = list(dict.fromkeys(f"{width}x{height}" for width, height in _SCALED.findall(log)))
        if len(sizes) > 1:  # ffmpeg would stretch the later ones to the first one's size
            raise DecodeError(
                f"its frames change from {sizes[0]} to {sizes[1]} midway: cut it there, or re-encode it to one size"
            )
        asked_to_end = _SIGNALLED.search(log)  # SIGTERM and SIGINT, which ffmpeg obeys and calls "exiting normally"
        if code < 0 or asked_to_end:
            raise FfmpegKilledError(signal.Signals(int(asked_to_end[1]) if asked_to_end else -code).name)
        complaints = {self._anonymous(match[0]) for match in map(_COMPLAINT.search, log.splitlines()) if match}
        inputs = _GRAPH_INPUT.findall(log)
        if not inputs and self.width:
            raise ToolError("this ffmpeg does not log what it decodes in a form known to resact: use ffmpeg 5.1 to 7")
        if code > 0:
            complaints.add(f"ffmpeg ended with exit code {code}")
        if not inputs:
            return None, sorted(complaints)
        width, height, numerator, denominator = (int(number) for number in inputs[0])
        duration = _DURATION.search(log)
        seconds = int(duration[1]) * 3600 + int(duration[2]) * 60 + float(duration[3]) if duration else None
        properties = SourceProperties(
            width=width,
            height=height,
            fps=f"{numerator}/{denominator}" if numerator and denominator else None,
            duration_seconds=seconds,
        )
        return properties, sorted(complaints)

    def _anonymous(self, words: str) -> str:
        """Without addresses and folders, which differ from run to run and from host to host."""
        words = words.partition("] ")[2]
        return _ADDRESS.sub("", words).replace(f"file:{self._source}", self._source.name)


def _widen(pipe: IO[bytes]) -> None:
    # Over a user's limit for pipes this is refused, and the same bytes come through in smaller pieces.
    with suppress(PermissionError):
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


def parse_fps(text: str) -> str:
    """`15`, `29.97`, `30000/1001` or `source`, in the form that `DecodeSettings.fps` has.

    Raises:
        UsageError: not a rate between 0 and 1000.
    """
    if text == "source":
        return text
    try:
        rate = Fraction(text)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if not 0 < rate <= 1000:
        raise UsageError(
            f"got --fps {text!r}, expected a rate over 0 and up to 1000, such as 15 or 30000/1001, or 'source'"
        )
    return str(rate)
