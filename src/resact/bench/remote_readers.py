"""The competitors of `resact bench remote`: readers of videos in a bucket, ours and others', each in its own process.

All get the same stored frames, decode them with the store's codec, and finish them with the same transform: one clip
per video and epoch, both modalities. A reader is a function that takes a `Task` and returns a function of the epoch,
which makes all clips of an epoch and returns the number of different videos in them.
"""

import io
import os
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib import import_module
from multiprocessing import set_start_method
from pathlib import Path
from typing import Any, cast

from torch.utils.data import DataLoader

from resact.bench.competitors import BATCH, NORMALISATION, Task, different_videos, stream
from resact.bench.object_server import BUCKET
from resact.bench.processes import Epoch, Team
from resact.cache.files import Files
from resact.cache.layout import SHARD, array_name
from resact.cache.store import open_store
from resact.train.clips.dataset import ClipDataset

CHUNK_BYTES = 16 << 20
"""Both others' default is 64 MB, made for larger data sets: here it would leave them a handful of files."""


# Ours -------------------------------------------------------------------------------------------------------


def in_workers(task: Task, *, url: str) -> Epoch:
    """`ClipDataset` with a cache, in PyTorch's loader."""
    store, plan = task.open(url, task.cache)
    clips = ClipDataset(store, plan, normalisation=NORMALISATION)
    loader = DataLoader(clips, batch_size=BATCH, num_workers=task.threads, persistent_workers=True)

    def epoch(number: int) -> int:
        clips.epoch = number
        return different_videos(loader)

    return epoch


# Others -----------------------------------------------------------------------------------------------------


class _Given:
    """A store's file that somebody else has fetched."""

    data = b""

    def read_range(self, name: str, start: int, stop: int) -> bytes:  # noqa: ARG002
        return self.data[start:stop]


class Finish:
    """From a video's shard, fetched by others' readers, to the clip that `ClipDataset` gives."""

    def __init__(self, task: Task) -> None:
        store, plan = task.open()
        self._given = _Given()
        self._clips = ClipDataset(replace(store, files=cast(Files, self._given)), plan, normalisation=NORMALISATION)
        self._seen: Counter[int] = Counter()
        self._positions: dict[int, dict[int, int]] = {}
        """Of each video, by epoch."""

    def __call__(self, video_index: int, shard: bytes) -> dict[str, Any]:
        """The clip of this video in the first epoch, then in the next one, and so on."""
        self._clips.epoch = epoch = self._seen[video_index]
        self._seen[video_index] += 1
        self._given.data = shard
        if epoch not in self._positions:
            plan = self._clips.plan
            self._positions[epoch] = {plan.clip(epoch, position).video_index: position for position in range(len(plan))}
        return self._clips[self._positions[epoch][video_index]]


def litdata(task: Task) -> Epoch:
    """LitData: `StreamingDataset` in its `StreamingDataLoader`."""
    import_module("litdata.streaming.downloader")._OBSTORE_CLIENT_OPTIONS["allow_http"] = True  # no option says so
    options = {"cache_dir": task.cache, "seed": task.seed, "max_cache_size": "50GB"}
    return _others(task, "litdata", input_dir=f"s3://{BUCKET}/litdata", **options)


def mosaic(task: Task) -> Epoch:
    """MosaicML Streaming: `StreamingDataset` in its `StreamingDataLoader`."""
    options = {"local": task.cache, "shuffle_seed": task.seed, "batch_size": BATCH, "cache_limit": "50gb"}
    return _others(task, "streaming", remote=f"s3://{BUCKET}/mds", **options)


def _others(task: Task, name: str, **options: Any) -> Epoch:
    package, finish = import_module(name), Finish(task)

    class Clips(package.StreamingDataset):  # type: ignore[misc, name-defined]
        def __getitem__(self, index: Any) -> dict[str, Any]:
            sample = super().__getitem__(index)
            return finish(int(sample["video_index"]), sample["shard"])

    clips = Clips(shuffle=True, **options)
    loader = package.StreamingDataLoader(clips, batch_size=BATCH, num_workers=task.threads, persistent_workers=True)
    return lambda _: different_videos(loader)


