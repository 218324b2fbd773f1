"""One video in a store of its own, beside the same video in a prepped store."""

import os
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.pipeline.conftest import encode, footage
from tests.pipeline.videos import DECODE, ffmpeg, prep_files

from resact.cache.settings import FIRST_RULE, RULE
from resact.errors import DecodeError, DiskFullError, ToolError
from resact.pipeline.job import single_video as module
from resact.pipeline.job.single_video import single_video_store
from resact.pipeline.job.task import Trouble


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("videos") / "a video: [1] ü.avi"
    encode(footage("bikes"), path, start=1, seconds=1)
    return path


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made, so that a test can see that nothing stays."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.mark.parametrize(("codec", "rule"), [("zstd", RULE), ("lz4", FIRST_RULE), ("jpeg", FIRST_RULE), ("jpeg", RULE)])
def test_frames_are_those_of_a_store_of_that_codec_and_rule(
    video: Path, tmp_path: Path, temporary: Path, codec: str, rule: int
) -> None:
    """So that a network is asked about the pixels that it was trained on."""
    tagged = tmp_path / "tagged.mkv"  # of another matrix than JPEG's
    converted = "scale=out_color_matrix=bt709,format=yuv420p"
    ffmpeg("-i", video, "-vf", converted, "-c:v", "ffv1", "-colorspace", "bt709", tagged)
    decode = replace(DECODE, rule=rule)
    prepped = prep_files(tmp_path, [tagged], decode=decode, codec=codec).store
    num_frames = int(prepped.index.num_frames[0])
    with single_video_store(tagged, decode, codec=codec) as store:
        assert len(list(temporary.iterdir())) == 1
        assert store.index.num_frames.tolist() == [num_frames] == [15]
        assert store.index.status == ["ok"]
        np.testing.assert_array_equal(store.read("video", 0, num_frames), prepped.read("v000", 0, num_frames))
    assert not list(temporary.iterdir())


def test_another_ffmpeg_than_the_runs_decodes_all_the_same(video: Path) -> None:
    with single_video_store(video, replace(DECODE, ffmpeg="4.2")) as store:
        assert store.settings.decode == DECODE


def test_half_a_video_is_damaged(video: Path, tmp_path: Path) -> None:
    half = tmp_path / "half.avi"
    half.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    with single_video_store(half, DECODE) as store:
        assert store.index.status == ["damaged"]
        assert 0 < store.index.num_frames[0] < 15
        assert store.index.problem[0]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", "no such file"),
        ("empty", "the file is empty"),
        ("text", "Invalid data found"),
        ("folder", "the file cannot be read: Is a directory"),
        ("pipe", "not a regular file"),
    ],
)
def test_what_is_no_video_is_told_and_leaves_nothing(tmp_path: Path, temporary: Path, kind: str, words: str) -> None:
    path = tmp_path / "video.avi"
    if kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("no video\n" * 100)
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    with pytest.raises(DecodeError, match=words), single_video_store(path, DECODE):
        pass
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("error", [DiskFullError, ToolError, RuntimeError])
def test_what_stops_a_prep_is_raised(
    video: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    monkeypatch.setattr(module, "prep_video", lambda job, source: Trouble(error, "as told"))
    with pytest.raises(error, match="as told"), single_video_store(video, DECODE):
        pass
    assert not list(temporary.iterdir())


def test_a_full_temporary_folder_is_told(video: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_index", full)
    with pytest.raises(DiskFullError, match="no room left for"), single_video_store(video, DECODE):
        pass
    assert not list(temporary.iterdir())


def test_an_error_of_the_caller_leaves_nothing(video: Path, temporary: Path) -> None:
    with pytest.raises(KeyboardInterrupt), single_video_store(video, DECODE):
        raise KeyboardInterrupt
    assert not list(temporary.iterdir())
