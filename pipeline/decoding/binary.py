"""Which ffmpeg runs."""

import re
import signal
import subprocess
from functools import lru_cache

import imageio_ffmpeg

from resact.errors import ToolError

TRIES_WHEN_KILLED = 5
"""Of an ffmpeg that is killed from outside, by the kernel out of memory, say."""


@lru_cache
def find_ffmpeg(binary: str | None = None) -> tuple[str, str]:
    """Ffmpeg's path and version.

    Args:
        binary: a path or a name on PATH; None for the one that the `imageio-ffmpeg` wheel brings.

    Raises:
        ToolError: it is not there or does not run.
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
