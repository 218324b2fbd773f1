"""Limits for videos: formats, memory, log, length and frame size. See docs/videos.md."""

import math
import os
import resource
import subprocess
from collections.abc import Sequence
from fractions import Fraction

from resact.cache.settings import DecodeSettings
from resact.errors import DecodeError
from resact.pipeline.decoding.ffmpeg_log import MAX_PIXELS

_MAX_LOG_FILE_BYTES = 1 << 30  # ffmpeg is stopped at this size
_MAX_SIDE = 16_384  # pixels of a stored frame's side; JPEG allows 65,535
_MAX_SECONDS = 4 * 3600.0  # of video, without --max-seconds
_MAX_SOURCE_FPS = 1000  # with `--fps source`; also the limit of `parse_fps`
_MAX_MEMORY_BYTES = 4 << 30  # of address space, for ffmpeg

# Container formats and bare streams that open no other file. Left out: playlists and scripts (hls, dash, concat, sdp,
# asx), which would fetch what they name; pictures, patterns of pictures, subtitles, texts that ffmpeg would draw.
_FORMATS = (
    "apng,asf,av1,avi,avs2,avs3,cavsvideo,cine,dhav,dirac,dnxhd,dv,evc,flv,gif,gxf,h261,h263,h264,hevc,ifv,ivf,kux,"
    "live_flv,m4v,matroska,mjpeg,mjpeg_2000,mov,mpeg,mpegts,mpegvideo,mxf,nsv,nut,obu,ogg,pva,rm,smjpeg,swf,ty,vc1,"
    "vc1test,vvc,wtv,yuv4mpegpipe,"
    "aac,ac3,aiff,amr,ape,au,caf,flac,mp3,wav,w64,wv"  # sound only, so that the error can say so
)
RESTRICTIONS = ("-format_whitelist", _FORMATS, "-max_pixels", str(MAX_PIXELS))

_ENVIRONMENT = {
    # The wheel's ffmpeg is statically linked, and crashes if it loads the host's modules for character sets. It does so
    # for service names in MPEG transport streams. Without modules, it uses these names unconverted.
    "GCONV_PATH": os.devnull,
    # Colours tell the messages of its threads apart, see `ffmpeg_log.by_message`.
    "AV_LOG_FORCE_COLOR": "1",
    "TERM": "dumb",
}
_OTHER_COLOURS = {"AV_LOG_FORCE_NOCOLOR", "AV_LOG_FORCE_256COLOR"}


def ffmpeg_environment() -> dict[str, str]:
    """The environment for ffmpeg: the user's, with what keeps it from crashing and makes its log readable."""
    return {name: value for name, value in os.environ.items() if name not in _OTHER_COLOURS} | _ENVIRONMENT


def limit_process(pid: int) -> None:
    """Limit a running ffmpeg's memory and the size of its log."""
    _limit(pid, resource.RLIMIT_AS, _MAX_MEMORY_BYTES)
    _limit(pid, resource.RLIMIT_FSIZE, _MAX_LOG_FILE_BYTES)


def run_limited(
    command: Sequence[str], *, stdout: int, stderr: int, timeout_seconds: float
) -> "subprocess.CompletedProcess[bytes] | None":
    """Run a limited ffmpeg to its end; None if it was killed because it took too long.

    Args:
        command: the command line.
        stdout: `subprocess.PIPE` to get its output, `subprocess.DEVNULL` otherwise.
        stderr: as for `stdout`, for its log.
        timeout_seconds: most time that it may take.
    """
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        env=ffmpeg_environment(),
        start_new_session=True,
    ) as process:
        limit_process(process.pid)
        try:
            said, logged = process.communicate(timeout=timeout_seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            return None
    return subprocess.CompletedProcess(command, process.returncode, said, logged)


def require_size(width: int, height: int) -> None:
    """Refuse frames that are too large for the store.

    Raises:
        DecodeError: a side is too long.
    """
    if max(width, height) > _MAX_SIDE:
        raise DecodeError(
            f"its frames would be {width}x{height}, and no side over {_MAX_SIDE:,} is taken: crop it, or make "
            "--short-side smaller"
        )


def most_frames(settings: DecodeSettings) -> int:
    """Most frames of a video, so that one wrong time stamp cannot fill the disk with copies of a frame."""
    seconds = settings.max_seconds or _MAX_SECONDS
    return math.ceil(seconds * (_MAX_SOURCE_FPS if settings.fps == "source" else Fraction(settings.fps))) + 1


def too_many_frames(settings: DecodeSettings) -> DecodeError:
    """Message for a video with more than `most_frames`."""
    got = f"it gives more than {most_frames(settings):,} frames"
    if settings.max_seconds is None:
        return DecodeError(
            f"{got}, the limit of {_MAX_SECONDS / 3600:g} hours: cut it, or say with --max-seconds how much of each "
            "video to take"
        )
    return DecodeError(f"{got} in {settings.max_seconds:g} seconds: its time stamps jump; re-encode it")


def endless_log() -> DecodeError:
    """Message for a video whose log reached its limit."""
    return DecodeError(f"ffmpeg complains of it without end: over {_MAX_LOG_FILE_BYTES:,} bytes")


def _limit(pid: int, what: int, most: int) -> None:
    _, hard = resource.getrlimit(what)
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.prlimit(pid, what, (most, most))
