"""The competitors of `resact bench remote`: readers of videos in a bucket, ours and others', each in its own process.

All get the same stored frames, decode them with the store's codec, and finish them with the same transform: one clip
per video and epoch, both modalities. A reader is a function that takes a `RemoteTask` and returns a function of the
epoch, which makes all clips of an epoch and returns the number of different videos in them.
"""

import io
import os
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from multiprocessing import get_context, set_start_method
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import DataLoader

from resact.bench.competitors import NORMALISATION
from resact.bench.object_server import BUCKET
from resact.cache.files import Files
from resact.cache.layout import SHARD, array_name
from resact.cache.store import ClipStore, open_store
from resact.errors import ToolError
from resact.train.clips.dataset import ClipDataset
from resact.train.clips.geometry import ClipGeometry
from resact.train.clips.sampling import TrainPlan
from resact.train.clips.stream import ClipStream

Epoch = Callable[[int], int]
_PATIENCE_SECONDS = 30.0
BATCH = 8
THREADS_A_CORE = 4
"""Of ours, since most of them wait for the bucket; others fetch ahead in threads of their own."""
CHUNK_BYTES = 16 << 20
"""Both others' default is 64 MB, made for larger data sets: here it would leave them a handful of files."""


@dataclass(frozen=True, kw_only=True)
class RemoteTask:
    """The work of all readers; it is sent to their processes."""

    store: str
    """The store's folder, from which the bucket's copies were made."""
    video_indices: tuple[int, ...]
    geometry: ClipGeometry
    seed: int
    workers: int
    """Number of cores, and of worker processes."""
    cache: str
    """An empty folder of this reader's own."""

    def plan(self, store: ClipStore) -> TrainPlan:
        """The clips of each epoch."""
        return TrainPlan(store.index, np.array(self.video_indices), self.geometry, seed=self.seed, flip=True)


# Ours -------------------------------------------------------------------------------------------------------


def stream(task: RemoteTask, *, url: str | None, cached: bool = False) -> Epoch:
    """`ClipStream`, of a bucket or (without `url`) of the store's folder."""
    store = open_store(url or task.store, cache=task.cache if cached else None)
    threads = task.workers if url is None else THREADS_A_CORE * task.workers
    clips = ClipStream(store, task.plan(store), batch_size=BATCH, normalisation=NORMALISATION, threads=threads)

    def epoch(number: int) -> int:
        with clips.epoch(number) as reader:
            return _different(reader)

    return epoch


def in_workers(task: RemoteTask, *, url: str) -> Epoch:
    """`ClipDataset` with a cache, in PyTorch's loader."""
    store = open_store(url, cache=task.cache)
    clips = ClipDataset(store, task.plan(store), normalisation=NORMALISATION)
    loader = DataLoader(clips, batch_size=BATCH, num_workers=task.workers, persistent_workers=True)

    def epoch(number: int) -> int:
        clips.epoch = number
        return _different(loader)

    return epoch


def _different(batches: Iterable[dict[str, Any]]) -> int:
    return len({video_id for batch in batches for video_id in batch["video_id"]})


# Others -----------------------------------------------------------------------------------------------------


class _Given:
    """A store's file that somebody else has fetched."""

    data = b""

    def read_range(self, name: str, start: int, stop: int) -> bytes:  # noqa: ARG002
        return self.data[start:stop]


class Finish:
    """From a video's shard, fetched by others' readers, to the clip that `ClipDataset` gives."""

    def __init__(self, task: RemoteTask) -> None:
        store = open_store(task.store)
        self._given = _Given()
        self._clips = ClipDataset(
            replace(store, files=cast(Files, self._given)), task.plan(store), normalisation=NORMALISATION
        )
        self._seen: Counter[int] = Counter()
        self._positions: dict[int, dict[int, int]] = {}

    def __call__(self, video_index: int, shard: bytes) -> dict[str, Any]:
        """The clip of this video in the first epoch, then in the next one, and so on."""
        self._clips.epoch = self._seen[video_index]
        self._seen[video_index] += 1
        self._given.data = shard
        return self._clips[self._position(self._clips.epoch, video_index)]

    def _position(self, epoch: int, video_index: int) -> int:
        """Where the video is in an epoch."""
        if epoch not in self._positions:
            plan = self._clips.plan
            found = {plan.clip(epoch, position).video_index: position for position in range(len(plan))}
            self._positions[epoch] = found
        return self._positions[epoch][video_index]


