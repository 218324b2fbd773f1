"""Several video tracks, covers and still pictures: the video is what ffmpeg itself and players take."""

import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.pipeline.videos import DECODE, EACH_FFMPEG, FIELD, H264, Prepped, ffmpeg, prep_files, quadrants, write_video

from resact.cache.settings import FIRST_RULE
from resact.cache.verify import verify_store
from resact.pipeline.decoding.binary import find_ffmpeg
from resact.pipeline.decoding.tracks import Tracks

RED, GREEN, BLUE = COLOURS = ("red", "lime", "blue")
MPEG2 = ("-c:v", "mpeg2video")
AV1 = ("-c:v", "libaom-av1", "-crf", "20", "-cpu-used", "8")
needs_field = pytest.mark.skipif(not FIELD.is_dir(), reason="the small inputs from the field are not here")


def write_tracks(target: Path, *arguments: object) -> Path:
    """Two tracks of one second: a red one, and a blue one of twice the size."""
    inputs: list[object] = []
    for colour, size in ((RED, "64x48"), (BLUE, "128x96")):
        inputs += ["-f", "lavfi", "-i", f"color={colour}:s={size}:r=10:d=1"]
    ffmpeg(*inputs, "-map", 0, "-map", 1, "-pix_fmt", "yuv420p", *arguments, target)
    return target


def prepped(folder: Path, *videos: Path, binary: str | None = None, rule: int = DECODE.rule) -> Prepped:
    decode = replace(DECODE, ffmpeg=find_ffmpeg(binary)[1], rule=rule)
    return prep_files(folder, videos, decode=decode, codec="lz4", ffmpeg=binary)


def frames_of(prep: Prepped) -> np.ndarray:
    """(T, H, W, 3) of the only video."""
    assert prep.store.index.status == ["ok"], prep.problem()
    return prep.store.read("v000", 0, int(prep.store.index.num_frames[0])).copy()


def colour_of(prep: Prepped) -> str:
    return COLOURS[int(frames_of(prep).mean((0, 1, 2)).argmax())]


FIRST = "it has 2 video tracks, of which number 1 was taken (64x48, the default)"
SECOND = "it has 2 video tracks, of which number 2 was taken (128x96)"
SECOND_DEFAULT = "it has 2 video tracks, of which number 2 was taken (128x96, the default)"
ONE_DEFAULT = ("-disposition:v:0", "default", "-disposition:v:1", 0)
OTHER_DEFAULT = ("-disposition:v:0", 0, "-disposition:v:1", "default")


@pytest.mark.parametrize("binary", EACH_FFMPEG)
@pytest.mark.parametrize(
    ("name", "arguments", "colour", "note"),
    [
        ("v.avi", MPEG2, BLUE, SECOND),
        ("v.ts", MPEG2, BLUE, SECOND),
        ("programs.ts", (*MPEG2, "-program", "st=0", "-program", "st=1"), BLUE, SECOND),
        ("first.mkv", (*H264, *ONE_DEFAULT), RED, FIRST),
        ("second.mkv", (*H264, *OTHER_DEFAULT), BLUE, SECOND_DEFAULT),
        ("both.mkv", (*H264, "-disposition:v", "default"), BLUE, SECOND_DEFAULT),
        ("first.mp4", (*H264, *ONE_DEFAULT), RED, FIRST),
        ("second.mp4", (*H264, *OTHER_DEFAULT), BLUE, SECOND_DEFAULT),
    ],
)
def test_the_default_track_or_else_the_largest(
    tmp_path: Path, binary: str, name: str, arguments: tuple[object, ...], colour: str, note: str
) -> None:
    video = write_tracks(tmp_path / name, *arguments)
    if video.suffix != ".ts":  # the wheel's ffmpeg crashes on it
        assert ffmpegs_own_choice(video, binary) == colour
    prep = prepped(tmp_path, video, binary=binary)
    assert colour_of(prep) == colour
    assert prep.store.note("v000") == note
    assert f"note: v000: {note}" in prep.said
    assert verify_store(prep.path, threads=1) == (1, [])


def ffmpegs_own_choice(video: Path, binary: str) -> str:
    command = [binary, "-v", "error", "-i", video, "-frames:v", "1", "-vf", "scale=1:1", "-f", "rawvideo"]
    raw = subprocess.run([*command, "-pix_fmt", "rgb24", "-"], capture_output=True, check=True).stdout
    return COLOURS[int(np.argmax(list(raw)))]


def test_by_the_first_rule_it_is_the_first_track(tmp_path: Path) -> None:
    prep = prepped(tmp_path, write_tracks(tmp_path / "v.mkv", *H264, *OTHER_DEFAULT), rule=FIRST_RULE)
    assert colour_of(prep) == RED
    assert prep.store.note("v000") is None


def test_what_the_track_that_is_taken_needs_besides_is_seen(tmp_path: Path) -> None:
    video = write_tracks(tmp_path / "v.mkv", *H264, *OTHER_DEFAULT, "-filter:v:1", "setsar=2/1")
    assert frames_of(prepped(tmp_path, video)).shape == (15, 48, 128, 3)


@pytest.mark.parametrize("name", ["v.mkv", "v.avi", "v.ts"])
def test_a_track_without_a_frame_is_not_taken(tmp_path: Path, name: str) -> None:
    drop = ("-bsf:v:1", "noise=drop=1")
    prep = prepped(tmp_path, write_tracks(tmp_path / name, *MPEG2, *drop))
    assert colour_of(prep) == RED