# What the bucket holds for them -----------------------------------------------------------------------------


def write_litdata(task: Task, folder: Path) -> None:
    """The videos' shards as LitData's chunks."""
    with redirect_stdout(io.StringIO()):
        import_module("litdata").optimize(
            partial(sample, task.store), list(task.video_indices), str(folder), chunk_bytes=CHUNK_BYTES, num_workers=1
        )


def write_mosaic(task: Task, folder: Path) -> None:
    """The videos' shards as MosaicML Streaming's shards."""
    package = import_module("streaming")
    columns = {"video_index": "int", "shard": "bytes"}
    with package.MDSWriter(out=str(folder), columns=columns, size_limit=CHUNK_BYTES) as writer:
        for video_index in task.video_indices:
            writer.write(sample(task.store, video_index))


def sample(store: str, video_index: int) -> dict[str, Any]:
    """A video as others' readers get it."""
    name = array_name(open_store(store).index.video_id[video_index])
    return {"video_index": video_index, "shard": (Path(store) / name / SHARD).read_bytes()}


@dataclass(frozen=True)
class Rival:
    """Another package's reader."""

    package: str
    distribution: str
    folder: str
    write: Callable[[Task, Path], None]
    read: Callable[[Task], Epoch]
    call: str


RIVALS = {
    "litdata": Rival(
        "litdata", "litdata", "litdata", write_litdata, litdata,
        "optimize(..., chunk_bytes=16 MiB); StreamingDataset('s3://...', cache_dir=DIR, shuffle=True, "
        "max_cache_size='50GB') in StreamingDataLoader(batch_size=8, num_workers=WORKERS, persistent_workers=True)",
    ),
    "mosaicml": Rival(
        "streaming", "mosaicml-streaming", "mds", write_mosaic, mosaic,
        "MDSWriter(size_limit=16 MiB); StreamingDataset(remote='s3://...', local=DIR, shuffle=True, batch_size=8, "
        "cache_limit='50gb') in StreamingDataLoader(batch_size=8, num_workers=WORKERS, persistent_workers=True)",
    ),
}  # fmt: skip
URL = f"s3://{BUCKET}/store.zarr"
READERS: dict[str, Callable[[Task], Epoch]] = {
    "folder": stream,
    "no cache": partial(stream, url=URL),
    "cache": partial(stream, url=URL, cached=True),
    "cache, loader": partial(in_workers, url=URL),
    **{name: rival.read for name, rival in RIVALS.items()},
}
CALLS = {
    "folder": "open_store(FOLDER); ClipStream(batch_size=8, threads=WORKERS)",
    "no cache": "open_store('s3://...'); ClipStream(batch_size=8, threads=4 * WORKERS)",
    "cache": "open_store('s3://...', cache=DIR); ClipStream(batch_size=8, threads=4 * WORKERS)",
    "cache, loader": "open_store('s3://...', cache=DIR); ClipDataset in DataLoader(batch_size=8, num_workers=WORKERS, "
    "persistent_workers=True)",
    **{name: rival.call for name, rival in RIVALS.items()},
}


def open_team(name: str, task: Task) -> Team:
    """A reader's own process. Its first epoch includes all that it fetches, but not its imports.

    Raises:
        ToolError: it cannot run here; says why.
    """
    cores = sorted(os.sched_getaffinity(0))[: task.threads]
    return Team(name, [(cores, partial(_prepared, name, task))])


def _prepared(name: str, task: Task) -> Epoch:
    set_start_method("fork", force=True)  # of workers, as in a script of one's own
    import_module(RIVALS[name].package if name in RIVALS else "s3fs")
    store, plan = task.open()
    _ = ClipDataset(store, plan, normalisation=NORMALISATION)[0]  # compiles what all use
    reader = cache(partial(READERS[name], task))
    return lambda number: reader()(number)
