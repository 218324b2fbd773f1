"""Small stores made with the store's own primitives, and ways to damage them."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from resact.cache.codecs import CODEC_NAMES, build_codec
from resact.cache.durable import ShardWriter, commit_video, create_store, store_lock
from resact.cache.index import Index
from resact.cache.index_files import write_index
from resact.cache.journal import Journal
from resact.cache.layout import Source, VideoRecord
from resact.cache.settings import DatasetSettings, DecodeSettings, StoreSettings

Frames = npt.NDArray[np.uint8]

# (video id, status, frames, height, width): names to escape, one frame, odd sizes, a failure named `index`
VIDEOS = (
    ("Jump/v_Jump_g01_c01", "ok", 12, 24, 32),
    ("one frame", "ok", 1, 24, 32),
    ("v_d\udce4maged.ü", "damaged", 5, 18, 34),
    ("wide", "ok", 3, 16, 50),
    ("index", "failed", 0, 0, 0),
)


@contextmanager
def folder_in_memory() -> Iterator[Path]:
    """Where there is memory for files, in which syncing costs nothing."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if os.access(shared, os.W_OK) else None) as folder:
        yield Path(folder)


@dataclass(frozen=True)
class Built:
    """A store and what has to be read from it."""

    path: Path
    settings: StoreSettings
    frames: dict[str, Frames]
    """What went in, before the codec."""
    pixels: dict[str, Frames]
    """What has to come out."""
    records: dict[str, VideoRecord]

    def copy(self, path: Path) -> "Built":
        shutil.copytree(self.path, path)
        return Built(path, self.settings, self.frames, self.pixels, self.records)


def _settings(codec: str = "zstd", **decode: Any) -> StoreSettings:
    classes = ("Jump", "Walk")
    return StoreSettings(
        dataset=DatasetSettings(
            name="sample", videos=9, all_classes=3, classes=classes, splits=("1", "2"), flip_safe=False
        ),
        decode=DecodeSettings(**{"fps": "15", "short_side": 24, "max_seconds": None, "ffmpeg": "7.0.2", **decode}),
        codec=codec,
        library=build_codec(codec).library(),
    )


def _frames(num_frames: int, height: int, width: int, seed: int) -> Frames:
    """Gradients that move, and noise: neither flat nor incompressible, no two frames alike."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    t, c = np.arange(num_frames)[:, None, None, None], np.arange(3)
    ramp = 3 * y[None, :, :, None] + 5 * x[None, :, :, None] + 11 * t + 40 * c
    return ((ramp + random.integers(0, 24, ramp.shape)) % 256).astype(np.uint8)


def _record(video_id: str, status: str = "ok", **changes: Any) -> VideoRecord:
    failed = status == "failed"
    values: dict[str, Any] = {
        "video_id": video_id,
        "class_name": "Walk" if len(video_id) % 2 else "Jump",
        "label": len(video_id) % 2,
        "group": f"g{len(video_id):02d}",
        "splits": {"1": "train"} if failed else {"1": "train", "2": "test"},
        "status": status,
        "problem": None if status == "ok" else f"{status}: Invalid data found\nwhen processing input",
        "source": Source(
            name=f"{video_id}.avi",
            bytes=12_345,
            sha256=None if failed else "ab" * 32,
            fps=None if failed else "30000/1001",
            height=0 if failed else 240,
            width=0 if failed else 320,
        ),
        "arguments": [] if failed else ["-i", f"{video_id}.avi", "-vf", "fps=15"],
        "height": 0,
        "width": 0,
        "frame_bytes": np.empty(0, np.uint32),
    }
    return VideoRecord(**{**values, **changes})


def _put(store: Path, settings: StoreSettings, record: VideoRecord, frames: Frames) -> VideoRecord:
    """Encode and commit one video inside a held lock; the record as committed."""
    if record.status == "failed":
        commit_video(store, record, settings, shard=None)
        return record
    with ShardWriter(store, record.video_id) as writer:
        for frame in frames:
            writer.append(settings.frame_codec.encode(frame))
        changes = {"height": frames.shape[1], "width": frames.shape[2], "frame_bytes": writer.finish()}
        record = VideoRecord(**{**vars(record), **changes})
        commit_video(store, record, settings, shard=writer.path)
    return record


def _decoded(settings: StoreSettings, frames: Frames) -> Frames:
    pixels = np.empty_like(frames)
    for frame, out in zip(frames, pixels, strict=True):
        settings.frame_codec.decode_into(settings.frame_codec.encode(frame), out)
    return pixels


def _build(path: Path, codec: str) -> Built:
    settings = _settings(codec)
    frames: dict[str, Frames] = {}
    records: dict[str, VideoRecord] = {}
    create_store(path, settings)
    with store_lock(path):
        journal = Journal(path)
        for seed, (video_id, status, *shape) in enumerate(VIDEOS):
            images = _frames(*shape, seed)
            records[video_id] = _put(path, settings, _record(video_id, status), images)
            if status != "failed":
                frames[video_id] = images
            journal.append([records[video_id]])
        journal.close()
        write_index(path, Index.of(records.values(), settings.dataset.classes, settings.dataset.splits))
    pixels = {video_id: _decoded(settings, images) for video_id, images in frames.items()}
    return Built(path, settings, frames, pixels, records)


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Built]:
    """One finished store a codec; never changed: `Built.copy` what is to be damaged."""
    return {codec: _build(tmp_path_factory.mktemp("stores") / f"{codec}.zarr", codec) for codec in CODEC_NAMES}


@pytest.fixture(params=CODEC_NAMES)
def built(request: pytest.FixtureRequest, stores: dict[str, Built]) -> Built:
    """Each codec's store; never changed."""
    return stores[request.param]


@pytest.fixture
def scratch(stores: dict[str, Built], tmp_path: Path) -> Built:
    """A lossless store of the test's own."""
    return stores["zstd"].copy(tmp_path / "scratch.zarr")


@pytest.fixture(scope="session")
def build_store() -> Callable[[Path, str], Built]:
    return _build


@pytest.fixture(scope="session")
def make_settings() -> Callable[..., StoreSettings]:
    return _settings


@pytest.fixture(scope="session")
def make_record() -> Callable[..., VideoRecord]:
    return _record


@pytest.fixture(scope="session")
def make_frames() -> Callable[..., Frames]:
    return _frames


@pytest.fixture(scope="session")
def put_video() -> Callable[..., VideoRecord]:
    return _put


@pytest.fixture(scope="session")
def snapshot() -> Callable[[Path], dict[str, bytes]]:
    """A store's files by path, for comparing two stores byte for byte."""

    def take(path: Path) -> dict[str, bytes]:
        return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}

    return take
