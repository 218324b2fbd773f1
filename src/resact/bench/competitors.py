"""The competitors of `resact bench loader`: ways to read clips, ours and others', each in its own process.

A reader is a function that takes a `Task` and returns a function of the epoch. That function makes this process's share
of the epoch's clips. Shapes: N frames of a clip, H height, W width.
"""

import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module, util
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from resact.bench.processes import Epoch, Team
from resact.cache.layout import CRC_BYTES, SHARD, array_name, fps_value
from resact.cache.store import ClipStore, open_store
from resact.train.clips.geometry import ClipGeometry
from resact.train.clips.normalisation import Normalisation
from resact.train.clips.plain_transform import transform_clip
from resact.train.clips.sampling import Clip, TrainPlan
from resact.train.clips.stream import ClipStream

BATCH = 8
THREADS_A_CORE = 4
"""Of ours at a URL, since most of them wait for the bucket; others fetch ahead in threads of their own."""
_MEAN, _STD = (100.0, 100.0, 100.0), (60.0, 60.0, 60.0)
NORMALISATION = Normalisation(rgb_mean=_MEAN, rgb_std=_STD, residual_mean=_MEAN, residual_std=_STD)
"""Of all benchmarks: no figure depends on it."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """The work of all readers; it is sent to their processes."""

    store: str
    video_indices: tuple[int, ...]
    """Indices of the videos; each gives one clip per epoch."""
    geometry: ClipGeometry
    seed: int
    threads: int = 1
    """Number of threads, or of workers, that this process may use."""
    share: tuple[int, int] = (0, 1)
    """Number of this process, and number of processes."""
    sources: dict[int, str] = field(default_factory=dict)
    """Index of a video -> its file, for those who read files."""
    cache: str = ""
    """An empty folder of this reader's own, for those who read from a bucket."""

    def open(self, url: str | None = None, cache: str | None = None) -> tuple[ClipStore, TrainPlan]:
        """Open the store, or a copy of it at a URL, and make the plan that every reader follows."""
        store = open_store(url or self.store, cache=cache)
        return store, TrainPlan(store.index, np.array(self.video_indices), self.geometry, seed=self.seed, flip=True)

    def positions(self, plan: TrainPlan) -> range:
        """The positions of an epoch for this process."""
        return range(self.share[0], len(plan), self.share[1])


# Ours -------------------------------------------------------------------------------------------------------


def stream(task: Task, *, url: str | None = None, cached: bool = False) -> Epoch:
    """`ClipStream`: finished clips, in batches, from the store's folder or from a bucket."""
    store, plan = task.open(url, task.cache if cached else None)
    threads = task.threads if url is None else THREADS_A_CORE * task.threads
    clips = ClipStream(store, plan, batch_size=BATCH, normalisation=NORMALISATION, threads=threads)

    def epoch(number: int) -> int:
        with clips.epoch(number) as reader:
            return different_videos(reader)

    return epoch


def different_videos(batches: Iterable[dict[str, Any]]) -> int:
    """Go through an epoch; the number of different videos in it."""
    found = set[str]()
    for batch in batches:
        found.update(batch["video_id"])
        del batch  # not held while the next one is made
    return len(found)


def read(task: Task) -> Epoch:
    """`store.read_frames`: uint8 clips of stored frames."""
    store, plan = task.open()

    def one(clip: Clip, buffer: npt.NDArray[np.uint8]) -> None:
        store.read_frames(clip.video_index, clip.start, clip.stop, out=_view(buffer, store, clip))

    return _in_threads(task, store, plan, one)


def bare(task: Task) -> Epoch:
    """The minimum for JPEG: one `pread` per clip and libjpeg-turbo for each frame, without checks."""
    import simplejpeg

    store, plan = task.open()
    index = store.index
    offsets = {row: index.frame_offsets(row, int(index.num_frames[row])).tolist() for row in task.video_indices}
    paths = {row: f"{task.store}/{array_name(index.video_id[row])}/{SHARD}" for row in task.video_indices}

    def one(clip: Clip, buffer: npt.NDArray[np.uint8]) -> None:
        edges, out = offsets[clip.video_index][clip.start : clip.stop + 1], _view(buffer, store, clip)
        descriptor = os.open(paths[clip.video_index], os.O_RDONLY)
        data = memoryview(os.pread(descriptor, edges[-1] - edges[0], edges[0]))
        os.close(descriptor)
        for frame, (low, high) in zip(out, pairwise(edges), strict=True):
            jpeg = data[low - edges[0] : high - edges[0] - CRC_BYTES]
            simplejpeg.decode_jpeg(jpeg, "RGB", fastdct=False, fastupsample=True, buffer=frame)

    return _in_threads(task, store, plan, one)


