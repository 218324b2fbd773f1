"""One video to frames: ffmpeg in a process of its own, frames through a pipe, never more than one in memory.

ffmpeg first decodes strictly (`-xerror -err_detect explode`). A video that fails so is decoded again as far as ffmpeg
can recover, and is called damaged: half an AVI otherwise looks like a whole one. The graph is that of an ordinary
video; where the log says with the first frame that this one needs more, ffmpeg is started again. Whether its frames
were sampled rightly is known at the end: `OtherSamplingError` says how to begin again. What a video may be and may cost
is limited: docs/videos.md.
"""

import fcntl
import math
import os
import re
import resource
import signal
import subprocess
import tempfile
from array import array
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from itertools import chain
from pathlib import Path
from threading import Timer
from typing import IO, Literal, NoReturn

import ffmpeg
import imageio_ffmpeg
import numpy as np
import numpy.typing as npt

from resact.cache.settings import FIRST_RULE, RULE, DecodeSettings
from resact.errors import DecodeError, ToolError, UsageError
from resact.pipeline.decoding.ffmpeg_log import MAX_PIXELS, FfmpegLog, SourceProperties, Treatment
from resact.pipeline.decoding.frame_times import Sampling, choose, find_stamps, fits, setpts_by_stamps, setpts_on_grid

Pixels = Literal["rgb24", "yuvj420p"]
"""RGB, or full-range 4:2:0 planes in the colours that JPEG fixes (BT.601)."""

_PIPE_BYTES = 1 << 20  # a frame fits, so that ffmpeg need not wait for us in the middle of one
_MAX_LOG_BYTES = 8 << 20  # of ffmpeg's log, a video broken at each macroblock writes tens of megabytes
_MAX_LOG_FILE_BYTES = 1 << 30  # then ffmpeg is stopped
_MAX_SIDE = 16_384  # of a frame for the store; JPEG ends at 65,535
_MAX_SECONDS = 4 * 3600.0  # of video, where --max-seconds does not say
_MAX_SOURCE_FPS = 1000  # where all of the source's frames are kept; parse_fps takes no more either
_MAX_MEMORY_BYTES = 4 << 30  # of address space, for ffmpeg
_FIRST_LOOK = 32  # frames, and at twice as many each time, whether they keep to the declared rate

# Container formats and bare streams that open no other file. Left out: playlists and scripts (hls, dash, concat, sdp,
# asx), which would fetch what they name; pictures, patterns of pictures, subtitles, texts that ffmpeg would draw.
_FORMATS = (
    "apng,asf,av1,avi,avs2,avs3,cavsvideo,cine,dhav,dirac,dnxhd,dv,evc,flv,gif,gxf,h261,h263,h264,hevc,ifv,ivf,kux,"
    "live_flv,m4v,matroska,mjpeg,mjpeg_2000,mov,mpeg,mpegts,mpegvideo,mxf,nsv,nut,obu,ogg,pva,rm,smjpeg,swf,ty,vc1,"
    "vc1test,vvc,wtv,yuv4mpegpipe,"
    "aac,ac3,aiff,amr,ape,au,caf,flac,mp3,wav,w64,wv"  # sound alone, so that it is called by its name
)
_RESTRICTIONS = ("-format_whitelist", _FORMATS, "-max_pixels", str(MAX_PIXELS))

# Statically linked, as the wheel's is, ffmpeg crashes when it loads the host's modules for character sets, which it
# does for the service names in an MPEG transport stream. It takes such names as they are where there are no modules.
_ENVIRONMENT = {"GCONV_PATH": os.devnull}

_CRASHES = {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGSYS}


class FfmpegKilledError(Exception):
    """A signal that was not ours ended ffmpeg: nothing that the video is to blame for."""


class OtherSamplingError(Exception):
    """The frames that were given are not those to keep: decode again, with `treatment`."""

    def __init__(self, treatment: Treatment) -> None:
        super().__init__("its frames do not keep to the rate that it declares")
        self.treatment = treatment


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


