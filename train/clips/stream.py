"""Clips from a store as batches on a device, read ahead by threads.

Threads take clips in the order of the plan, read and decode each one, and fill its place in a batch. The number of
batches in flight is bounded, and their memory is reused once nothing refers to a batch. On the CPU the threads make the
finished clips themselves. For a GPU they fill pinned memory with the stored crops, and the transform runs on a CUDA
stream of its own while the network works on the previous batch.
"""

import math
import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import count
from queue import SimpleQueue
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from resact.cache.store import ClipStore
from resact.errors import ResactError, StreamError, UsageError
from resact.train.clips.memory import MemoryPool
from resact.train.clips.normalisation import Normalisation
from resact.train.clips.packed_clips import PackedClips
from resact.train.clips.sampling import Clip, ClipPlan, batches
from resact.train.clips.transform import make_clip, transform_batch

_JOIN_SECONDS = 5.0  # a thread may hang for ever in a file system that no longer answers


class ClipStream:
    """Batches of an epoch's clips, in the plan's order. Every epoch can be read again, from any position.

    Each batch is a dictionary:

    - `rgb`, `residual`: (B, 3, T, D, D), normalised, as the plan's geometry asks;
    - `label`: (B,) int64;
    - `video_id`: list of length B;
    - `positions`: the clips' positions in the epoch, a range.

    A loop over the stream itself has one epoch: the first loop epoch 0, each later one the next.

    Example:
        store = resact.open_store("data/sample.zarr")
        videos = store.index.video_indices("split1", "train")
        geometry = resact.ClipGeometry(modality="both", frames=16)
        normalisation = resact.measure_normalisation(store, videos, geometry, seed=0)
        plan = resact.TrainPlan(store.index, videos, geometry, seed=0, flip=True)
        stream = resact.ClipStream(store, plan, batch_size=8, normalisation=normalisation)
        with stream.epoch(3) as reader:  # any epoch; leaving it ends its threads
            batch = next(reader)  # batch["rgb"]: (B, 3, 16, 112, 112), B at most 8
    """

    def __init__(
        self,
        store: ClipStore,
        plan: ClipPlan,
        *,
        batch_size: int,
        normalisation: Normalisation,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        threads: int | None = None,
        batches_ahead: int = 2,
        timeout_seconds: float = 300.0,
        rank: int = 0,
        world_size: int = 1,
        packed: bool | None = None,
    ) -> None:
        """Nothing is read before `epoch` is called.

        Args:
            store: an open store.
            plan: which clips.
            batch_size: the most clips in a batch; an epoch's batches differ by at most one clip.
            normalisation: for the plan's modalities.
            device: device of the batches.
            dtype: dtype of the clips.
            threads: number of threads that read and decode; default: one per core, shared among torchrun's processes.
            batches_ahead: batches prepared while the consumer works on another.
            timeout_seconds: after this time without a batch, raise an error instead of hanging.
            rank: rank of this consumer, 0 <= rank < world_size; each gets its own part of every step.
            world_size: consumers that share an epoch.
            packed: send stored crops to the device and transform them there; default: True on a GPU.

        Raises:
            UsageError: an argument is out of range, or the normalisation lacks a modality.

        """
        self.threads = _default_threads() if threads is None else threads
        counts = {"batch_size": batch_size, "threads": self.threads, "batches_ahead": batches_ahead}
        for name, value in (counts | {"world_size": world_size}).items():
            if value < 1:
                raise UsageError(f"got {name} {value}, expected 1 or more")
        if not 0 <= rank < world_size:
            raise UsageError(f"got rank {rank}, expected 0 <= rank < {world_size}")
        for name in plan.geometry.streams:
            normalisation.scale_and_shift(name)  # raises now rather than in a thread
        self.store, self.plan, self.batch_size = store, plan, batch_size
        self.normalisation, self.dtype, self.device = normalisation, dtype, torch.device(device)
        self.rank, self.world_size = rank, world_size
        self.batches_ahead, self.timeout_seconds = batches_ahead, timeout_seconds
        self.packed = self.device.type != "cpu" if packed is None else packed
        index = store.index
        self.largest_side = int(np.minimum(index.height[plan.video_indices], index.width[plan.video_indices]).max())
        self.clip_bytes = plan.geometry.frames_read * self.largest_side**2 * 3
        self._side = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None  # type: ignore[no-untyped-call]
        pinned = self.packed and self._side is not None
        pieces = 1 if self.packed else len(plan.geometry.streams)
        self.memory = MemoryPool(keep=(batches_ahead + 2) * pieces, pinned=pinned)
        """Memory for frames on their way to a GPU, or for finished clips on the CPU."""
        pixels = int((index.height[plan.video_indices].astype("int64") * index.width[plan.video_indices]).max())
        self.scratch = _Scratch(self.threads, plan.geometry.frames_read * pixels * 3)
        self._loops = count()

    def __len__(self) -> int:
        """Steps in an epoch."""
        return sum(1 for _ in batches(len(self.plan), self.batch_size, world_size=self.world_size))

    def __iter__(self) -> "EpochReader":
        """The next epoch; 0 at first."""
        return self.epoch(next(self._loops))

    def side_stream(self) -> AbstractContextManager[Any]:
        """Context of the CUDA stream that makes batches; does nothing on the CPU."""
        return nullcontext() if self._side is None else torch.cuda.stream(self._side)

    def wait_for_side_stream(self) -> None:
        """Wait until that stream has finished all its work so far; decoding threads continue."""
        if self._side is not None:
            done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            self._side.record_event(done).synchronize()

    def epoch(self, epoch: int, *, position: int = 0, until: int | None = None) -> "EpochReader":
        """Start reading an epoch.

        Args:
            epoch: 0 or more.
            position: clips of it that all consumers together have already taken.
            until: position at which to stop, where a batch ends; None: the epoch's end.

        Returns:
            An iterator over these batches, and a context manager that ends the threads.

        """
        return EpochReader(self, epoch, position, until)


