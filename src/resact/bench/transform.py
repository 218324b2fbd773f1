"""`resact bench transform`: compares machine code, or the kernel on a GPU, with the PyTorch operators that it must
equal.

Clips of 33 frames of 342x256 become RGB and residual of 32x112x112, for each size of a training crop, in turns. For
each store, complete epochs of training clips are streamed with both.

On the CPU: one thread, with different frames and output memory each time, so that neither is in the cache; milliseconds
of CPU time per clip. On a GPU: batches of 32, far more than its cache holds; milliseconds a clip, and the share of the
time that copying as many bytes takes: those of the crop once, and those of the result. Streams there are fed by a
thread a core, each video many times over, and measured by the clock.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from rich.console import Console

from resact.bench.comparison import Row, print_rows, result_of, take_turns
from resact.bench.competitors import NORMALISATION
from resact.bench.rates import measure_rates, require_device
from resact.cache.store import ClipStore, open_store
from resact.train.clips import stream as stream_module
from resact.train.clips.geometry import SCALES, ClipGeometry
from resact.train.clips.packed_clips import PackedClips
from resact.train.clips.plain_transform import transform_clip
from resact.train.clips.sampling import Clip, TrainPlan
from resact.train.clips.stream import ClipStream
from resact.train.clips.transform import make_clip, transform_batch
from resact.train.networks.timing import mark, seconds_between, synchronise

_GEOMETRY = ClipGeometry(modality="both")
_HEIGHT, _WIDTH = 256, 342
_SIDES = tuple(round(_HEIGHT * scale) for scale in SCALES)
_DTYPES = (torch.float32, torch.bfloat16)
_WAYS: dict[str, Callable[..., Any]] = {"pytorch": transform_clip, "machine code": make_clip}
_GPU = torch.device("cuda")
_GPU_WAYS: dict[str, Callable[..., Any]] = {
    "pytorch": partial(transform_batch, kernel="plain"),
    "kernel": partial(transform_batch, kernel="triton"),
}
_GPU_BATCH, _GPU_CALLS, _GPU_CLIPS = 32, 5, 960


def bench_transform(
    stores: Sequence[str | Path], *, device: str, rounds: int, epochs: int, console: Console
) -> dict[str, Any]:
    """Measure the transform alone, and streams of stores with it.

    Args:
        stores: paths or URLs of stores whose training clips are streamed; may be empty.
        device: `cpu` or `cuda`.
        rounds: rounds of the transform alone.
        epochs: epochs of each stream.
        console: where to print.

    Returns:
        `rows`, each `name` and for each way `median_ms, least_ms` a clip, on a GPU also `share_of_copying`; machine,
        versions, commit.

    Raises:
        UsageError: there is no such device.
    """
    require_device(device)
    opened = [open_store(store) for store in stores]
    figures = _on_gpu(opened, rounds, epochs, console) if device == "cuda" else _on_cpu(opened, rounds, epochs, console)
    _print(figures["rows"], console)
    return result_of("transform", rounds=rounds, **figures)


def _print(rows: list[Row], console: Console) -> None:
    def milliseconds(way: str) -> Callable[[Row], str]:
        return lambda row: f"{row[way]['median_ms']:.2f} ({row[way]['least_ms']:.2f})"

    slow, fast = (key for key in rows[0] if key != "name")
    columns: dict[str, str | Callable[[Row], str]] = {
        "": "{name}",
        f"{slow}\nms (least)": milliseconds(slow),
        f"{fast}\nms (least)": milliseconds(fast),
        "times as\nfast": lambda row: f"{row[slow]['median_ms'] / row[fast]['median_ms']:.2f}",
    }
    if "share_of_copying" in rows[0][fast]:  # on a GPU; a stream has none
        columns["of copying's\nrate"] = lambda row: (
            f"{share:.3f}" if (share := row[fast].get("share_of_copying")) else ""
        )
    print_rows(console, rows, columns, caption="a clip of 33 frames; medians")


def _on_cpu(stores: Sequence[ClipStore], rounds: int, epochs: int, console: Console) -> dict[str, Any]:
    """Transforms and streams in one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = []
        for dtype, side in product(_DTYPES, _SIDES):
            rows.append(_row(_named(side, dtype), _transforms(side, dtype, rounds)))
            console.print(f"{rows[-1]['name']}: measured")
        for store in stores:
            plan = TrainPlan(store.index, np.flatnonzero(store.index.num_frames), _GEOMETRY, seed=0, flip=True)
            clips = ClipStream(store, plan, batch_size=8, normalisation=NORMALISATION, threads=1)
            seconds = _epochs(clips, "make_clip", _WAYS, epochs, time.process_time)
            rows.append(_row(f"stream, {_name(store)}", seconds))
    finally:
        torch.set_num_threads(threads)
    return {"rows": rows}