def decode_arguments(
    source: str, settings: DecodeSettings, pixels: Pixels, *, strict: bool, treatment: Treatment | None = None
) -> list[str]:
    """Ffmpeg's arguments: those that decide the frames, its own name and what restricts it apart.

    Args:
        source: path of the video.
        settings: frame rate, short side, scaler, length.
        pixels: what the frames are made of.
        strict: stop at the first thing that is wrong.
        treatment: what this video needs besides.

    Raises:
        ToolError: the settings are of a rule that this version does not know.
    """
    if not FIRST_RULE <= settings.rule <= RULE:
        raise ToolError(
            f"the frames are to be made by rule {settings.rule}, and this resact knows rules {FIRST_RULE} to {RULE}: "
            "install a newer resact"
        )
    inputs: dict[str, object] = {"threads": 1, "protocol_whitelist": "file,pipe"}
    if settings.max_seconds is not None:
        inputs["t"] = repr(settings.max_seconds)
    if strict:
        inputs["err_detect"] = "explode"
    treatment = treatment or Treatment()
    # `V`: a cover picture is not a video.
    video = ffmpeg.input("source", **inputs)["V:0" if treatment.stream is None else str(treatment.stream)]
    if treatment.deinterlace:
        video = video.filter("bwdif", mode="send_frame", deint="interlaced")
    if settings.fps != "source":
        if settings.rule > FIRST_RULE:
            video = _timed(video, settings.fps, treatment)
        video = video.filter("fps", fps=settings.fps, **({"eof_action": "pass"} if treatment.keep_last else {}))
        if settings.rule > FIRST_RULE and settings.max_seconds is not None:  # the last frame may last for longer
            most = math.floor(Fraction(repr(settings.max_seconds)) * Fraction(settings.fps) + Fraction(1, 2))
            video = video.filter("trim", end_frame=max(most, 1))
    side = settings.short_side
    scale = {"w": f"if(lte(iw,ih),{side},-2)", "h": f"if(lte(iw,ih),-2,{side})", "flags": settings.scaler}
    if treatment.square_pixels:
        scale |= {
            "w": f"if(lte(iw*sar,ih),{side},2*round({side}*iw*sar/ih/2))",
            "h": f"if(lte(iw*sar,ih),2*round({side}*ih/(iw*sar)/2),{side})",
        }
    output = {"fps_mode": "passthrough"}
    if settings.rule > FIRST_RULE:  # the muxer takes no clock that begins anew, and needs none
        output["bsf:v"] = "setts=ts=N"
    if pixels == "rgb24":
        output |= {"pix_fmt": pixels, "format": "image2pipe", "vcodec": "ppm"}
    else:
        # Without `bitexact` the planes, unlike RGB frames, depend on what vector instructions the processor has.
        scale |= {"flags": f"{settings.scaler}+bitexact", "out_range": "pc", "out_color_matrix": "bt601"}
        output |= {"format": "yuv4mpegpipe"}
    video = video.filter("scale", **scale)
    if pixels == "yuvj420p":
        if settings.rule == FIRST_RULE:
            output |= {"pix_fmt": pixels, "strict": "-1"}
        else:  # asked for `yuvj420p`, `scale` of ffmpeg 7.0 keeps the source's matrix, whatever it is told
            video = video.filter("format", pix_fmts="yuv420p")
    stream = ffmpeg.output(video, "pipe:1", **output).global_args(
        "-nostdin", "-hide_banner", "-loglevel", "repeat+level+verbose", "-filter_threads", "1",
        "-filter_complex_threads", "1", *(["-xerror"] if strict else []),
    )  # fmt: skip
    arguments = list(ffmpeg.get_args(stream))
    # `file:` keeps colons and leading dashes in names from meaning anything. ffmpeg-python takes only names in UTF-8.
    arguments[arguments.index("-i") + 1] = f"file:{source}"
    return arguments


