"""Small stores made with the store's own primitives, and ways to damage them."""

import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
import pytest

from resact.cache.codecs import CODEC_NAMES, build_codec
from resact.cache.durable import ShardWriter, commit_video, create_store, store_lock
from resact.cache.index import Index
from resact.cache.index_files import write_index
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
        return replace(self, path=shutil.copytree(self.path, path))


def make_settings(codec: str = "zstd", **decode: Any) -> StoreSettings:
    classes = ("Jump", "Walk")
    return StoreSettings(
        dataset=DatasetSettings(
            name="sample", videos=9, all_classes=3, classes=classes, splits=("1", "2"), flip_safe=False
        ),
        decode=DecodeSettings(**{"fps": "15", "short_side": 24, "max_seconds": None, "ffmpeg": "7.0.2", **decode}),
        codec=codec,
        library=build_codec(codec).library(),
    )


def make_frames(num_frames: int, height: int, width: int, seed: int) -> Frames:
    """Gradients that move, and noise: neither flat nor incompressible, no two frames alike."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    t, c = np.arange(num_frames)[:, None, None, None], np.arange(3)
    ramp = 3 * y[None, :, :, None] + 5 * x[None, :, :, None] + 11 * t + 40 * c
    return ((ramp + random.integers(0, 24, ramp.shape)) % 256).astype(np.uint8)


def make_record(video_id: str, status: str = "ok", **changes: Any) -> VideoRecord:
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


def put_video(store: Path, settings: StoreSettings, record: VideoRecord, frames: Frames | None) -> VideoRecord:
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


def make_store(
    path: Path, settings: StoreSettings, videos: Iterable[tuple[VideoRecord, Frames | None]]
) -> dict[str, VideoRecord]:
    """A finished store of these videos; their records as committed."""
    create_store(path, settings)
    with store_lock(path):
        records = [put_video(path, settings, record, frames) for record, frames in videos]
        write_index(path, Index.of(records, settings.dataset.classes, settings.dataset.splits))
    return {record.video_id: record for record in records}


def build(path: Path, codec: str, **decode: Any) -> Built:
    """A finished store of `VIDEOS`."""
    settings = make_settings(codec, **decode)
    images = {video_id: make_frames(*shape, seed) for seed, (video_id, _, *shape) in enumerate(VIDEOS)}
    records = make_store(
        path, settings, [(make_record(video_id, status), images[video_id]) for video_id, status, *_ in VIDEOS]
    )
    frames = {video_id: images[video_id] for video_id, record in records.items() if record.status != "failed"}
    pixels = {video_id: _decoded(settings, images) for video_id, images in frames.items()}
    return Built(path, settings, frames, pixels, records)


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Built]:
    """One finished store a codec; never changed: `Built.copy` what is to be damaged."""
    return {codec: build(tmp_path_factory.mktemp("stores") / f"{codec}.zarr", codec) for codec in CODEC_NAMES}


@pytest.fixture(params=CODEC_NAMES)
def built(request: pytest.FixtureRequest, stores: dict[str, Built]) -> Built:
    """Each codec's store; never changed."""
    return stores[request.param]


@pytest.fixture
def scratch(stores: dict[str, Built], tmp_path: Path) -> Built:
    """A lossless store of the test's own."""
    return stores["zstd"].copy(tmp_path / "scratch.zarr")


def snapshot(path: Path) -> dict[str, bytes]:
    """A store's files by path, for comparing two stores byte for byte."""
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


class Requests(logging.Handler):
    """What the server was asked, such as `GET /bucket/a.zarr/wide/0.0.0.0`, as it logs it."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage().partition('"')[2])

    def take(self) -> list[str]:
        taken, self.lines = self.lines, []
        return [" ".join(line.removeprefix("\x1b[35m\x1b[1m").split(" ")[:2]) for line in taken]


@pytest.fixture
def requests() -> Iterator[Requests]:
    log, handler = logging.getLogger("werkzeug"), Requests()
    log.addHandler(handler)
    yield handler
    log.removeHandler(handler)


@dataclass(frozen=True)
class Place:
    """A folder or a bucket, by its URL, and what is in it."""

    url: str

    @property
    def _system(self) -> tuple[Any, str]:
        return fsspec.core.url_to_fs(self.url)

    def names(self) -> list[str]:
        system, root = self._system
        system.invalidate_cache()
        return [name.removeprefix(f"{root}/") for name in system.find(root)]

    def files(self) -> dict[str, bytes]:
        system, root = self._system
        return {name: system.cat_file(f"{root}/{name}") for name in self.names()}

    def write(self, name: str, data: bytes) -> None:
        system, root = self._system
        system.makedirs(f"{root}/{name}".rpartition("/")[0], exist_ok=True)
        system.pipe_file(f"{root}/{name}", data)

    def remove(self, name: str) -> None:
        system, root = self._system
        system.rm_file(f"{root}/{name}")


def forked(work: Callable[[], None]) -> int:
    """The id of a process that does some work. It has imported everything, as a kill during imports proves nothing."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This process .* is multi-threaded, use of fork")  # of Python 3.12
        child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return child


def exit_code(child: int) -> int:
    """Once the process has ended; minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