def _view(buffer: npt.NDArray[np.uint8], store: ClipStore, clip: Clip) -> npt.NDArray[np.uint8]:
    height, width = int(store.index.height[clip.video_index]), int(store.index.width[clip.video_index])
    shape = (clip.stop - clip.start, height, width, 3)
    return buffer[: math.prod(shape)].reshape(shape)


def _in_threads(
    task: Task, store: ClipStore, plan: TrainPlan, one: Callable[[Clip, npt.NDArray[np.uint8]], None]
) -> Epoch:
    pixels = max(int(store.index.height[row]) * int(store.index.width[row]) for row in task.video_indices)
    buffers = [np.empty(task.geometry.frames_read * pixels * 3, np.uint8) for _ in range(task.threads)]
    pool = ThreadPoolExecutor(task.threads)

    def epoch(number: int) -> None:
        def part(thread: int) -> None:
            for position in task.positions(plan)[thread :: task.threads]:
                one(plan.clip(number, position), buffers[thread])

        list(pool.map(part, range(task.threads)))

    return epoch


# Others -----------------------------------------------------------------------------------------------------


def zarr_frames(task: Task) -> Callable[[Clip], Tensor]:
    """zarr-python: opens a video's array and slices it."""
    import zarr

    index = open_store(task.store).index
    names = {row: f"{task.store}/{array_name(index.video_id[row])}" for row in task.video_indices}

    def frames(clip: Clip) -> Tensor:
        array: Any = zarr.open(names[clip.video_index], mode="r")
        return torch.from_numpy(np.asarray(array[clip.start : clip.stop]))

    return frames


def decord_frames(task: Task, *, resized: bool = False) -> Callable[[Clip], Tensor]:
    """decord: seeks, decodes and gathers; at the source's size, or resizing to the store's as it decodes.

    Only resized frames have the store's size; at the source's size it is faster.
    """
    decord: Any = import_module("decord")
    decord.bridge.set_bridge("torch")
    wanted, index = _source_frames(task), open_store(task.store).index

    def frames(clip: Clip) -> Tensor:
        row = clip.video_index
        size = {"width": int(index.width[row]), "height": int(index.height[row])} if resized else {}
        reader = decord.VideoReader(task.sources[row], num_threads=1, **size)
        found: Tensor = reader.get_batch(np.minimum(wanted(clip), len(reader) - 1))
        return found

    return frames


def torchcodec_frames(task: Task) -> Callable[[Clip], Tensor]:
    """torchcodec: one FFmpeg thread, seeking by the header's frame rate."""
    decoders: Any = import_module("torchcodec.decoders")
    wanted = _source_frames(task)

    def frames(clip: Clip) -> Tensor:
        decoder = decoders.VideoDecoder(
            task.sources[clip.video_index], dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="approximate"
        )
        indices = np.minimum(wanted(clip), decoder.metadata.num_frames - 1)
        found: Tensor = decoder.get_frames_at(indices.tolist()).data
        return found

    return frames


def pyav_frames(task: Task) -> Callable[[Clip], Tensor]:
    """PyAV: seeks to the preceding key frame, decodes from there, and keeps the wanted frames."""
    av: Any = import_module("av")
    wanted = _source_frames(task)

    def frames(clip: Clip) -> Tensor:
        indices = wanted(clip)
        kept: dict[int, npt.NDArray[np.uint8]] = {}
        with av.open(task.sources[clip.video_index]) as container:
            video = container.streams.video[0]
            video.codec_context.thread_count = 1
            video.thread_type = "NONE"
            a_second = video.average_rate * video.time_base
            if indices[0]:
                container.seek(int(indices[0] / a_second), stream=video)
            needed, at, frame = set(indices.tolist()), 0, None
            for frame in container.decode(video):
                at = round(frame.pts * a_second)
                if at in needed:
                    kept[at] = frame.to_ndarray(format="rgb24")
                if at >= indices[-1]:
                    break
            if frame is not None and at < indices[-1]:
                kept[at] = frame.to_ndarray(format="rgb24")
        # In place of a frame that the decoder does not give, take the one before it.
        have = np.array(sorted(kept))
        chosen = have[np.maximum(np.searchsorted(have, indices, "right") - 1, 0)]
        return torch.from_numpy(np.stack([kept[index] for index in chosen.tolist()]))

    return frames


def _source_frames(task: Task) -> Callable[[Clip], npt.NDArray[np.int64]]:
    """The source frames nearest in time to a clip's stored frames."""
    store, _ = task.open()

    def wanted(clip: Clip) -> npt.NDArray[np.int64]:
        source, asked = float(store.index.source_fps[clip.video_index]), store.settings.decode.fps
        stored = source if asked == "source" else fps_value(asked)
        nearest = np.floor(np.arange(clip.start, clip.stop) * (source / stored) + 0.5)
        return np.asarray(nearest, np.int64)

    return wanted