def litdata(task: RemoteTask) -> Epoch:
    """LitData: `StreamingDataset` in its `StreamingDataLoader`."""
    package = import_module("litdata")
    import_module("litdata.streaming.downloader")._OBSTORE_CLIENT_OPTIONS["allow_http"] = True  # no option says so
    finish = Finish(task)

    class Clips(package.StreamingDataset):  # type: ignore[misc, name-defined]
        def __getitem__(self, index: Any) -> dict[str, Any]:
            sample = super().__getitem__(index)
            return finish(sample["video_index"], sample["shard"])

    clips = Clips(f"s3://{BUCKET}/litdata", cache_dir=task.cache, shuffle=True, seed=task.seed, max_cache_size="50GB")
    loader = package.StreamingDataLoader(clips, batch_size=BATCH, num_workers=task.workers, persistent_workers=True)
    return lambda _: _different(loader)


def mosaic(task: RemoteTask) -> Epoch:
    """MosaicML Streaming: `StreamingDataset` in its `StreamingDataLoader`."""
    package = import_module("streaming")
    finish = Finish(task)

    class Clips(package.StreamingDataset):  # type: ignore[misc, name-defined]
        def __getitem__(self, index: Any) -> dict[str, Any]:
            sample = super().__getitem__(index)
            return finish(int(sample["video_index"]), sample["shard"])

    clips = Clips(
        remote=f"s3://{BUCKET}/mds", local=task.cache, shuffle=True, shuffle_seed=task.seed, batch_size=BATCH,
        cache_limit="50gb",
    )  # fmt: skip
    loader = package.StreamingDataLoader(clips, batch_size=BATCH, num_workers=task.workers, persistent_workers=True)
    return lambda _: _different(loader)


# What the bucket holds for them -----------------------------------------------------------------------------


def write_litdata(task: RemoteTask, folder: Path) -> None:
    """The videos' shards as LitData's chunks."""
    with redirect_stdout(io.StringIO()):
        import_module("litdata").optimize(
            partial(sample, task.store), list(task.video_indices), str(folder), chunk_bytes=CHUNK_BYTES, num_workers=1
        )


def write_mosaic(task: RemoteTask, folder: Path) -> None:
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
    write: Callable[[RemoteTask, Path], None]
    read: Callable[[RemoteTask], Epoch]
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
READERS: dict[str, Callable[[RemoteTask], Epoch]] = {
    "folder": partial(stream, url=None),
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


class Reader:
    """A reader's own process, from its start until `close`."""

    def __init__(self, name: str, task: RemoteTask) -> None:
        """Start it; its first epoch includes all that it fetches, but not its imports.

        Raises:
            ToolError: it cannot run here; says why.
        """
        self.name = name
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(name, task, theirs))
        self._process.start()
        theirs.close()
        self._answer()

    def run(self, epoch: int) -> int:
        """Make an epoch's clips; the number of different videos."""
        self._pipe.send(epoch)
        return int(self._answer())

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join(_PATIENCE_SECONDS)
        self._process.terminate()  # others' threads may go on
        self._process.join()

    def _answer(self) -> Any:
        try:
            answer = self._pipe.recv()
        except EOFError:
            answer = "its process died"
        if isinstance(answer, str):
            self.close()
            raise ToolError(f"{self.name}: {answer}")
        return answer


def _work(name: str, task: RemoteTask, pipe: Any) -> None:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: task.workers])
    torch.set_num_threads(1)
    set_start_method("fork", force=True)  # of workers, as in a script of one's own
    try:
        import_module(RIVALS[name].package if name in RIVALS else "s3fs")
        store = open_store(task.store)
        _ = ClipDataset(store, task.plan(store), normalisation=NORMALISATION)[0]  # compiles what all use
        ready: Epoch | None = None
        pipe.send(0)
        while True:
            number = pipe.recv()
            ready = ready or READERS[name](task)
            pipe.send(ready(number))
    except EOFError:
        pass
    except Exception as error:  # noqa: BLE001 - an import of others' libraries may raise anything
        pipe.send(f"{type(error).__name__}: {' '.join(str(error).split())[-400:]}")
