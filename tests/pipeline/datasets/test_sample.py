"""The sample data set: its layout, its files, its motion."""

import hashlib
import os
import pickle
import re
import signal
import stat
import subprocess
import sys
from collections import Counter
from itertools import pairwise

import imageio_ffmpeg
import numpy as np
import pytest
from tests.conftest import wait_until

from resact.errors import SourceError
from resact.pipeline.datasets import sample, sample_scene
from resact.pipeline.datasets.sample import VIDEOS
from resact.pipeline.datasets.sample_scene import CLASSES, FPS, GENERATOR_VERSION, SampleVideo, render_frame

TURN = 1 << 32


def decode_THWC(path):
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(path)]
    command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    raw = subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, 240, 320, 3)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A root with the lists and one video."""
    root = tmp_path_factory.mktemp("sample")
    sample.write_lists(root)
    sample.write_video(VIDEOS[0], sample.video_path(root, VIDEOS[0]))
    return root


def read_lines(root, name):
    raw = (root / "ucfTrainTestlist" / f"{name}.txt").read_bytes()
    assert raw.count(b"\n") == raw.count(b"\r\n")
    assert raw.endswith(b"\r\n")
    return raw.decode().split("\r\n")[:-1]


# --- layout ------------------------------------------------------------


def test_counts_and_lengths():
    assert len(set(VIDEOS)) == 192
    assert set(Counter(v.class_name for v in VIDEOS).values()) == {24}
    assert [v.video_id for v in VIDEOS] == sorted(v.video_id for v in VIDEOS)
    lengths = [v.num_frames for v in VIDEOS]
    assert min(lengths) >= 3.5 * FPS
    assert max(lengths) <= 4.4 * FPS
    assert len(set(lengths)) > 15
    assert 18_000 < sum(lengths) < 20_000


def test_lists_have_ucf101s_format(written):
    numbers = dict(line.split(" ")[::-1] for line in read_lines(written, "classInd"))
    assert numbers == {name: str(number) for number, name in enumerate(CLASSES, start=1)}
    line = re.compile(r"(\w+)/v_\1_g(\d\d)_c0[12]\.avi( \d)?")
    for split in (1, 2, 3):
        groups = {}
        for kind, count in (("train", 128), ("test", 64)):
            matches = [line.fullmatch(text) for text in read_lines(written, f"{kind}list0{split}")]
            assert len(matches) == len({match[0] for match in matches}) == count
            assert set(Counter(match[1] for match in matches).values()) == {count // 8}
            for match in matches:
                assert match[3] == (f" {numbers[match[1]]}" if kind == "train" else None)
            groups[kind] = {int(match[2]) for match in matches}
        assert groups["test"] == set(range(4 * split - 3, 4 * split + 1))
        assert groups["train"] == set(range(1, 13)) - groups["test"]


def test_missing_videos_are_those_without_a_file(written, tmp_path):
    assert sample.missing_videos(tmp_path) == list(VIDEOS)
    assert sample.missing_videos(written) == list(VIDEOS[1:])


def test_one_that_is_not_there_yet_says_how_to_make_it(tmp_path):
    with pytest.raises(SourceError, match=r"the sample is not in .*: `resact prep sample` generates it there"):
        sample.SAMPLE.load(tmp_path)


def test_video_names_travel_to_other_processes():
    for thing in (VIDEOS[5], sample.write_video):
        assert pickle.loads(pickle.dumps(thing)) == thing


def test_import_is_light():
    heavy = "{'torch', 'dask', 'zarr', 'ffmpeg', 'imageio_ffmpeg'}"
    code = f"import sys, resact.pipeline.datasets.sample; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"


# --- files ------------------------------------------------------------


def test_file_is_mpeg4_in_avi_at_25_fps(written):
    path = sample.video_path(written, VIDEOS[0])
    assert path.relative_to(written).as_posix() == "UCF-101/MoveLeft/v_MoveLeft_g01_c01.avi"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-i", str(path)]
    said = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False).stderr
    assert "Input #0, avi" in said
    assert re.search(r"Video: mpeg4 .*yuv420p.* 320x240.* 25 fps", said)


def test_file_shows_the_drawn_frames(written):
    drawn = np.stack([render_frame(VIDEOS[0], t) for t in range(VIDEOS[0].num_frames)])
    decoded = decode_THWC(sample.video_path(written, VIDEOS[0]))
    assert decoded.shape == drawn.shape == (VIDEOS[0].num_frames, 240, 320, 3)
    noise = np.mean(np.square(decoded.astype(np.float32) - drawn), axis=(1, 2, 3))
    assert 10 * np.log10(255**2 / noise.max()) > 30  # dB, colour at half resolution included


def test_same_bytes_every_time(written, tmp_path):
    sample.write_video(VIDEOS[0], tmp_path / "again.avi")
    again = (tmp_path / "again.avi").read_bytes()
    assert again == sample.video_path(written, VIDEOS[0]).read_bytes()
    assert b"Lavf" not in again


def test_encoded_frame_depends_on_no_other_frame(tmp_path):
    """Otherwise the codec's traces in a frame would show what the frame before it looked like."""
    a, b, c = (render_frame(SampleVideo("ZoomIn", group, 1), 9) for group in (1, 2, 3))
    sample._encode([a, b, a, a, c, b], tmp_path / "mixed.avi")
    mixed = decode_THWC(tmp_path / "mixed.avi")
    assert np.array_equal(mixed[0], mixed[2])
    assert np.array_equal(mixed[0], mixed[3])
    assert np.array_equal(mixed[1], mixed[5])
    assert not np.array_equal(mixed[0], mixed[1])


