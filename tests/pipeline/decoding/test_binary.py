"""Which ffmpeg runs."""

from pathlib import Path

import pytest
from tests.pipeline.conftest import fake_ffmpeg

from resact.errors import ToolError
from resact.pipeline.decoding.binary import find_ffmpeg


def test_ffmpeg_that_is_missing_or_something_else() -> None:
    assert find_ffmpeg()[1]
    with pytest.raises(ToolError, match="pass --ffmpeg PATH"):
        find_ffmpeg("/nowhere/ffmpeg")
    with pytest.raises(ToolError, match="is not ffmpeg"):
        find_ffmpeg("echo")


def test_ffmpeg_that_is_killed_from_outside_is_asked_again(tmp_path: Path) -> None:
    counted = tmp_path / "count"
    script = fake_ffmpeg(
        tmp_path / "ffmpeg",
        f'echo >> {counted}\n[ $(wc -l < {counted}) -ge 3 ] || kill -9 $$\necho "ffmpeg version 7"',
    )
    assert find_ffmpeg(str(script)) == (str(script), "7")
    with pytest.raises(ToolError, match=r"ffmpeg does not run .*SIGKILL"):
        find_ffmpeg(str(fake_ffmpeg(tmp_path / "killed", "kill -9 $$")))