def _on_gpu(stores: Sequence[ClipStore], rounds: int, epochs: int, console: Console) -> dict[str, Any]:
    """Transforms of batches, and streams read by all cores."""
    rates, rows = measure_rates(_GPU), []
    console.print(f"copies at {rates.bytes_per_second / 1e9:,.0f} GB/s")
    for dtype, side in product(_DTYPES, _SIDES):
        copying, seconds = _transforms_on_gpu(side, dtype, rounds, rates.bytes_per_second)
        row = _row(_named(side, dtype), seconds)
        for way in _GPU_WAYS:
            row[way]["share_of_copying"] = round(copying * 1e3 / row[way]["median_ms"], 3)
        rows.append(row)
    for store, dtype in product(stores, _DTYPES):
        videos = np.resize(np.flatnonzero(store.index.num_frames), _GPU_CLIPS)
        plan = TrainPlan(store.index, videos, _GEOMETRY, seed=0, flip=True)
        clips = ClipStream(
            store, plan, batch_size=_GPU_BATCH, normalisation=NORMALISATION, device=_GPU, dtype=dtype, batches_ahead=3
        )
        seconds = _epochs(clips, "transform_batch", _GPU_WAYS, epochs, time.perf_counter)
        rows.append(_row(f"stream, {_name(store)}, {_named(None, dtype)}", seconds))
    return {"device": torch.cuda.get_device_name(), **asdict(rates), "rows": rows}


def _named(side: int | None, dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.") + (f", crop of {side}" if side else "")


def _centre_clip(side: int) -> Clip:
    count, top, left = _GEOMETRY.frames_read, (_HEIGHT - side) // 2, (_WIDTH - side) // 2
    return Clip(video_index=0, start=0, stop=count, order=np.arange(count), top=top, left=left, side=side, flip=False)


def _row(name: str, seconds: dict[str, list[float]]) -> dict[str, Any]:
    """Medians and minima without the first of each, which warms up."""
    row: dict[str, Any] = {"name": name}
    for way, times in seconds.items():
        row[way] = {"median_ms": round(median(times[1:]) * 1e3, 3), "least_ms": round(min(times[1:]) * 1e3, 3)}
    return row


def _transforms(side: int, dtype: torch.dtype, rounds: int) -> dict[str, list[float]]:
    """Seconds of each clip, with each way."""
    read, size = _GEOMETRY.frames_read, _GEOMETRY.size
    rng = np.random.default_rng(0)
    sources = torch.from_numpy(rng.integers(0, 256, (5, read, _HEIGHT, _WIDTH, 3), dtype=np.uint8))
    batch = {stream: torch.zeros(16, 3, _GEOMETRY.frames, size, size, dtype=dtype) for stream in _GEOMETRY.streams}
    clip = _centre_clip(side)
    seconds: dict[str, list[float]] = {way: [] for way in _WAYS}
    for turn, (_, way) in enumerate(take_turns(list(_WAYS), rounds + 1)):
        out = {stream: clips[turn % 16] for stream, clips in batch.items()}
        start = time.thread_time()
        _WAYS[way](sources[turn % 5], clip, _GEOMETRY, NORMALISATION, dtype=dtype, out=out)
        seconds[way].append(time.thread_time() - start)
    return seconds


def _name(store: ClipStore) -> str:
    """The last part of its address."""
    return str(store.files).rpartition("/")[2]


def _epochs(
    clips: ClipStream, replaced: str, ways: dict[str, Callable[..., Any]], count: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Seconds per clip of each epoch, reading and decoding included, with each way in place of `replaced`."""
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for number, way in take_turns(list(ways), count + 1):
        start = clock()
        with patch.object(stream_module, replaced, ways[way]), clips.epoch(number) as reader:
            for _ in reader:
                pass
        synchronise(clips.device)
        seconds[way].append((clock() - start) / len(clips.plan))
    return seconds


def _transforms_on_gpu(
    side: int, dtype: torch.dtype, rounds: int, bytes_per_second: float
) -> tuple[float, dict[str, list[float]]]:
    """Seconds per clip: of copying its bytes, and of each way."""
    clip_bytes = _GEOMETRY.frames_read * _HEIGHT * _WIDTH * 3
    packed = PackedClips(
        frames=torch.randint(0, 256, (_GPU_BATCH * clip_bytes,), dtype=torch.uint8, device=_GPU),
        offsets=[place * clip_bytes for place in range(_GPU_BATCH)],
        heights=[_HEIGHT] * _GPU_BATCH,
        widths=[_WIDTH] * _GPU_BATCH,
        clips=[_centre_clip(side)] * _GPU_BATCH,
        largest_side=max(_SIDES),
    )
    seconds: dict[str, list[float]] = {way: [] for way in _GPU_WAYS}
    for _, way in take_turns(list(_GPU_WAYS), rounds + 1):
        begin = mark(_GPU)
        for _ in range(_GPU_CALLS):  # so that the host prepares calls while the GPU computes
            batch = _GPU_WAYS[way](packed, _GEOMETRY, NORMALISATION, dtype=dtype)
        end = mark(_GPU)
        synchronise(_GPU)
        seconds[way].append(seconds_between(begin, end) / _GPU_CALLS / _GPU_BATCH)
    moved = _GPU_BATCH * _GEOMETRY.frames_read * side * side * 3 + sum(tensor.nbytes for tensor in batch.values())
    return moved / bytes_per_second / _GPU_BATCH, seconds