def plain(task: Task, frames: Callable[[Task], Callable[[Clip], Tensor]], *, finished: bool) -> Epoch:
    """Reads clip by clip; for finished clips, applies the reference transform."""
    store, plan = task.open()
    source = frames(task)
    shape = (3, task.geometry.frames, task.geometry.size, task.geometry.size)
    out = {name: torch.empty(shape) for name in task.geometry.streams}

    def epoch(number: int) -> None:
        for position in task.positions(plan):
            clip = plan.clip(number, position)
            frames_NHWC = source(clip)
            if finished:
                clip = scaled(clip, int(store.index.height[clip.video_index]), *frames_NHWC.shape[1:3])
                transform_clip(frames_NHWC, clip, task.geometry, NORMALISATION, out=out)

    return epoch


def scaled(clip: Clip, stored_height: int, height: int, width: int) -> Clip:
    """The same clip with its crop scaled to frames of another size."""
    ratio = height / stored_height
    side = max(1, min(round(clip.side * ratio), height, width))
    top, left = min(round(clip.top * ratio), height - side), min(round(clip.left * ratio), width - side)
    return replace(clip, top=top, left=left, side=side)


# Processes --------------------------------------------------------------------------------------------------

READERS: dict[str, Callable[[Task], Epoch]] = {
    "ours": stream,
    "ours uint8": read,
    "bare decode": bare,
    "zarr": partial(plain, frames=zarr_frames, finished=True),
    "zarr uint8": partial(plain, frames=zarr_frames, finished=False),
    "decord": partial(plain, frames=decord_frames, finished=True),
    "decord resized": partial(plain, frames=partial(decord_frames, resized=True), finished=True),
    "torchcodec": partial(plain, frames=torchcodec_frames, finished=True),
    "pyav": partial(plain, frames=pyav_frames, finished=True),
}
CALLS = {
    "ours": f"ClipStream(store, plan, batch_size={BATCH}, normalisation=..., threads=CORES).epoch(n)",
    "ours uint8": "store.read_frames(video_index, start, stop, out=buffer), a thread a core",
    "bare decode": "os.open, os.pread(clip), os.close; simplejpeg.decode_jpeg(frame, 'RGB', fastdct=False, "
    "fastupsample=True, buffer=out[i]), a thread a core",
    "zarr": "zarr.open(f'{store}/{video}', mode='r')[start:stop], transform_clip; a process a core",
    "zarr uint8": "zarr.open(f'{store}/{video}', mode='r')[start:stop]; a process a core",
    "decord": "decord.bridge.set_bridge('torch'); decord.VideoReader(path, num_threads=1).get_batch(indices), "
    "transform_clip; a process a core",
    "decord resized": "decord.bridge.set_bridge('torch'); decord.VideoReader(path, num_threads=1, width=W, height=H)"
    ".get_batch(indices), transform_clip; a process a core",
    "torchcodec": "VideoDecoder(path, dimension_order='NHWC', num_ffmpeg_threads=1, seek_mode='approximate')"
    ".get_frames_at(indices).data, transform_clip; a process a core",
    "pyav": "av.open(path); thread_count = 1; container.seek(first), decode, to_ndarray(format='rgb24'), "
    "transform_clip; a process a core",
}
PACKAGES = {"decord": "decord", "decord resized": "decord", "torchcodec": "torchcodec", "pyav": "av"}
_THREADED = ("ours", "ours uint8", "bare decode")


def open_team(name: str, task: Task, cores: Sequence[int]) -> Team:
    """A reader's processes on some cores: one with threads, or one per core.

    Raises:
        ToolError: the reader cannot run here; says why.
    """
    places = [cores] if name in _THREADED else [[core] for core in cores]
    tasks = [replace(task, threads=len(place), share=(number, len(places))) for number, place in enumerate(places)]
    with ffmpeg_of_pyav() if name == "torchcodec" else nullcontext():
        return Team(name, [(place, partial(READERS[name], own)) for place, own in zip(places, tasks, strict=True)])


@contextmanager
def ffmpeg_of_pyav() -> Iterator[None]:
    """Without system FFmpeg libraries, let torchcodec find those of PyAV's wheel under the names that it needs."""
    from ctypes.util import find_library

    spec = util.find_spec("av")
    bundled = Path(spec.origin).parents[1] / "av.libs" if spec and spec.origin else None
    if find_library("avcodec") or bundled is None or not bundled.is_dir():
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        for library in bundled.glob("lib[as][vw]*.so.*"):
            stem, _, version_number = library.name.partition(".so.")
            (Path(folder) / f"{stem.partition('-')[0]}.so.{version_number.partition('.')[0]}").symlink_to(library)
        places = filter(None, [folder, str(bundled), os.environ.get("LD_LIBRARY_PATH")])
        with patch.dict(os.environ, LD_LIBRARY_PATH=":".join(places)):
            yield
