"""`bench loader`: every competitor shows the same clips, and the result says what was measured and what was not."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from rich.console import Console
from tests.bench.conftest import bench as run_bench
from tests.bench.conftest import make_bikes
from tests.prepped import at_15_fps, prepped

from resact.bench import competitors, processes
from resact.bench import loader as bench
from resact.bench.competitors import (
    NORMALISATION,
    Task,
    decord_frames,
    open_team,
    pyav_frames,
    scaled,
    torchcodec_frames,
    zarr_frames,
)
from resact.bench.loader import bench_loader
from resact.cache.store import open_store
from resact.errors import ToolError, UsageError
from resact.pipeline.datasets.registry import load_dataset
from resact.train.clips.geometry import ClipGeometry
from resact.train.clips.plain_transform import transform_clip
from resact.train.clips.sampling import Clip, TrainPlan

GEOMETRY = ClipGeometry(modality="both", frames=8, size=32)
QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """UCF101's layout with one class of four short videos of moving footage."""
    folder = tmp_path_factory.mktemp("ucf101")
    make_bikes(folder, (2.0, 2.4, 2.8, 3.2))
    return folder


@pytest.fixture(scope="module")
def stores(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    videos = load_dataset("ucf101", root=root, classes=["Bikes"], allow_partial=True)
    folder, decode = tmp_path_factory.mktemp("stores"), at_15_fps(short_side=96)
    made = {codec: prepped(videos, decode, codec, folder / f"{codec}.zarr") for codec in ("jpeg", "lz4")}
    return {codec: str(store.files) for codec, store in made.items()}


@pytest.fixture(scope="module")
def sources(root: Path) -> dict[str, Path]:
    return {path.stem: path for path in (root / "UCF-101" / "Bikes").iterdir()}


@pytest.fixture
def task(stores: dict[str, str], sources: dict[str, Path]) -> Task:
    index = open_store(stores["lz4"]).index
    files = {row: str(sources[index.video_id[row]]) for row in range(4)}
    return Task(store=stores["lz4"], sources=files, video_indices=(0, 1, 2, 3), geometry=GEOMETRY, seed=3)


@pytest.fixture
def clips(task: Task) -> list[Clip]:
    """Of three epochs."""
    _, plan = task.open()
    return [plan.clip(epoch, position) for epoch in range(3) for position in range(len(plan))]


@cache
def decoded(path: str, **size: int) -> np.ndarray:
    """All frames of a video, decoded one by one, in its own size or in `width` and `height`."""
    with av.open(path) as container:
        frames = [frame.to_ndarray(format="rgb24", **size) for frame in container.decode(video=0)]
    return np.stack(frames).astype(np.int16)


def assert_nearest_in_time(task: Task, clip: Clip, got: np.ndarray, **size: int) -> None:
    video = decoded(task.sources[clip.video_index], **size)
    wanted = [min(round(at * 25 / 15 + 1e-9), len(video) - 1) for at in range(clip.start, clip.stop)]
    assert got.shape == (len(wanted), *video.shape[1:])
    some = np.s_[:, ::3, ::5]  # of the pixels
    for frame, expected in zip(got[some].astype(np.int16), wanted, strict=True):
        differences = np.abs(video[some] - frame).mean((1, 2, 3))
        assert differences.argmin() == expected
        assert differences[expected] < 2  # conversions to RGB differ a little


@pytest.mark.parametrize(
    ("frames", "size"),
    [(decord_frames, {}), (partial(decord_frames, resized=True), {"width": 128, "height": 96}), (pyav_frames, {})],
)
def test_a_competitor_gives_the_frames_nearest_in_time(
    frames, size: dict[str, int], task: Task, clips: list[Clip]
) -> None:
    get = frames(task)
    for clip in clips:
        assert_nearest_in_time(task, clip, get(clip).numpy(), **size)


def torchcodec_gives(task: Task, clips: list[Clip]) -> list[np.ndarray]:
    return list(map(torch.Tensor.numpy, map(torchcodec_frames(task), clips)))


def test_torchcodec_with_pyavs_ffmpeg_gives_them_too(task: Task, clips: list[Clip]) -> None:
    """In a process of its own: it looks for FFmpeg's libraries when it starts."""
    own = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
    with own, competitors.ffmpeg_of_pyav():
        got = own.submit(torchcodec_gives, task, clips).result()
    for clip, frames in zip(clips, got, strict=True):
        assert_nearest_in_time(task, clip, frames)


def test_pyav_shows_the_last_frame_for_those_that_the_container_has_too_many(task: Task, clips: list[Clip]) -> None:
    clip = clips[0]
    video = decoded(task.sources[clip.video_index])
    last = len(video) * 15 // 25
    got = pyav_frames(task)(replace(clip, start=last - 3, stop=last + 5)).numpy()
    assert len(got) == 8
    assert np.array_equal(got[-1], video[-1])


def test_zarr_gives_the_stored_frames(task: Task, clips: list[Clip]) -> None:
    clip = clips[1]
    expected = open_store(task.store).read_frames(clip.video_index, clip.start, clip.stop)
    assert np.array_equal(zarr_frames(task)(clip).numpy(), expected)


def test_a_competitors_finished_clip_is_the_same_picture_as_ours(task: Task, clips: list[Clip]) -> None:
    store = open_store(task.store)
    for clip in clips[4:8]:
        stored = torch.from_numpy(store.read_frames(clip.video_index, clip.start, clip.stop))
        ours = transform_clip(stored, clip, GEOMETRY, NORMALISATION)["rgb"]
        others = []
        for shift in (0, 8):  # as it should be, and a little beside
            frames = decord_frames(task)(clip)
            moved = scaled(clip, 96, 240, 320)
            moved = replace(moved, left=abs(moved.left - shift))
            others.append(transform_clip(frames, moved, GEOMETRY, NORMALISATION)["rgb"])
        right, beside = ((ours - other).abs().mean().item() for other in others)
        assert right < 0.12
        assert right < 0.6 * beside


@pytest.mark.parametrize(("height", "width"), [(240, 320), (96, 128), (33, 33), (1, 1)])
def test_a_square_stays_within_frames_of_another_size(height: int, width: int, stores: dict[str, str]) -> None:
    index = open_store(stores["lz4"]).index
    plan = TrainPlan(index, np.arange(4), GEOMETRY, seed=0, flip=True)
    for epoch in range(40):
        clip = scaled(plan.clip(epoch, epoch % 4), 96, height, width)
        assert 1 <= clip.side <= min(height, width)
        assert 0 <= clip.top <= height - clip.side
        assert 0 <= clip.left <= width - clip.side


def test_what_takes_part_is_checked_before_anything_runs(
    stores: dict[str, str], sources: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"geometry": GEOMETRY, "cores": (1,), "clips": 2, "rounds": 1, "seed": 0, "console": QUIET}
    with pytest.raises(UsageError, match="got competitor 'dali', expected some of decord, decord resized, torch"):
        bench_loader([stores["lz4"]], sources, competitors=["dali"], **options)
    with pytest.raises(UsageError, match=r"got 99 cores, expected 1 to"):
        bench_loader([stores["lz4"]], sources, competitors=[], **{**options, "cores": (99,)})
    with pytest.raises(UsageError, match=r"two stores of one codec"):
        bench_loader([stores["lz4"]] * 2, sources, competitors=[], **options)
    with pytest.raises(UsageError, match=r"holds 'v_Bikes_g01_c\d\d', of which there is no source"):
        bench_loader([stores["lz4"]], {}, competitors=[], **options)
    monkeypatch.setattr(bench, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r'decord is not installed: run `pip install -c \S+ "\.\[bench\]"`'):
        bench_loader([stores["lz4"]], sources, competitors=["decord"], **options)


def test_a_competitor_that_cannot_be_loaded_says_why(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "decord.py").write_text("raise OSError('libavformat.so.58: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ToolError, match=r"decord: OSError: libavformat.so.58: cannot open shared object file"):
        open_team("decord", task, [0])
    assert not multiprocessing.active_children()


def test_a_competitor_that_fails_in_a_round_ends_the_benchmark_and_its_processes(task: Task) -> None:
    missing = replace(task, sources=dict.fromkeys(task.sources, "nowhere.avi"))
    team = open_team("pyav", missing, [0])
    with pytest.raises(ToolError, match=r"pyav: FileNotFoundError: .*nowhere.avi"):
        team.run(0)
    assert not multiprocessing.active_children()


def test_the_command_measures_all_and_prints_what_scripts_read(
    root: Path, stores: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["ucf101", "--root", root, "--classes", "Bikes", "--allow-partial", "--stores", stores["jpeg"]]
    words += ["--competitors", "decord", "--frames", 8, "--size", 32, "--cores", 1, "--rounds", 2]
    # Whose processes have imported everything: two seconds less for each competitor.
    monkeypatch.setattr(processes, "get_context", lambda method: multiprocessing.get_context("forkserver"))
    result, said = run_bench(tmp_path, "loader", *words)
    assert "VideoReader(path, num_threads=1)" in said
    assert result["clips_a_round"] == 4
    rows = {(row["name"], row["page_cache"]): row for row in result["rows"]}
    names = {"ours", "ours uint8", "zarr", "zarr uint8", "bare decode", "decord"}
    assert set(rows) == {(name, cache) for name in names for cache in ("warm", "cold")}
    for row in rows.values():
        assert row["clips_per_second"] > 0
        assert len(row["clips_per_second_rounds"]) == 2
        assert row["cores"] == 1
    ours, uint8 = rows["ours", "warm"], rows["ours uint8", "warm"]
    assert ours["codec"] == uint8["codec"] == "jpeg"
    for name in ("decord", "zarr"):
        rounds = zip(ours["clips_per_second_rounds"], rows[name, "warm"]["clips_per_second_rounds"], strict=True)
        assert ours[f"ratio_to_{name}"] == pytest.approx(np.median([our / their for our, their in rounds]))
    assert ours["ratio_to_bare_decode"] is None
    assert ours["ratio_to_torchcodec"] is None
    assert uint8["ratio_to_bare_decode"] > 0
    assert uint8["ratio_to_decord"] is None


def test_every_competitor_is_described() -> None:
    assert set(competitors.CALLS) == set(competitors.READERS)
    assert set(competitors.PACKAGES) < set(competitors.READERS)
