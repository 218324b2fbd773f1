"""Windows along a video, beside the frames that prep would put into a store."""

import gc
import math
import re
import tracemalloc
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from threading import Timer
from typing import Any

import numpy as np
import pytest
from tests.pipeline.conftest import encode, footage
from tests.pipeline.videos import DECODE, ffmpeg, numbered, numbers_in, write_video

from resact.cache.settings import FIRST_RULE, DecodeSettings
from resact.errors import DecodeError, UsageError
from resact.pipeline.decoding import decode as decoding
from resact.pipeline.job.single_video import single_video_store
from resact.pipeline.job.windows import VideoWindows, parse_every

FRAMES = 9


def windows_of(video: Path, decode: DecodeSettings = DECODE, *, every: object = "0.5", **more: Any) -> VideoWindows:
    options = {"codec": "lz4", "frames": FRAMES, **more}
    return VideoWindows(video, decode, every=Fraction(str(every)), **options)


def stored_frames(video: Path, decode: DecodeSettings = DECODE, codec: str = "lz4") -> np.ndarray:
    with single_video_store(video, decode, codec=codec) as store:
        return store.read("video", 0, int(store.index.num_frames[0]))


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("videos") / "a video: [1] ü.avi"
    encode(footage("bikes"), path, start=1, seconds=3)
    return path


@pytest.mark.parametrize(
    ("codec", "decode"),
    [
        ("jpeg", DECODE),
        ("lz4", replace(DECODE, fps="30000/1001")),
        ("zstd", replace(DECODE, rule=FIRST_RULE)),
        ("jpeg", replace(DECODE, fps="source")),
        ("jpeg", replace(DECODE, max_seconds=0.5)),  # of each of the store's videos, not of this one
    ],
)
def test_frames_are_those_of_a_store(video: Path, codec: str, decode: DecodeSettings) -> None:
    expected = stored_frames(video, replace(decode, max_seconds=None), codec)
    rate = Fraction(25) if decode.fps == "source" else Fraction(decode.fps)
    source = windows_of(video, decode, codec=codec)
    windows = list(source)
    starts = [math.floor(number * rate / 2 + Fraction(1, 2)) for number in range(9)]
    # One that begins in the video and does not fit is moved back, to end with it.
    starts = [min(start, len(expected) - FRAMES) for start in starts if start < len(expected)]
    assert [round(window.start_seconds * rate) for window in windows] == starts
    for window, start in zip(windows, starts, strict=True):
        np.testing.assert_array_equal(window.frames, expected[start : start + FRAMES])
        assert window.stop_seconds == pytest.approx(float((start + FRAMES) / rate))
    assert (source.num_frames, source.problem, source.note) == (len(expected), None, None)
    assert source.duration_seconds == pytest.approx(3, abs=0.1)
    assert source.seconds == pytest.approx(float(len(expected) / rate))


def test_windows_further_apart_than_they_are_long(video: Path) -> None:
    windows = list(windows_of(video, every=1))
    expected = stored_frames(video)
    assert [window.start_seconds for window in windows] == [0, 1, 2]
    for window in windows:
        start = round(window.start_seconds * 15)
        np.testing.assert_array_equal(window.frames, expected[start : start + FRAMES])


def test_a_video_shorter_than_a_window_gives_all_its_frames(video: Path) -> None:
    (window,) = windows_of(video, frames=200)
    np.testing.assert_array_equal(window.frames, stored_frames(video))


