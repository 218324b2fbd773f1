"""`resact bench index`: time and memory to open an index of a million videos, and to draw clips from it.

Only the index is made, with the store's own writer and random numbers of frames (30 to 196, as in UCF101) and bytes.
Each store is opened in a new process, with a cold and with a warm page cache.
"""

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console

from resact.bench.comparison import print_rows, result_of
from resact.bench.processes import in_new_process
from resact.cache.codecs import build_codec
from resact.cache.durable import create_store, store_lock
from resact.cache.index import Index, TextColumn
from resact.cache.index_files import write_index
from resact.cache.layout import array_name, crc32c
from resact.cache.settings import DatasetSettings, DecodeSettings, StoreSettings
from resact.cache.store import open_store
from resact.pipeline.executor import peak_bytes

_CLASSES = tuple(f"class{number:03d}" for number in range(400))
_DRAWN, _REPEATS = 20_000, 5


def bench_index(videos: Sequence[int], *, console: Console) -> dict[str, Any]:
    """Measure one index for each number of videos.

    Returns:
        `rows`, each `videos, frames, page_cache, open_seconds, open_peak_bytes, first_clip_milliseconds,
        microseconds_a_clip`, its rounds, `peak_bytes`; machine, versions, commit.
    """
    rows = []
    for count in videos:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "store.zarr"
            _make_store(path, count)
            console.print(f"made an index of {count:,} videos")
            frames = len(open_store(path).index.frame_bytes)
            for cache in ("cold", "warm"):
                for file in path.rglob("*") if cache == "cold" else ():
                    if file.is_file():
                        drop_from_page_cache(file)
                measured = in_new_process(_measure, str(path))
                rows.append({"videos": count, "frames": frames, "page_cache": cache, **measured})
    print_rows(
        console,
        rows,
        {
            "": "{videos:,} videos, page cache {page_cache}",
            "million\nframes": lambda row: f"{row['frames'] / 1e6:,.1f}",
            "opening\ns": "{open_seconds:.3f}",
            "memory\nMB": lambda row: f"{row['open_peak_bytes'] / 1e6:.0f}",
            "a clip\nus": "{microseconds_a_clip:.0f}",
            "memory\nthen, MB": lambda row: f"{row['peak_bytes'] / 1e6:.0f}",
        },
    )
    return result_of("index", rows=rows)


def _make_store(path: Path, videos: int) -> None:
    """A store without shards, whose index lists so many videos."""
    decode = DecodeSettings(fps="15", short_side=256, max_seconds=None, ffmpeg="7.0.2")
    dataset = DatasetSettings(
        name="synthetic", videos=videos, all_classes=len(_CLASSES), classes=_CLASSES, splits=("split1",), flip_safe=True
    )
    create_store(
        path, StoreSettings(dataset=dataset, decode=decode, codec="jpeg", library=build_codec("jpeg").library())
    )
    random = np.random.default_rng(0)
    num_frames = random.integers(30, 197, videos).astype(np.uint32)
    ends = np.cumsum(num_frames, dtype=np.uint64)
    frame_bytes = random.integers(20_000, 30_000, int(ends[-1]), dtype=np.uint32)
    parts = (crc32c(part.tobytes()) for part in np.split(frame_bytes, ends[:-1].astype(np.intp)))
    index = Index(
        video_id=TextColumn.of(f"v_{_CLASSES[0]}_g{row // 7:06d}_c{row:07d}" for row in range(videos)),
        group=TextColumn.of(f"g{row // 7:06d}" for row in range(videos)),
        problem=TextColumn.of("" for _ in range(videos)),
        label=random.integers(len(_CLASSES), size=videos, dtype=np.int32),
        status_code=np.zeros(videos, np.uint8),
        num_frames=num_frames,
        height=np.full(videos, 256, np.uint32),
        width=np.full(videos, 342, np.uint32),
        source_fps=np.full(videos, 25.0),
        source_bytes=np.full(videos, 500_000, np.uint64),
        first_frame=ends - num_frames,
        frames_crc32c=np.fromiter(parts, np.uint32, videos),
        frame_bytes=frame_bytes,
        splits={"split1": random.integers(1, 3, videos, dtype=np.uint8)},
        classes=_CLASSES,
    )
    with store_lock(path):
        write_index(path, index)


def drop_from_page_cache(path: Path) -> None:
    """Drop a file from the page cache; only pages that are already on the disk can be dropped."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _measure(path: str) -> dict[str, Any]:
    """Open the store, then draw clips and find their byte ranges. Runs in a process of its own."""
    start = time.perf_counter()
    index = open_store(path).index
    opened = time.perf_counter() - start
    open_peak = peak_bytes()

    from resact.train.clips.geometry import ClipGeometry
    from resact.train.clips.sampling import TrainPlan

    plan = TrainPlan(index, index.video_indices("split1", "train"), ClipGeometry(), seed=0, flip=True)
    start = time.perf_counter()
    plan.clip(0, 0)
    first = time.perf_counter() - start
    rounds = []
    for positions in np.arange(_DRAWN).reshape(_REPEATS, -1).tolist():
        start = time.perf_counter()
        for position in positions:
            clip = plan.clip(0, position % len(plan))
            index.frame_offsets(clip.video_index, clip.stop)[clip.start :]
            array_name(index.video_id[clip.video_index])
        rounds.append((time.perf_counter() - start) / len(positions) * 1e6)
    return {
        "open_seconds": opened,
        "open_peak_bytes": open_peak,
        "first_clip_milliseconds": first * 1e3,
        "microseconds_a_clip": median(rounds),
        "microseconds_a_clip_rounds": rounds,
        "peak_bytes": peak_bytes(),
    }
