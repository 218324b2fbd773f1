"""Frames as ffmpeg itself gives them, bit for bit, and what decoding says of a video."""

import signal
import subprocess
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import zarr
from tests.pipeline.conftest import FFMPEG, encode, footage
from tests.pipeline.videos import decoded, ffmpeg, prep_files

from resact.cache.codecs import build_codec
from resact.cache.settings import DecodeSettings
from resact.errors import DecodeError
from resact.pipeline.decoding.binary import find_ffmpeg
from resact.pipeline.decoding.decode import FfmpegKilledError, VideoDecoder
from resact.pipeline.decoding.filter_graph import decode_arguments

SETTINGS = DecodeSettings(fps="15", short_side=256, max_seconds=None, ffmpeg="any")
SCALE = r"scale='if(lte(iw,ih),256,-2)':'if(lte(iw,ih),-2,256)':flags=bicubic"


def independent_frames(video: Path, filters: str, pixels: str = "rgb24", shape: tuple[int, ...] = ()) -> np.ndarray:
    """ffmpeg's own raw output, from a command written out here by hand."""
    output = ["-f", "rawvideo", "-pix_fmt", pixels, "-fps_mode", "passthrough", "-"]
    command = [FFMPEG, "-v", "error", "-i", video, "-vf", filters, *output]
    raw = subprocess.run(command, capture_output=True, check=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, *shape)


@pytest.mark.parametrize(
    ("clip", "scale", "shape"),
    [
        ("bikes", SCALE, (256, 602, 3)),
        ("carphone_pristine", "scale=342:256:flags=bicubic", (256, 342, 3)),  # 176x144 pixels of 12:11 are 4:3
    ],
)
def test_frames_equal_ffmpegs_own_raw_output(clip: str, scale: str, shape: tuple[int, ...]) -> None:
    expected = independent_frames(footage(clip), f"fps=15,{scale}", shape=shape)
    assert len(expected) >= 60
    assert np.array_equal(decoded(footage(clip), SETTINGS), expected)


