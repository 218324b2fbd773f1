"""Parts of videos: the frames of a decode of the whole, and little more than these is decoded."""

import math
import random
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from tests.pipeline.conftest import FFMPEG
from tests.pipeline.videos import DECODE, EACH_FFMPEG, H264, decoded, decoded_by, ffmpeg, write_video

from resact.cache.layout import Segment
from resact.cache.settings import DecodeSettings
from resact.errors import DecodeError
from resact.pipeline.decoding.ffmpeg_log import Treatment
from resact.pipeline.decoding.filter_graph import decode_arguments
from resact.pipeline.decoding.limits import ffmpeg_environment
from resact.pipeline.decoding.timeline import cut_treatment

NUM_FRAMES = 240
GOP = 12
Make = Callable[[Path], Path]


def moving() -> np.ndarray:
    """(T, H, W, 3): no two frames alike, and none small."""
    frames = np.zeros((NUM_FRAMES, 48, 64, 3), np.uint8)
    for number, frame in enumerate(frames):
        frame[:] = number % 256, number * 7 % 256, number * 31 % 256
        frame[:, 2 * number % 64 : 2 * number % 64 + 4] = 255
    return frames


def video(name: str, *arguments: object, fps: object = 25) -> Make:
    return lambda folder: write_video(folder / name, moving(), *arguments, "-g", GOP, fps=fps)


def timed(name: str, milliseconds: str) -> Make:
    """A video with frame N at `milliseconds`, an expression of N."""
    times = ("-vf", f"settb=1/1000,setpts='{milliseconds}'", "-fps_mode", "passthrough", "-enc_time_base", "1/1000")
    return video(name, *H264, *times)


def edited(folder: Path) -> Path:
    """An edit list that begins between two key frames."""
    ffmpeg("-ss", 0.7, "-i", MP4(folder), "-c", "copy", folder / "edited.mp4")
    return folder / "edited.mp4"


def another_rate(folder: Path) -> Path:
    """23.5 frames per second, declared as 25."""
    plain = video("plain.mkv", *H264, "-bf", 0)(folder)
    ffmpeg("-i", plain, "-c", "copy", "-bsf:v", "setts=ts=TS*25/23.5", folder / "other.mkv")
    return folder / "other.mkv"


MP4 = video("b-frames.mp4", *H264, "-bf", 2)
SEEKABLE = {
    "B-frames in MP4": MP4,
    "29.97 fps in MKV, milliseconds": video("ntsc.mkv", *H264, fps="30000/1001"),
    "an edit list in MP4": edited,
    "Xvid in AVI": video("xvid.avi", "-c:v", "mpeg4", "-q:v", 2),
    "MPEG-TS": video("ts.ts", *H264),
    "frames are missing": video(
        "gaps.mp4", *H264, "-vf", "select='not(mod(n\\,3)*gt(mod(n\\,50)\\,20))'", "-fps_mode", "passthrough"
    ),
    "a variable rate": timed("variable.mkv", "40*(N+3*sin(N/9))"),
    "another rate than declared": another_rate,
}
OTHERS = {
    "open groups of pictures": video("open.mp4", *H264, "-x264-params", "open-gop=1:keyint=12:bframes=3"),
    "interlaced": video("interlaced.mp4", *H264, "-flags", "+ildct+ilme", "-vf", "setfield=tff"),
}


def part_of(path: Path, segment: Segment, decode: DecodeSettings, binary: str = FFMPEG) -> tuple[np.ndarray, Treatment]:
    """Frames of a part, and the treatment that gave them."""
    treatment = cut_treatment(path, segment, decode, binary=binary, timeout_seconds=600, midway=True)
    frames, last = decoded_by(treatment, path, decode, binary=binary)
    assert last is not None
    return frames, last


def frames_decoded(path: Path, decode: DecodeSettings, treatment: Treatment) -> int:
    """Number of frames that ffmpeg decodes with the arguments that a store records."""
    arguments = decode_arguments(str(path), decode, "rgb24", strict=True, treatment=treatment)
    log = subprocess.run([FFMPEG, *arguments], capture_output=True, check=True, env=ffmpeg_environment()).stderr
    return int(re.findall(rb"(\d+) frames decoded", log)[0])


