"""Which ffmpeg runs."""

import pytest

from resact.errors import ToolError
from resact.pipeline.decoding.binary import find_ffmpeg


def test_ffmpeg_that_is_missing_or_something_else() -> None:
    assert find_ffmpeg()[1]
    with pytest.raises(ToolError, match="pass --ffmpeg PATH"):
        find_ffmpeg("/nowhere/ffmpeg")
    with pytest.raises(ToolError, match="is not ffmpeg"):
        find_ffmpeg("echo")
