"""ffmpeg's threads write into one another's unfinished lines: nothing of the log is lost by that."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.pipeline.conftest import fake_ffmpeg
from tests.pipeline.videos import DECODE, EACH_FFMPEG, H264, quadrants, write_video

from resact.errors import DecodeError, ToolError
from resact.pipeline.decoding.decode import OtherSamplingError, VideoDecoder
from resact.pipeline.decoding.ffmpeg_log import SourceProperties, Treatment, by_message

# All that is coloured, so of another level than `info`, comes in the middle of a line of that level, as when its thread
# is the second one to log. The filter graph's description precedes the threads that leave lines unfinished.
MIXES = """
import os, re, subprocess, sys
run = subprocess.Popen([{binary!r}, *sys.argv[1:]], stderr=subprocess.PIPE)
message = rb"(?:\\x1b\\[[\\d;]+m\\[[^\\x1b]* @ [^\\x1b]*\\] \\x1b\\[0m)*(\\x1b\\[[\\d;]+m)\\[[a-z]+\\] \\x1b\\[0m\\1"
mixed = 0
for line in run.stderr:
    if b"input from stream" not in line:
        line, found = re.subn(message, rb"[info]   Stream #0\\1", line)
        mixed += found
    os.write(2, line)
run.wait()
if run.returncode < 0:
    os.kill(os.getpid(), -run.returncode)
sys.exit(run.returncode if mixed else 99)
"""


def mixing(folder: Path, binary: str) -> str:
    """An ffmpeg whose threads always write into unfinished lines."""
    path = folder / "ffmpeg"
    path.write_text(f"#!{sys.executable}\n{MIXES.format(binary=binary)}")
    path.chmod(0o755)
    return str(path)


Outcome = tuple[list[bytes], SourceProperties | None, list[str], Treatment]


def outcome(video: Path, binary: str, *, strict: bool, fps: str = "15") -> Outcome:
    treatment = None
    while True:
        try:
            with VideoDecoder(
                video, replace(DECODE, fps=fps), "rgb24", strict=strict, binary=binary, timeout_seconds=600,
                treatment=treatment,
            ) as decoder:  # fmt: skip
                frames = [frame.tobytes() for frame in decoder]
                return frames, *decoder.finish(), decoder.treatment
        except OtherSamplingError as other:
            treatment = other.treatment


def damaged(folder: Path) -> Path:
    """A video with errors in a frame in its middle."""
    path = write_video(folder / "v.avi", quadrants(40), "-c:v", "mpeg4", "-g", 1, "-q:v", 2)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 200] = np.random.default_rng(0).bytes(200)
    path.write_bytes(data)
    return path


@pytest.fixture(params=EACH_FFMPEG)
def binary(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_damaged_video(tmp_path: Path, binary: str) -> None:
    video = damaged(tmp_path)
    for strict in (True, False):
        expected = outcome(video, binary, strict=strict)
        assert expected[2]
        assert outcome(video, mixing(tmp_path, binary), strict=strict) == expected


@pytest.mark.parametrize("fps", ["15", "source"])
@pytest.mark.parametrize(("num_frames", "rate"), [(40, "30"), (1, "30"), (40, "30+5*sin(N)")])
def test_time_stamps(tmp_path: Path, binary: str, fps: str, num_frames: int, rate: str) -> None:
    retimed = ("-vf", f"settb=1/1000,setpts=N*1000/({rate})", "-fps_mode", "passthrough", *H264)
    video = write_video(tmp_path / "v.mkv", quadrants(num_frames), *retimed)
    expected = outcome(video, binary, strict=True, fps=fps)
    assert expected[0]
    assert (expected[3].sampling is not None) == ("sin" in rate and fps == "15")
    assert outcome(video, mixing(tmp_path, binary), strict=True, fps=fps) == expected


def test_another_size_midway(tmp_path: Path, binary: str) -> None:
    parts = [write_video(tmp_path / f"{w}.m2v", quadrants(20, w), "-c:v", "mpeg2video") for w in (64, 96)]
    joined = tmp_path / "joined.m2v"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    for path in (binary, mixing(tmp_path, binary)):
        with pytest.raises(DecodeError, match="change from 64x48 to 96x48 midway"):
            outcome(joined, path, strict=False)


def test_the_users_colours_do_not_matter(tmp_path: Path, binary: str, monkeypatch: pytest.MonkeyPatch) -> None:
    video = damaged(tmp_path)
    expected = outcome(video, binary, strict=False)
    for name in ("AV_LOG_FORCE_NOCOLOR", "AV_LOG_FORCE_256COLOR", "NO_COLOR"):
        monkeypatch.setenv(name, "1")
        assert outcome(video, binary, strict=False) == expected
        monkeypatch.delenv(name)


def test_a_log_without_colours_is_an_error(tmp_path: Path, binary: str) -> None:
    """Its time stamps cannot be found, and without them frames may be sampled wrongly."""
    plain = fake_ffmpeg(tmp_path / "ffmpeg", f'exec env -u AV_LOG_FORCE_COLOR {binary} "$@"')
    video = write_video(tmp_path / "v.mp4", quadrants(40), *H264)
    with pytest.raises(ToolError, match=r"does not log what it decodes .*: use ffmpeg 5\.1 to 7"):
        outcome(video, str(plain), strict=True)


ERROR, VERBOSE, WHO, END = "\x1b[1;31m", "\x1b[0;32m", "\x1b[0;36m", "\x1b[0m"


@pytest.mark.parametrize(
    ("log", "messages"),
    [
        ("[info] a\n[info] b\r[info] c\n", "[info] a\n[info] b\r[info] c\n"),
        (
            f"{WHO}[x @ 0x1] {END}{ERROR}[error] {END}{ERROR}a\n{END}[info] b\n",
            "[x @ 0x1] [error] a\n[info] b\n",
        ),
        (f"[info]   Stream{ERROR}a\n{END}[info] #0\n", "[info]   Stream\n[error] a\n[info] #0\n"),
        (
            f"{VERBOSE}[verbose] {END}{VERBOSE}a {END}{VERBOSE}b{END}{ERROR}c\n{END}",
            "[verbose] a b\n[error] c\n",
        ),
        (
            f"{VERBOSE}[verbose] {END}{VERBOSE}a{END}b{ERROR}c{END}{VERBOSE}d\n",
            "[verbose] a\n[info] b\n[error] c\n[verbose] d\n",
        ),
        (f"[info] a{WHO}[x @ 0x1] {END}[info] b\n", "[info] a\n[x @ 0x1] [info] b\n"),  # a time stamp stood between
    ],
)
def test_each_message_has_a_line_and_its_level(log: str, messages: str) -> None:
    assert by_message(log) == messages