def frames_of(segment: Segment, fps: str) -> slice:
    """Frame k of a whole video is the one at (k + 1/2) / fps seconds."""
    edges = [None if s is None else math.ceil(Fraction(s) * Fraction(fps) - Fraction(1, 2)) for s in
             (segment.start, segment.end)]  # fmt: skip
    return slice(*edges)


@pytest.mark.parametrize("kind", [*SEEKABLE, *OTHERS])
def test_a_part_has_the_frames_of_the_whole(kind: str, tmp_path: Path, seed: int) -> None:
    path, start = (SEEKABLE | OTHERS)[kind](tmp_path), random.Random(seed).uniform(1, 6)
    drawn = Segment(f"{start:.3f}", f"{start + 1.2:.3f}")
    for fps, segments in (("15", (drawn, Segment("0", "1.2"))), ("30000/1001", (drawn, Segment("6.5", None)))):
        decode = replace(DECODE, fps=fps)
        whole = decoded(path, decode)
        for segment in segments:
            frames, treatment = part_of(path, segment, decode)
            assert np.array_equal(frames, whole[frames_of(segment, fps)]), (fps, segment)
            if kind in SEEKABLE and segment.end:
                # A part of 1.2 s has up to 36 source frames; before it, up to three groups of pictures are decoded.
                assert frames_decoded(path, decode, treatment) < 36 + 3 * GOP + 30 < NUM_FRAMES


@pytest.mark.parametrize(("kind", "by_stamps"), [("a variable rate", True), ("another rate than declared", False)])
def test_how_frames_are_timed_is_told_by_all_packets(kind: str, by_stamps: bool, tmp_path: Path) -> None:
    _, treatment = part_of(SEEKABLE[kind](tmp_path), Segment("3", "4"), DECODE)
    assert treatment.sampling is not None
    assert treatment.sampling.by_stamps == by_stamps
    assert treatment.cut is not None
    assert treatment.cut.start is not None, "and yet not all is decoded"


@pytest.mark.parametrize("binary", EACH_FFMPEG)
def test_each_ffmpeg_cuts_alike(binary: str, tmp_path: Path) -> None:
    path, segment = MP4(tmp_path), Segment("3.3", "4.7")
    frames, treatment = part_of(path, segment, DECODE, binary)
    assert np.array_equal(frames, decoded(path, binary=binary)[frames_of(segment, "15")])
    assert treatment.cut is not None
    assert treatment.cut.start is not None


@pytest.mark.parametrize("kind", ["B-frames in MP4", "29.97 fps in MKV, milliseconds", "a variable rate"])
def test_of_all_frames_of_the_source_a_part_has_those_that_begin_in_it(kind: str, tmp_path: Path) -> None:
    path, decode = SEEKABLE[kind](tmp_path), replace(DECODE, fps="source")
    whole = decoded(path, decode)
    cuts = ("0", "1.21", "5.003")
    parts = [part_of(path, Segment(start, end), decode)[0] for start, end in zip(cuts, [*cuts[1:], None], strict=True)]
    assert np.array_equal(np.concatenate(parts), whole), "parts that follow each other are the whole"
    _, treatment = part_of(path, Segment("3.3", "4"), decode)
    assert frames_decoded(path, decode, treatment) < NUM_FRAMES / 2


def test_parts_are_cut_at_the_middle_of_frames_and_have_one_at_least(tmp_path: Path) -> None:
    path = MP4(tmp_path)
    whole = decoded(path)
    for start, end, frames in (
        ("2", "3", range(30, 45)),
        ("2.034", "2.1", range(31, 32)),
        ("2.01", "2.02", range(30, 31)),
    ):
        assert np.array_equal(part_of(path, Segment(start, end), DECODE)[0], whole[frames]), (start, end)
    short = part_of(path, Segment("2", "6"), replace(DECODE, max_seconds=1.0))[0]
    assert np.array_equal(short, whole[30:45]), "at most so many seconds of each part"


def test_a_part_outside_its_video_is_refused(tmp_path: Path) -> None:
    path = MP4(tmp_path)
    with pytest.raises(DecodeError, match=r"it begins at 9\.6 s, and its video ends at 9\.600 s"):
        part_of(path, Segment("9.6", "10"), DECODE)
    with pytest.raises(DecodeError, match=r"it ends at 9\.8 s, and its video at 9\.600 s"):
        part_of(path, Segment("9", "9.8"), DECODE)
    assert len(part_of(path, Segment("9", "9.65"), DECODE)[0]) == 9, "a tenth of a second is rounding"