def test_killed_writer_leaves_no_file_under_the_name(tmp_path):
    path, slow = tmp_path / "video.avi", tmp_path / "ffmpeg"
    real = imageio_ffmpeg.get_ffmpeg_exe()
    # It ends after its caller, so that the kill cannot come too late.
    slow.write_text(f'#!/bin/sh\n"{real}" "$@"\nwhile kill -0 $PPID; do sleep 0.05; done\n')
    slow.chmod(0o755)
    code = (
        "import sys; from pathlib import Path; from resact.pipeline.datasets import sample\n"
        "sample.write_video(sample.VIDEOS[0], Path(sys.argv[1]))"
    )
    environment = {**os.environ, "IMAGEIO_FFMPEG_EXE": str(slow)}
    with subprocess.Popen([sys.executable, "-c", code, str(path)], env=environment) as writer:
        wait_until(lambda: any(part.stat().st_size > 20_000 for part in tmp_path.glob(".*.partial")), writer)
        writer.send_signal(signal.SIGKILL)
    assert list(tmp_path.glob("*.avi")) == []
    sample.write_video(VIDEOS[0], path)
    assert len(decode_THWC(path)) == VIDEOS[0].num_frames


def test_error_while_drawing_leaves_the_folder_as_it_was(tmp_path, monkeypatch):
    def fails_late(video, frame):
        if frame == 20:
            raise RuntimeError("no more frames")
        return render_frame(video, frame)

    (tmp_path / "video.avi").write_bytes(b"earlier")
    monkeypatch.setattr(sample, "render_frame", fails_late)
    with pytest.raises(RuntimeError, match="no more frames"):
        sample.write_video(VIDEOS[0], tmp_path / "video.avi")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"video.avi": b"earlier"}


def test_ffmpegs_failure_is_told_in_its_own_words(tmp_path, monkeypatch):
    """It fails without reading a frame, with a message longer than a pipe's buffer; neither may block us."""
    fake = tmp_path / "ffmpeg"
    fake.write_text("#!/bin/sh\nhead -c 300000 /dev/zero | tr '\\0' x >&2\necho 'No space left' >&2\nexit 28\n")
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(fake))
    out = tmp_path / "out"
    with pytest.raises(SourceError, match=r"exit code 28 from ffmpeg \(x+No space left\)"):
        sample.write_video(VIDEOS[0], out / "video.avi")
    assert list(out.iterdir()) == []


# --- motion ------------------------------------------------------------


def affine_flow(first_HWC, second_HWC, centre):
    """Least squares of the optical flow equation inside the window: (right, down, turn, growth) from one
    frame to the other, in pixels, pixels, radians clockwise, and natural log of the scale."""

    def blurred(frame_HWC):
        gray = frame_HWC.mean(2, dtype=np.float64)
        for _ in range(8):
            for axis in (0, 1):
                gray = (np.roll(gray, 1, axis) + 2 * gray + np.roll(gray, -1, axis)) / 4
        return gray

    first, second = blurred(first_HWC), blurred(second_HWC)
    gy, gx = np.gradient((first + second) / 2)
    y, x = np.mgrid[:240, :320]
    x, y = x - centre[0], y - centre[1]
    inside = np.hypot(x, y) < 70
    terms = np.stack([gx, gy, x * gy - y * gx, x * gx + y * gy], -1)[inside]
    return np.linalg.lstsq(terms, -(second - first)[inside], rcond=None)[0]