def test_planes_equal_ffmpegs_own_raw_output() -> None:
    scale = f"{SCALE}+bitexact:out_range=pc:out_color_matrix=bt601"
    expected = independent_frames(footage("bikes"), f"fps=15,{scale}", "yuvj420p", (256 * 602 * 3 // 2,))
    assert np.array_equal(decoded(footage("bikes"), SETTINGS, pixels="yuvj420p"), expected)


def test_fps_source_keeps_every_frame() -> None:
    expected = independent_frames(footage("bikes"), SCALE, shape=(256, 602, 3))
    frames = decoded(footage("bikes"), replace(SETTINGS, fps="source"))
    assert len(frames) == 250
    assert np.array_equal(frames, expected)


def test_max_seconds_and_short_side(tmp_path: Path) -> None:
    upright = tmp_path / "upright.avi"
    ffmpeg("-i", footage("bikes"), "-vf", "transpose=1", "-q:v", 3, upright)
    frames = decoded(upright, replace(SETTINGS, short_side=112, max_seconds=2.0))
    assert frames.shape == (30, 264, 112, 3)


def test_what_ffmpeg_says_of_the_source() -> None:
    with VideoDecoder(
        footage("carphone_pristine"), SETTINGS, "rgb24", strict=True, binary=FFMPEG, timeout_seconds=600
    ) as decoder:
        assert sum(1 for _ in decoder) == 60
        properties, complaints = decoder.finish()
    assert properties is not None
    assert (properties.width, properties.height, properties.fps) == (176, 144, "30000/1001")
    assert properties.duration_seconds == pytest.approx(4.0, abs=0.05)
    assert complaints == []


def test_a_video_that_changes_its_size_midway_is_an_error(tmp_path: Path) -> None:
    encode(footage("bikes"), tmp_path / "a.avi", start=0, seconds=1)
    parts = [tmp_path / "a.m2v", tmp_path / "b.m2v"]
    for part, size in zip(parts, ("320:240", "160:240"), strict=True):
        ffmpeg("-i", tmp_path / "a.avi", "-vf", f"scale={size},setsar=1", "-c:v", "mpeg2video", part)
    joined = tmp_path / "joined.m2v"
    joined.write_bytes(parts[0].read_bytes() + parts[1].read_bytes())
    with pytest.raises(DecodeError, match="change from 342x256 to 256x384 midway"):
        decoded(joined, SETTINGS, strict=False)


def test_leaving_early_leaves_no_process_and_no_thread(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    with VideoDecoder(footage("bikes"), SETTINGS, "rgb24", strict=True, binary=FFMPEG, timeout_seconds=600) as decoder:
        next(iter(decoder))
        process = decoder._process
        assert process.poll() is None
    assert process.returncode == -9
    decoder._timer.join(5)
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_a_lossless_store_equals_ffmpegs_own_raw_output(ucf101: Path, tmp_path: Path, codec: str) -> None:
    videos = [next(folder.iterdir()) for folder in (ucf101 / "UCF-101").iterdir()]
    store = prep_files(tmp_path, videos, decode=replace(SETTINGS, ffmpeg=find_ffmpeg()[1]), codec=codec).path
    arrays = zarr.open_group(str(store), mode="r")
    for number, video in enumerate(videos):
        expected = independent_frames(video, f"fps=15,{SCALE}", shape=(256, 342, 3))
        assert np.array_equal(arrays[f"v{number:03}"][:], expected)


def test_a_jpeg_store_holds_the_jpegs_of_ffmpegs_own_planes_and_stays_near_the_lossless_frames(
    ucf101: Path, undisturbed_store: Path
) -> None:
    h, w = 256, 342
    arrays = dict(zarr.open_group(str(undisturbed_store), mode="r").arrays())
    for name in ("v_Biking_g01_c01", "v_Biking_g04_c04", "v_Carphone_g01_c01", "v_Carphone_g04_c04"):
        video = ucf101 / "UCF-101" / name.split("_")[1] / f"{name}.avi"
        scale = f"{SCALE}+bitexact:out_range=pc:out_color_matrix=bt601"
        planes = independent_frames(video, f"fps=15,{scale}", "yuvj420p", (h * w * 3 // 2,))
        rgb = independent_frames(video, f"fps=15,{SCALE}", shape=(h, w, 3))
        stored = arrays[name][:]
        for frame, yuv in zip(stored, planes, strict=True):
            y, u, v = yuv[: h * w], yuv[h * w : h * w * 5 // 4], yuv[h * w * 5 // 4 :]
            jpeg = simplejpeg.encode_jpeg_yuv_planes(
                y.reshape(h, w), u.reshape(h // 2, w // 2), v.reshape(h // 2, w // 2), 95
            )
            assert np.array_equal(frame, simplejpeg.decode_jpeg(jpeg, "RGB", fastdct=False, fastupsample=True))
        noise = np.mean((stored.astype(float) - rgb) ** 2)
        assert 10 * np.log10(255**2 / noise) > 36, "the detour over no RGB must not shift colours or planes"
        through_rgb = build_codec("jpeg").encode(rgb[0])
        detour = simplejpeg.decode_jpeg(through_rgb, "RGB", fastdct=False, fastupsample=True).astype(float)
        assert np.mean((stored[0].astype(float) - detour) ** 2) < 255**2 / 10**3.4


@pytest.mark.parametrize("pixels", ["rgb24", "yuvj420p"])
def test_frames_do_not_depend_on_the_processors_vector_instructions(pixels: str) -> None:
    arguments = decode_arguments(str(footage("bikes")), SETTINGS, pixels, strict=True)  # type: ignore[arg-type]
    outputs = {
        subprocess.run([FFMPEG, *flags, *arguments], capture_output=True, check=True).stdout
        for flags in ([], ["-cpuflags", "sse2"], ["-cpuflags", "0"])
    }
    assert len(outputs) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_an_ffmpeg_that_is_told_to_end_is_no_damage(number: signal.Signals) -> None:
    with VideoDecoder(footage("bikes"), SETTINGS, "rgb24", strict=False, binary=FFMPEG, timeout_seconds=600) as decoder:
        frames = iter(decoder)
        next(frames)  # ffmpeg waits now: the pipe has room for two frames only
        decoder._process.send_signal(number)
        for _ in frames:
            pass
        with pytest.raises(FfmpegKilledError, match=number.name):
            decoder.finish()