def _timed(video: ffmpeg.Stream, fps: str, treatment: Treatment) -> ffmpeg.Stream:
    """Frames with the times that they are sampled by."""
    sampling = treatment.sampling
    if sampling is not None and sampling.by_stamps:
        return video.filter("setpts", setpts_by_stamps())
    expression = setpts_on_grid(fps, None if sampling is None else sampling.rate)
    return video.filter("settb", "1/1000000").filter("setpts", expression)


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
        treatment: what the video is known to need, from an `OtherSamplingError`; looked for where not given.
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
    ) -> None:
        self.height = self.width = 0
        self.treatment = treatment or Treatment()
        """What the video turned out to need, known from the first frame on."""
        self._source, self._settings, self._pixels, self._strict = source, settings, pixels, strict
        self._binary, self._timeout_seconds = binary, timeout_seconds
        self._timed_out = False
        self._num_frames = 0
        self._samples = settings.fps != "source" and settings.rule > FIRST_RULE
        self._declared: tuple[Fraction, Fraction] | None = None  # rate, and what time stamps are multiples of
        self._log = _temporary_file()  # closed in __exit__; a pipe would fill up and deadlock
        self._start()
        self._timer = Timer(timeout_seconds, self._time_out)
        self._timer.daemon = True
        self._timer.start()

    def _start(self) -> None:
        arguments = decode_arguments(
            os.fspath(self._source), self._settings, self._pixels, strict=self._strict, treatment=self.treatment
        )
        self._process = subprocess.Popen(
            [self._binary, *_RESTRICTIONS, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
            bufsize=0,
            env=os.environ | _ENVIRONMENT,
            start_new_session=True,  # a terminal's ctrl-C is for us to act on
        )
        assert self._process.stdout is not None
        self._pipe: IO[bytes] = self._process.stdout
        _limit(self._process.pid, resource.RLIMIT_AS, _MAX_MEMORY_BYTES)
        _limit(self._process.pid, resource.RLIMIT_FSIZE, _MAX_LOG_FILE_BYTES)
        _widen(self._pipe)

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
        if self._timed_out:  # between the two: the timer has killed the wrong one
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
            frames = self._read_frames()
            first = next(frames, None)
            if first is None:
                self._process.wait()  # it has not said all before
            needed = self._needed(ended=first is None)
            if needed == self.treatment:
                break
            self._start_again(needed)
        most, keeps_time = self._most_frames(), True
        for frame in chain([] if first is None else [first], frames):
            if self._num_frames == most:
                raise DecodeError(self._too_long(most))
            self._num_frames += 1
            if keeps_time:  # else the log has to tell all that there is to tell, and the frames will be made again
                yield frame
                looks = self._num_frames >= _FIRST_LOOK and self._num_frames.bit_count() == 1
                keeps_time = not looks or self._keeps_time()

    def _needed(self, *, ended: bool) -> Treatment:
        """What the log says that the video needs, and what was known before."""
        log, stamps = self._read_log()
        if log.unfit:
            raise DecodeError(log.unfit)
        found, known = log.treatment, self.treatment
        self._declared = None
        if log.properties is not None and log.properties.fps is not None:
            self._declared = Fraction(log.properties.fps), log.properties.time_base
        needed = replace(found, keep_last=found.keep_last or known.keep_last, sampling=known.sampling)
        untimed = log.properties is not None and self._declared is None and known.sampling is None
        if self._samples and untimed and ended and replace(needed, keep_last=known.keep_last) == known:
            return replace(known, sampling=self._choose(log, stamps))  # no frame comes through without a rate
        return needed

    def _keeps_time(self) -> bool:
        """Whether the frames up to now keep to the declared rate; so that what is to be done again ends soon."""
        if not self._samples or self.treatment.sampling is not None or self._declared is None:
            return True
        stamps, _ = self._read_lines_logged()
        return fits(stamps[:-1], *self._declared)  # the last may be the end's

    def _choose(self, log: FfmpegLog, stamps: "array[float]") -> Sampling | None:
        properties = log.properties
        assert properties is not None
        declared = None if properties.fps is None else Fraction(properties.fps)
        return choose(stamps[: log.frames_in], declared, properties.time_base)

    def _most_frames(self) -> int:
        """So many that a single wrong time stamp does not fill the disk with copies of one frame."""
        fps, seconds = self._settings.fps, self._settings.max_seconds or _MAX_SECONDS
        return math.ceil(seconds * (_MAX_SOURCE_FPS if fps == "source" else Fraction(fps))) + 1

    def _too_long(self, most: int) -> str:
        if self._settings.max_seconds is None:
            return (
                f"it gives more than {most:,} frames, the limit of {_MAX_SECONDS / 3600:g} hours: cut it, or say with "
                "--max-seconds how much of each video to take"
            )
        return (
            f"it gives more than {most:,} frames in {self._settings.max_seconds:g} seconds: its time stamps jump; "
            "re-encode it"
        )

    def _read_frames(self) -> Iterator[npt.NDArray[np.uint8]]:
        return self._planes() if self._pixels == "yuvj420p" else self._rgb()

    def _set_size(self, width: int, height: int) -> None:
        if max(width, height) > _MAX_SIDE:
            raise DecodeError(
                f"its frames would be {width}x{height}, and no side over {_MAX_SIDE:,} is taken: crop it, or make "
                "--short-side smaller"
            )
        self.width, self.height = width, height

    def _rgb(self) -> Iterator[npt.NDArray[np.uint8]]:
        """PPM images, one behind the other: three lines, then the pixels."""
        header = self._read_lines(3)
        if header:
            self._set_size(*(int(number) for number in header.split()[1:3]))
            shape = (self.height, self.width, 3)
            yield from (frame.reshape(shape) for frame in self._frames(header, self.height * self.width * 3, read=True))

    def _planes(self) -> Iterator[npt.NDArray[np.uint8]]:
        """YUV4MPEG2: a line for the stream, then for each frame a line and its planes."""
        header = self._read_lines(1)
        if header:
            fields = {text[:1]: text[1:] for text in header.decode("ascii").split()[1:]}
            self._set_size(int(fields["W"]), int(fields["H"]))
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
            OtherSamplingError: all the frames have to be made again.
            DecodeError: out of time, nothing that may be opened, frames of more than one size, or ffmpeg crashed.
            FfmpegKilledError: a signal from outside ended ffmpeg.
            ToolError: a log that says nothing of the source, of an ffmpeg too unlike those we know.
        """
        code = self._process.wait()
        if self._timed_out:
            raise DecodeError(f"not decoded within {self._timeout_seconds:g} s (--timeout)")
        log, stamps = self._read_log()
        if log.unfit:
            raise DecodeError(log.unfit)
        if len(log.sizes) > 1:  # ffmpeg would stretch the later ones to the first one's size
            first, second = log.sizes[:2]
            raise DecodeError(
                f"its frames change from {first} to {second} midway: cut it there, or re-encode it to one size"
            )
        number = log.signal or -code
        if number > 0:
            self._tell_of_signal(number)
        if not self._num_frames and not self._strict and log.refusal:  # a strict run gives up what can be recovered
            raise DecodeError(log.refusal)
        if log.properties is None and self.width:
            if os.fstat(self._log.fileno()).st_size > _MAX_LOG_BYTES:
                raise DecodeError("ffmpeg says so much of it that what matters cannot be found: re-encode it")
            raise ToolError("this ffmpeg does not log what it decodes in a form known to resact: use ffmpeg 5.1 to 7")
        ended = [f"ffmpeg ended with exit code {code}"] if code > 0 else []
        complaints, properties = sorted([*log.complaints, *ended]), log.properties
        if properties is not None and self._samples and not (complaints and self._strict):
            sampling = self.treatment.sampling or self._choose(log, stamps)
            if sampling != self.treatment.sampling:
                raise OtherSamplingError(replace(self.treatment, keep_last=False, sampling=sampling))
            if sampling is not None:
                properties = replace(properties, fps=sampling.rate)
        return properties, complaints

    def _tell_of_signal(self, number: int) -> NoReturn:
        name = signal.Signals(number).name if number in list(signal.Signals) else f"signal {number}"
        if number == signal.SIGXFSZ:
            raise DecodeError(f"ffmpeg complains of it without end: over {_MAX_LOG_FILE_BYTES:,} bytes")
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
        """The frames' stamps, all of them; and what else is said, up to a limit."""
        stamps, kept, rest, offset = array("d"), bytearray(), b"", 0
        # Without moving the place in it, which is ffmpeg's too.
        while piece := os.pread(self._log.fileno(), _PIPE_BYTES, offset):
            offset += len(piece)
            lines, end, begun = (rest + piece).rpartition(b"\n")
            kept += find_stamps(lines + end, stamps)[: _MAX_LOG_BYTES - len(kept)]
            rest = begun if len(begun) < _PIPE_BYTES else b""
        kept += rest[: _MAX_LOG_BYTES - len(kept)]
        return stamps, kept


def _temporary_file() -> IO[bytes]:
    try:
        return tempfile.TemporaryFile()
    except OSError as error:
        raise ToolError(
            f"what ffmpeg says cannot be kept ({error.strerror}): set TMPDIR to a folder that may be written to"
        ) from error


def _limit(pid: int, what: int, most: int) -> None:
    _, hard = resource.getrlimit(what)
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.prlimit(pid, what, (most, most))


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