class EpochReader:
    """Reader of the rest of one epoch; made by `ClipStream.epoch`."""

    def __init__(self, stream: ClipStream, epoch: int, position: int, until: int | None) -> None:
        self.wait_seconds = 0.0
        """Time the consumer has waited for data so far, in seconds."""
        self._stream, self._epoch = stream, epoch
        self._steps = batches(
            len(stream.plan),
            stream.batch_size,
            rank=stream.rank,
            world_size=stream.world_size,
            position=position,
            until=until,
        )
        self._under_way: deque[_Batch] = deque()
        self._readers = _Readers(stream.threads)
        for _ in range(stream.batches_ahead):
            self._begin_one()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self

    def __next__(self) -> dict[str, Any]:
        """The next batch.

        Raises:
            ResactError: a clip could not be read; the error names the video and ends the epoch.

        """
        if not self._under_way:
            self.close()
            raise StopIteration
        batch = self._under_way.popleft()
        asked = time.perf_counter()
        in_time = batch.done.wait(self._stream.timeout_seconds)
        self.wait_seconds += time.perf_counter() - asked
        if not in_time:
            self.close()
            raise StreamError(
                f"no batch within {self._stream.timeout_seconds:g} s; not read yet: {', '.join(batch.unread())}: "
                f"is the file system of {self._stream.store.files} there?"
            )
        if batch.error is not None:
            self.close()
            raise batch.error
        self._begin_one()
        return batch.take()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the threads; each finishes the clip that it is working on."""
        self._under_way.clear()
        self._readers.stop()
        self._readers.join()

    def __del__(self) -> None:
        if hasattr(self, "_readers"):
            self._readers.stop()

    def _begin_one(self) -> None:
        positions = next(self._steps, None)
        if positions is not None:
            kind = _PackedBatch if self._stream.packed else _Batch
            batch = kind(self._stream, self._epoch, positions)
            self._under_way.append(batch)
            self._readers.take(batch)


class _Batch:
    """A batch being made: threads put its clips in place, one each."""

    def __init__(self, stream: ClipStream, epoch: int, positions: range) -> None:
        self.done = threading.Event()
        self.error: ResactError | None = None
        self.stream, self.epoch, self.positions = stream, epoch, positions
        self.tensors: dict[str, Tensor] = {}
        self.clips: list[Clip | None] = [None] * len(positions)
        self._lock = threading.Lock()
        self._missing = len(positions)
        self._allocate()
        if not positions:
            self._complete()
            self.done.set()

    def prepare(self, place: int) -> None:
        """Read one clip into its place; an error is kept for the consumer."""
        clip = None
        try:
            clip = self.stream.plan.clip(self.epoch, self.positions[place])
            self._put(place, clip)
            self.clips[place] = clip
            with self._lock:
                self._missing -= 1
                last = not self._missing
            if last:
                self._complete()
                self.done.set()
        except ResactError as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, the consumer is told
            wrapped = StreamError(f"{self._at_work_on(place, clip)}: {type(error).__name__}: {error}")
            wrapped.__cause__ = error
            self._fail(wrapped)

    def _at_work_on(self, place: int, clip: Clip | None) -> str:
        """For messages: the video being read, or else the clip or batch being made."""
        if clip is None:
            return f"clip {self.positions[place]} of epoch {self.epoch}"
        if self._missing:
            return str(self.stream.store.index.video_id[clip.video_index])
        return f"the batch of clips {self.positions[0]} to {self.positions[-1]} of epoch {self.epoch}"

    def take(self) -> dict[str, Any]:
        """The finished batch, for the consumer's own CUDA stream."""
        index = self.stream.store.index
        video_indices = [clip.video_index for clip in self.clips if clip]
        label = torch.tensor([int(index.label[video_index]) for video_index in video_indices], dtype=torch.int64)
        if self.stream.device.type == "cuda":
            label = label.to(self.stream.device, non_blocking=True)
            for tensor in self.tensors.values():
                tensor.record_stream(torch.cuda.current_stream(self.stream.device))
        names = [index.video_id[video_index] for video_index in video_indices]
        return {**self.tensors, "label": label, "video_id": names, "positions": self.positions}

    def unread(self) -> list[str]:
        """Videos of the clips that are not in place yet."""
        index, plan = self.stream.store.index, self.stream.plan
        missing = [self.positions[place] for place, clip in enumerate(self.clips) if clip is None]
        return sorted({index.video_id[plan.clip(self.epoch, position).video_index] for position in missing})

    def _fail(self, error: ResactError) -> None:
        with self._lock:
            self.error = self.error or error
        self.done.set()

    def _allocate(self) -> None:
        geometry = self.stream.plan.geometry
        shape = (len(self.positions), 3, geometry.frames, geometry.size, geometry.size)
        self.tensors = {name: self.stream.memory.take(shape, self.stream.dtype) for name in geometry.streams}

    def _put(self, place: int, clip: Clip) -> None:
        memory = self.stream.scratch.memory()
        frames_NHWC = self.stream.store.read_frames(
            clip.video_index, clip.start, clip.stop, crop=clip.crop, memory=memory
        )
        out = {name: tensor[place] for name, tensor in self.tensors.items()}
        geometry, normalisation = self.stream.plan.geometry, self.stream.normalisation
        make_clip(
            torch.from_numpy(frames_NHWC), clip.cropped, geometry, normalisation, dtype=self.stream.dtype, out=out
        )

    def _complete(self) -> None:
        pass