def test_prep_shows_a_few_notes_and_counts_the_others(tmp_path: Path) -> None:
    video = write_tracks(tmp_path / "v.mkv", *MPEG2, *OTHER_DEFAULT)
    prep = prepped(tmp_path, *[video] * 7)
    assert prep.said.count("it has 2 video tracks") == 5
    assert "note: the same for 2 more videos" in prep.said


@pytest.mark.parametrize("binary", EACH_FFMPEG)
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_cover_that_is_larger_than_the_video_is_none(tmp_path: Path, binary: str, suffix: str) -> None:
    cover = write_video(tmp_path / "cover.jpg", quadrants(1, 640, 480))
    video = write_video(tmp_path / "plain.mp4", quadrants(20), *H264)
    target = tmp_path / f"v.{suffix}"
    if suffix == "mkv":
        attached = ("-map", 0, "-attach", cover, "-metadata:s:t", "mimetype=image/jpeg")
    else:
        attached = ("-i", cover, "-map", 1, "-map", 0, "-disposition:v:0", "attached_pic", "-disposition:v:1", 0)
    ffmpeg("-i", video, *attached, "-c", "copy", target)
    prep = prepped(tmp_path, target, binary=binary)
    assert frames_of(prep).shape == (12, 48, 64, 3)
    assert prep.store.note("v000") is None


def log_of(*streams: str, brands: str = "isomiso2avc1mp41") -> Tracks:
    """Tracks of a log as ffmpeg 7.0 writes it."""
    said = ["Input #0, mov,mp4,m4a,3gp,3g2,mj2, from 'v.mp4':", f"    compatible_brands: {brands}"]
    said += [f"  Stream #0:{number}[0x1](und): {words}" for number, words in enumerate(streams)]
    said += ["Stream mapping:", "  Stream #0:0 -> #0:0", "Output #0, yuv4mpegpipe, to 'pipe:1':"]
    said += ["  Stream #0:0: Video: wrapped_avframe, yuv420p, 9000x9000, 15 fps (default)"]
    return Tracks("".join(f"[info] {line}\n" for line in said))


SMALL = "Video: h264 (High) (avc1 / 0x31637661), yuv420p(progressive), 64x48 [SAR 1:1 DAR 4:3], 9 kb/s, 10 fps, 10k tbn"
LARGE = SMALL.replace("64x48", "1920x1080 (1920x1088)")
HUGE = SMALL.replace("64x48", "3840x2160")


@pytest.mark.parametrize(
    ("streams", "stream", "videos"),
    [
        ([SMALL], None, 1),
        ([SMALL, LARGE], 1, 2),
        ([LARGE, LARGE], None, 2),
        ([SMALL + " (default)", LARGE], None, 2),
        ([SMALL + " (default)", HUGE], 1, 2),  # as in ffmpeg: being the default is worth five megapixels
        ([SMALL, LARGE + " (dependent)"], None, 2),
        ([SMALL, LARGE + " (default) (still image)"], None, 2),
        ([SMALL + " (default) (dependent)", SMALL], 1, 2),
        ([LARGE + " (attached pic)", SMALL], None, 1),  # `V:0` is the second
        ([LARGE + " (attached pic) (timed thumbnails)", SMALL, LARGE], 2, 2),
        (["Audio: aac (LC), 44100 Hz, stereo", SMALL, "Data: none", LARGE], 3, 2),
        (["Audio: mp3", LARGE + " (attached pic)"], None, 0),
        ([LARGE.replace("yuv420p(", "none("), SMALL], 1, 2),
        (["Video: none (abcd / 0x64636261), none, 1920x1080", SMALL], 1, 2),
    ],
)
def test_tracks_by_what_is_said_of_them(streams: list[str], stream: int | None, videos: int) -> None:
    tracks = log_of(*streams)
    assert tracks.stream == stream
    assert len(tracks.videos) == videos
    assert not tracks.are_pictures
    assert (tracks.note is not None) == (videos > 1)


ITEM = "Video: hevc (Main Still Picture) (hvc1 / 0x31637668), yuvj420p(pc), 4032x3024, 1 fps, 0.04 tbr, 1 tbn"


def test_pictures_beside_tracks() -> None:
    assert log_of(ITEM + " (default)", ITEM, brands="mif1heicmiaf").are_pictures
    sequence = log_of(ITEM + " (default)", SMALL, brands="msf1hevcmif1")
    assert (sequence.stream, len(sequence.videos), sequence.are_pictures) == (1, 1, False)
    assert sequence.note is None
    slow = "Video: h264, yuv420p, 64x48, 1 fps, 1 tbr, 1 tbn"  # of a fragmented MP4, say
    assert not log_of(slow).are_pictures


@needs_field
@pytest.mark.parametrize("binary", EACH_FFMPEG)
def test_the_two_tracks_from_the_field(tmp_path: Path, binary: str) -> None:
    prep = prepped(tmp_path, FIELD / "two_tracks.mp4", binary=binary)
    assert colour_of(prep) == BLUE
    assert prep.attributes()["source"]["width"] == 640
    assert prep.attributes()["status"] == "ok"
    note = "it has 2 video tracks, of which number 2 was taken (640x480, the default)"
    assert prep.attributes()["note"] == note