@pytest.fixture(scope="module")
def slowing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It says 30 fps, and keeps to it for 120 frames; the other 180 come at 20."""
    path = tmp_path_factory.mktemp("slowing") / "slowing.mkv"
    setpts = "setpts='if(lt(N,120),N/30,4+(N-120)/20)/TB'"
    return write_video(
        path, numbered(300), "-vf", f"settb=1/1000,{setpts}", "-fps_mode", "passthrough", "-c:v", "ffv1",
        "-enc_time_base", "1/1000", fps=30,
    )  # fmt: skip


def test_where_the_rate_turns_out_wrong_windows_go_on_at_the_right_times(slowing: Path) -> None:
    source = windows_of(slowing, every=0.6)
    windows = list(source)
    assert [window.start_seconds for window in windows][:-1] == pytest.approx(
        [0.6 * n for n in range(len(windows) - 1)]
    )
    assert windows[-1].stop_seconds == pytest.approx(13, abs=0.2)
    for window in windows:
        for place, number in enumerate(numbers_in(window.frames)):
            seconds = window.start_seconds + place / 15
            expected = 30 * seconds if seconds < 4 else 120 + 20 * (seconds - 4)
            assert abs(number - expected) <= 2, (window.start_seconds, place)
    assert source.note is not None  # ffmpeg may be some frames ahead, and with it what is known
    assert re.fullmatch(r"its frames do not match its declared frame rate: from [1-3]\.\d s on .*", source.note)
    assert source.problem is None


def test_a_short_video_is_sampled_as_in_a_store_whatever_it_declares(slowing: Path) -> None:
    """All of it is known before its only window is given."""
    (window,) = windows_of(slowing, frames=1000)
    np.testing.assert_array_equal(window.frames, stored_frames(slowing))


def test_rates_are_not_tried_without_end(slowing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "choose", lambda *_: decoding.Sampling(rate="29", by_stamps=False))
    windows = list(windows_of(slowing, every=0.6))
    assert windows[-1].stop_seconds == pytest.approx(13, abs=0.2)


def test_nothing_is_decoded_before_it_is_asked_for_and_little_is_kept(tmp_path: Path) -> None:
    video = write_video(tmp_path / "long.mkv", np.zeros((50, 48, 64, 3), np.uint8), "-c:v", "ffv1")
    ffmpeg("-stream_loop", 19, "-i", video, "-c", "copy", tmp_path / "longer.mkv")  # 40 seconds, 5.5 MB of frames
    source = windows_of(tmp_path / "longer.mkv", every=1)
    gc.collect()
    tracemalloc.start()
    try:
        taken = iter(source)
        next(taken)
        assert source.num_frames == FRAMES
        tracemalloc.reset_peak()
        count = sum(1 for _ in taken)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 39
    assert source.num_frames == 600
    assert peak < 3e6  # 1 MB of it is for reading the log


def test_a_file_that_breaks_off_keeps_its_windows_and_says_where(video: Path, tmp_path: Path) -> None:
    half = tmp_path / "half.avi"
    half.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    whole = [window.frames for window in windows_of(video)]
    windows: list[np.ndarray] = []

    def take() -> None:
        for window in windows_of(half):
            windows.append(window.frames)

    with pytest.raises(DecodeError, match=r"it breaks off at 1\.\d s: .*the file ends after"):
        take()
    assert 2 <= len(windows) < len(whole)
    for frames, expected in zip(windows[:-2], whole, strict=False):  # the last ones may hold the damage
        np.testing.assert_array_equal(frames, expected)


def test_damage_that_frames_follow_is_told_and_no_end(video: Path, tmp_path: Path, seed: int) -> None:
    damaged, data = tmp_path / "damaged.avi", bytearray(video.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 200] = np.random.default_rng(seed).bytes(200)
    damaged.write_bytes(data)
    source = windows_of(damaged)
    assert len(list(source)) == len(list(windows_of(video)))
    assert source.problem


def test_files_that_are_none(tmp_path: Path, video: Path) -> None:
    empty, text = tmp_path / "empty.avi", tmp_path / "text.avi"
    empty.touch()
    text.write_text("no video " * 100)
    for path, words in ((tmp_path / "gone.avi", "no such file"), (tmp_path, "Is a directory"), (empty, "is empty")):
        with pytest.raises(DecodeError, match=words):
            list(windows_of(path))
    with pytest.raises(DecodeError):
        list(windows_of(text))


def test_the_time_that_others_take_does_not_count(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timers: list[Timer] = []

    class Noted(Timer):
        def __init__(self, seconds: float, function: Any) -> None:
            super().__init__(seconds, function)
            timers.append(self)

    monkeypatch.setattr(decoding, "Timer", Noted)
    for _ in windows_of(video, timeout_seconds=100):
        assert timers[-1].finished.is_set()  # cancelled, for as long as the window is worked on
    assert len(timers) > 40


def test_a_decoder_that_stands_still_is_given_up(video: Path) -> None:
    with pytest.raises(DecodeError, match=r"no frame within 1e-06 s \(--timeout\)"):
        list(windows_of(video, timeout_seconds=1e-6))


@pytest.mark.parametrize(
    ("text", "seconds"), [("1s", 1), ("0.5", 0.5), ("500ms", 0.5), ("2min", 120), (" 1 h", 3600), ("1.5 s", 1.5)]
)
def test_times(text: str, seconds: float) -> None:
    assert parse_every(text) == Fraction(str(seconds))


@pytest.mark.parametrize("text", ["0s", "-1s", "", "s", "1 m", "1e3", "nan", "inf"])
def test_no_times(text: str) -> None:
    with pytest.raises(UsageError, match="expected a time above 0, such as 1s, 500ms or 2min"):
        parse_every(text)


def test_less_than_a_frame(video: Path) -> None:
    with pytest.raises(UsageError, match=r"got --every 0.05s, expected at least a frame, which is 0.06667 s here"):
        windows_of(video, every=0.05)
    with pytest.raises(UsageError, match=r"which is 0.04 s here"):
        list(windows_of(video, replace(DECODE, fps="source"), every=0.03))