class _PackedBatch(_Batch):
    """Each stored crop goes to the device as soon as it is read; the device transforms them once it has all of them."""

    def _allocate(self) -> None:
        stream = self.stream
        self._frames = stream.memory.take((len(self.positions), stream.clip_bytes), torch.uint8)
        with stream.side_stream():
            self._on_device = torch.empty_like(self._frames, device=stream.device)

    def _put(self, place: int, clip: Clip) -> None:
        shape = (clip.stop - clip.start, clip.side, clip.side, 3)
        flat = self._frames[place, : math.prod(shape)]
        self.stream.store.read_frames(
            clip.video_index, clip.start, clip.stop, out=flat.view(shape).numpy(), crop=clip.crop
        )
        with self.stream.side_stream():
            self._on_device[place, : len(flat)].copy_(flat, non_blocking=True)

    def _complete(self) -> None:
        stream, clips = self.stream, [clip for clip in self.clips if clip]
        sides = [clip.side for clip in clips]
        with stream.side_stream():
            packed = PackedClips(
                frames=self._on_device.view(-1),
                offsets=[place * stream.clip_bytes for place in range(len(clips))],
                heights=sides,
                widths=sides,
                clips=[clip.cropped for clip in clips],
                largest_side=stream.largest_side,
            )
            self.tensors = transform_batch(packed, stream.plan.geometry, stream.normalisation, dtype=stream.dtype)
        # Only then may the pinned memory be reused; and the consumer need not wait for the device.
        stream.wait_for_side_stream()
        del self._frames, self._on_device


