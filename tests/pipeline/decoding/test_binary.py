"""Which ffmpeg runs."""

from pathlib import Path

import pytest

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
    script = tmp_path / "ffmpeg"
    script.write_text(
        f'#!/bin/sh\necho >> {counted}\n[ $(wc -l < {counted}) -ge 3 ] || kill -9 $$\necho "ffmpeg version 7"\n'
    )
    script.chmod(0o755)
    assert find_ffmpeg(str(script)) == (str(script), "7")
    always = tmp_path / "killed"
    always.write_text("#!/bin/sh\nkill -9 $$\n")
    always.chmod(0o755)
    with pytest.raises(ToolError, match=r"ffmpeg does not run .*SIGKILL"):
        find_ffmpeg(str(always))
