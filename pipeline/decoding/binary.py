"""Finds ffmpeg and its version."""

import re
import signal
import subprocess
from functools import lru_cache

import imageio_ffmpeg

from resact.errors import ToolError

TRIES_WHEN_KILLED = 5
"""Tries for a video if ffmpeg is killed from outside, for example by the kernel for lack of memory."""


@lru_cache
def find_ffmpeg(binary: str | None = None) -> tuple[str, str]:
    """The path and version of ffmpeg.

    Args:
        binary: a path, or a name on PATH; None for the one in the `imageio-ffmpeg` wheel.

    Raises:
        ToolError: it does not exist or does not run.
    """
    path = binary or imageio_ffmpeg.get_ffmpeg_exe()
    for left in reversed(range(TRIES_WHEN_KILLED)):
        try:
            first = subprocess.run([path, "-version"], capture_output=True, text=True, check=True, timeout=30).stdout
            break
        except (OSError, subprocess.SubprocessError) as error:
            killed = isinstance(error, subprocess.CalledProcessError) and error.returncode == -signal.SIGKILL
            if not killed or not left:
                advice = "pass --ffmpeg PATH, or reinstall imageio-ffmpeg"
                raise ToolError(f"ffmpeg does not run ({error}): {advice}") from None
    match = re.match(r"ffmpeg version (\S+)", first)
    if match is None:
        raise ToolError(f"{path} is not ffmpeg (it says {first[:60]!r}): pass --ffmpeg PATH")
    return path, match[1]