class _Scratch:
    """Each thread's own memory for a clip's stored frames; the threads of the next epoch reuse it."""

    def __init__(self, threads: int, clip_bytes: int) -> None:
        self._pool, self._clip_bytes, self._own = MemoryPool(keep=threads), clip_bytes, threading.local()

    def memory(self) -> npt.NDArray[np.uint8]:
        """(clip_bytes,) with whatever the thread last wrote to it."""
        if not hasattr(self._own, "memory"):
            self._own.memory = self._pool.take((self._clip_bytes,), torch.uint8).numpy()
        memory: npt.NDArray[np.uint8] = self._own.memory
        return memory


def _default_threads() -> int:
    cores = len(os.sched_getaffinity(0))
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))  # set by torchrun: processes on this machine


class _Readers:
    """Threads that prepare batches, in order."""

    def __init__(self, count: int) -> None:
        work: SimpleQueue[tuple[_Batch, int] | None] = SimpleQueue()
        self._work, self._stopped = work, threading.Event()
        ready = threading.Barrier(count + 1)
        self._threads = [
            threading.Thread(
                target=_read, args=(work, self._stopped, ready), name=f"resact-clips-{number}", daemon=True
            )
            for number in range(count)
        ]
        inner = torch.get_num_threads()
        for thread in self._threads:
            thread.start()
        ready.wait()
        torch.set_num_threads(inner)  # the readers' calls also changed it for this thread and for new ones

    def take(self, batch: _Batch) -> None:
        """Queue a batch."""
        for place in range(len(batch.positions)):
            self._work.put((batch, place))

    def stop(self) -> None:
        """Start no further clips."""
        if not self._stopped.is_set():
            self._stopped.set()
            for _ in self._threads:
                self._work.put(None)

    def join(self) -> None:
        """Wait for the threads to end, but not for ever: a file system may no longer answer."""
        deadline = time.monotonic() + _JOIN_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))


def _read(work: "SimpleQueue[tuple[_Batch, int] | None]", stopped: threading.Event, ready: threading.Barrier) -> None:
    """The thread's loop. It holds no reference to the reader, so that a reader that nobody uses is collected."""
    # One compute thread: clips are divided among threads, not the pixels of one clip. The first call is needed: when a
    # thread first uses this number, PyTorch sets it to that of the process.
    torch.get_num_threads()
    torch.set_num_threads(1)
    ready.wait()
    while (item := work.get()) is not None and not stopped.is_set():
        batch, place = item
        if batch.error is None:
            batch.prepare(place)
