"""Files of pictures: a still one is no video, an animated one is, and none gives copies of one frame."""

from pathlib import Path

import numpy as np
import pytest
from tests.pipeline.decoding.test_tracks import AV1, frames_of, needs_field, prepped
from tests.pipeline.videos import EACH_FFMPEG, FIELD, H264, decoded, numbered, numbers_in, quadrants, write_video

from resact.pipeline.decoding.ffmpeg_log import FfmpegLog

STILL = "failed: it is a still picture, not a video"


def avif(target: Path, num_frames: int) -> Path:
    """One frame gives a still picture; more give an animation at 30 fps, whose first frame is also a picture."""
    still = ("-still-picture", 1) if num_frames == 1 else ()
    return write_video(target, numbered(num_frames), *AV1, *still, "-pix_fmt", "yuv420p", "-f", "avif", fps=30)


def box(kind: bytes, content: bytes) -> bytes:
    """A box of ISO's file format."""
    return (8 + len(content)).to_bytes(4, "big") + kind + content


@pytest.mark.parametrize("binary", EACH_FFMPEG)
def test_still_avif(tmp_path: Path, binary: str) -> None:
    assert prepped(tmp_path, avif(tmp_path / "v.avif", 1), binary=binary).problem() == STILL


def test_still_heif_of_other_brands_and_names(tmp_path: Path) -> None:
    picture = avif(tmp_path / "v.avif", 1).read_bytes()
    other = tmp_path / "v.mp4"
    other.write_bytes(picture.replace(b"ftypavif", b"ftypheic", 1))
    assert prepped(tmp_path, other).problem() == STILL


def test_a_motion_photo_is_a_picture_whose_video_is_not_looked_for(tmp_path: Path) -> None:
    film = write_video(tmp_path / "film.mp4", quadrants(20), *H264).read_bytes()
    photo = tmp_path / "photo.heic"
    photo.write_bytes(avif(tmp_path / "v.avif", 1).read_bytes() + box(b"mpvd", film))
    (tmp_path / "a").mkdir()
    assert prepped(tmp_path / "a", photo).problem() == STILL
    write_video(tmp_path / "still.jpg", quadrants(1))
    photo = tmp_path / "photo.jpg"
    photo.write_bytes((tmp_path / "still.jpg").read_bytes() + film)
    (tmp_path / "b").mkdir()
    assert "not one of the video files" in prepped(tmp_path / "b", photo).problem()


@pytest.mark.parametrize("binary", EACH_FFMPEG)
def test_each_frame_of_an_animated_avif(tmp_path: Path, binary: str) -> None:
    frames = frames_of(prepped(tmp_path, avif(tmp_path / "v.avif", 30), binary=binary))
    shown = numbers_in(frames)
    assert len(shown) == len(set(shown)) == 15
    assert set(np.diff(shown)) == {2}


@pytest.mark.parametrize(("suffix", "why"), [("gif", STILL), ("apng", "pictures and texts are not followed")])
def test_one_picture_in_a_file_for_animations(tmp_path: Path, suffix: str, why: str) -> None:
    still = write_video(tmp_path / f"still.{suffix}", numbered(1))
    moving = write_video(tmp_path / f"moving.{suffix}", numbered(2))
    prep = prepped(tmp_path, still, moving)
    assert prep.store.index.status == ["failed", "ok"]
    assert why in prep.problem()


def test_one_frame_in_a_file_for_videos_is_a_video(tmp_path: Path) -> None:
    for name, encoder in (("v.mp4", H264), ("v.avi", ("-c:v", "mjpeg")), ("v.webm", ("-c:v", "libvpx"))):
        video = write_video(tmp_path / name, numbered(1), *encoder, fps=15)
        assert len(decoded(video)) == 1


@needs_field
@pytest.mark.parametrize("binary", EACH_FFMPEG)
def test_the_pictures_from_the_field(tmp_path: Path, binary: str) -> None:
    prep = prepped(tmp_path, FIELD / "anim.avif", FIELD / "still.avif", binary=binary)
    assert prep.problem(1) == STILL
    assert prep.store.index.status[0] == "ok"
    frames = prep.store.read("v000", 0, 15)
    assert len({frame.tobytes() for frame in frames}) == prep.store.index.num_frames[0] == 15


@pytest.mark.parametrize(
    ("complaint", "unfit"),
    [("", "it is a still picture, not a video"), ("[vist#0:0 @ 0x1] [error] Decoder: Cannot allocate memory\n", None)],
)
def test_a_gif_that_memory_let_one_frame_through_of_is_no_picture(complaint: str, unfit: str | None) -> None:
    decoded = "[verbose]   Input stream #0:0 (video): 2 packets read; 1 frames decoded\n"
    text = f"[info] Input #0, gif, from 'v.gif':\n{complaint}{decoded}"
    log = FfmpegLog(text, Path("v.gif"))
    assert log.unfit == unfit
    assert log.refusal is None or "more memory" in log.refusal