EXPECTED = {  # right, down, turn, growth
    "Still": (0, 0, 0, 0),
    "MoveLeft": (-1, 0, 0, 0),
    "MoveRight": (1, 0, 0, 0),
    "MoveUp": (0, -1, 0, 0),
    "RotateClockwise": (0, 0, 1, 0),
    "RotateCounterclockwise": (0, 0, -1, 0),
    "ZoomIn": (0, 0, 0, 1),
    "ZoomOut": (0, 0, 0, -1),
}
SLOWEST = np.array([40, 40, np.deg2rad(60), 0.5 * np.log(2)]) / 25
FASTEST = np.array([90, 90, np.deg2rad(120), 1.0 * np.log(2)]) / 25


@pytest.mark.parametrize("class_name", CLASSES)
def test_class_moves_as_it_is_named(class_name):
    for group in (1, 5, 12):
        video = SampleVideo(class_name, group, 1)
        take, centre = sample_scene.draw_take(video), sample_scene.draw_scene(group).centre
        flows = []
        for t in range(0, 80, 8):
            shake = np.subtract(take.shake_at(t + 1), take.shake_at(t))
            first, second = (render_frame(video, n) for n in (t, t + 1))
            flows.append(affine_flow(first, second, centre) - [*shake, 0, 0])
        flow = np.median(flows, axis=0)
        for got, sign, slow, fast in zip(flow, EXPECTED[class_name], SLOWEST, FASTEST, strict=True):
            if sign:
                assert 0.8 * slow < got * sign < 1.2 * fast
            else:
                assert abs(got) < 0.2 * slow


def test_background_is_still_but_for_the_shake():
    video = SampleVideo("RotateClockwise", 3, 1)
    first, second = (render_frame(video, t).astype(np.int16) for t in (10, 30))
    rows, columns = sample_scene.draw_scene(3).box
    outside = np.ones((240, 320), bool)
    outside[rows, columns] = False
    change = np.abs(second - first).mean(2)
    assert outside.mean() > 0.15
    assert change[outside].mean() < 0.25 * change[~outside].mean()
    for t in range(video.num_frames):
        assert max(np.abs(sample_scene.draw_take(video).shake_at(t))) <= 1.5


@pytest.mark.parametrize("circle", [0, 1, 2, 3, 4, 5], ids=["uA", "vA", "uB", "vB", "theta", "phi"])
def test_nothing_jumps_where_a_circle_closes(circle):
    """The step across 0 is like the steps before and after it."""
    scene, step = sample_scene.draw_scene(2), TURN // 100
    states = []
    for n in (-3, -2, -1, 0, 1, 2):
        state = [1 << 28, 5 << 28, 9 << 28, 13 << 28, 3 << 28, 7 << 28]
        state[circle] = (2 * n + 1) * step // 2 % TURN  # the steps meet 0 half way
        states.append(sample_scene._render(scene, tuple(state), (0.0, 0.0)).astype(np.int16))
    changes = [np.abs(b - a).mean() for a, b in pairwise(states)]
    assert changes[2] < 1.2 * max(changes[:2] + changes[3:])
    assert changes[2] > 0.5 * min(changes)


# --- frozen ------------------------------------------------------------

FROZEN = {  # class, group, clip, frame
    ("MoveLeft", 1, 1, 0): "cef8bff524938e22",
    ("MoveRight", 2, 2, 11): "a9cb26a572c88fe3",
    ("MoveUp", 3, 1, 22): "6bf0a058b61df85e",
    ("RotateClockwise", 4, 2, 33): "f0d4a0ecd39997fa",
    ("RotateCounterclockwise", 9, 1, 44): "53a421c5dd7d193f",
    ("Still", 10, 2, 55): "4b6689b41cd8f23a",
    ("ZoomIn", 11, 1, 66): "eac597f51f933cb8",
    ("ZoomOut", 12, 2, 77): "c12488ed87993f67",
}


def test_generator_is_frozen():
    """Other digests mean other pixels: then raise GENERATOR_VERSION, and train again."""
    for (class_name, group, clip, frame), digest in FROZEN.items():
        pixels = render_frame(SampleVideo(class_name, group, clip), frame)
        assert hashlib.sha256(pixels.tobytes()).hexdigest()[:16] == digest
    everything = repr([(v, sample_scene.draw_take(v)) for v in VIDEOS]).encode()
    assert len(FROZEN) == 8
    assert GENERATOR_VERSION == 1
    assert hashlib.sha256(everything).hexdigest()[:16] == "c24f0e5764d71c02"
