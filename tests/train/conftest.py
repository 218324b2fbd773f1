"""Small clip stores with classes, groups and splits, made with the store's own primitives: no ffmpeg."""

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.train.own_code import MODULES, write_own_code

from resact.cache.codecs import build_codec
from resact.cache.durable import ShardWriter, commit_video, create_store, store_lock
from resact.cache.index import Index
from resact.cache.index_files import write_index
from resact.cache.layout import Source, VideoRecord
from resact.cache.settings import DatasetSettings, DecodeSettings, StoreSettings
from resact.cache.store import ClipStore, open_store

CLASSES = ("Fall", "Rise", "Rest")


def clip_store_settings(codec: str = "zstd", *, flip_safe: bool = False, short_side: int = 24) -> StoreSettings:
    return StoreSettings(
        dataset=DatasetSettings(
            name="tiny", videos=0, all_classes=3, classes=CLASSES, splits=("split1", "split2"), flip_safe=flip_safe
        ),
        decode=DecodeSettings(fps="15", short_side=short_side, max_seconds=None, ffmpeg="7.0.2"),
        codec=codec,
        library=build_codec(codec).library(),
    )


def make_clip_store(
    path: Path,
    lengths: Sequence[int],
    *,
    codec: str = "zstd",
    sizes: Sequence[tuple[int, int]] = ((24, 32), (24, 36), (30, 24)),
    settings: StoreSettings | None = None,
) -> ClipStore:
    """One video a length, of frames that tell the video, the time and the place; classes, groups and sizes in turn.

    Videos 0, 1, 2 are of classes 0, 1, 2 and group 1; then groups 2, 3, 4. Group 4 is split 1's test list.
    """
    videos = []
    for number, length in enumerate(lengths):
        label, group = number % 3, number // 3 % 4 + 1
        splits = {"split1": "test" if group == 4 else "train", "split2": "train" if group == 4 else "test"}
        name, where = f"v_{CLASSES[label]}_g{group:02d}_n{number:03d}", f"{CLASSES[label]}/g{group:02d}"
        frames = clip_store_frames(number, length, *sizes[number % len(sizes)])
        videos.append(({"video_id": name, "label": label, "group": where, "splits": splits}, frames))
    return write_store(path, settings or clip_store_settings(codec), videos)


def write_store(
    path: Path, settings: StoreSettings, videos: Sequence[tuple[dict[str, Any], np.ndarray]], source_fps: str = "25"
) -> ClipStore:
    """A finished store of videos: of each its id, label, group and splits, and its frames (T, H, W, 3)."""
    records, classes = [], settings.dataset.classes
    create_store(path, settings)
    with store_lock(path):
        for known, frames in videos:
            size = {"height": frames.shape[1], "width": frames.shape[2]}
            source = Source(name="tiny.avi", bytes=1, sha256="ab" * 32, fps=source_fps, **size)
            with ShardWriter(path, known["video_id"]) as writer:
                for frame in frames:
                    writer.append(settings.frame_codec.encode(frame))
                made = {"status": "ok", "problem": None, "arguments": [], "frame_bytes": writer.finish()}
                record = VideoRecord(class_name=classes[known["label"]], source=source, **known, **size, **made)
                commit_video(path, record, settings, shard=writer.path)
            records.append(record)
        write_index(path, Index.of(records, classes, settings.dataset.splits))
    return open_store(path)


def clip_store_frames(number: int, length: int, height: int, width: int) -> np.ndarray:
    """(T, H, W, 3) uint8: a bright bar that falls, rises or rests, over noise of the video's own."""
    random = np.random.default_rng(number)
    frames = random.integers(0, 64, (1, height, width, 3)).repeat(length, 0) + random.integers(0, 6, (length, 1, 1, 3))
    y, t = np.arange(height), np.arange(length)
    speed = (1, -1, 0)[number % 3]
    bar = (y[None] - speed * t[:, None] - number) % height < 4
    return (frames + 150 * bar[:, :, None, None]).astype(np.uint8)


@pytest.fixture(scope="module")
def interpreter() -> Iterator[ProcessPoolExecutor]:
    """A process that imports Triton with its interpreter switched on."""
    spawn = multiprocessing.get_context("spawn")
    with pytest.MonkeyPatch.context() as patch, ProcessPoolExecutor(1, spawn, _quicken_interpreter) as pool:
        patch.setenv("TRITON_INTERPRET", "1")
        pool.submit(os.getpid).result()  # started, with the variable set
        patch.undo()
        yield pool


@dataclass(frozen=True)
class Place:
    """Where Triton's kernels run."""

    device: str
    pool: ProcessPoolExecutor | None

    def __call__(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        if self.pool is None:
            return function(*arguments, **options)
        return self.pool.submit(function, *arguments, **options).result()


@pytest.fixture(scope="module", params=["interpreter", "cuda"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """The interpreter, and a GPU where there is one."""
    import torch

    if request.param == "interpreter":
        yield Place("cpu", request.getfixturevalue("interpreter"))
    elif torch.cuda.is_available():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.backends.cudnn, "allow_tf32", False)  # or eager convolutions would be far from float32
            yield Place("cuda", None)
    else:
        pytest.skip("no GPU here")


def _quicken_interpreter() -> None:
    """Leaves out more than half of its work: overflows, which it looks for and then reports to nobody, and patches of
    Triton's language at each call of a function within a kernel, which last from the first call on."""
    from triton.runtime import interpreter

    builder, patch = interpreter.interpreter_builder, cache(interpreter._patch_lang)
    builder.options = replace(builder.options, sanitize_overflow=False)

    def call(function: Any, *arguments: Any, **options: Any) -> Any:
        patch(function.fn)
        return function.rewrite()(*arguments, **options)

    interpreter.InterpretedFunction.__call__ = call


@pytest.fixture(scope="session")
def clip_store(tmp_path_factory: pytest.TempPathFactory) -> ClipStore:
    """Twelve videos, four of them too short for a clip of 8 frames and a step of 2; never changed."""
    return make_clip_store(tmp_path_factory.mktemp("train") / "tiny.zarr", [12, 20, 3, 15, 1, 30, 11, 9, 14, 10, 25, 7])


@pytest.fixture
def own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder has modules with networks in it, which Python forgets afterwards."""
    folder = write_own_code(tmp_path / "code")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield folder
    for name in MODULES:
        sys.modules.pop(name, None)
