"""What a clip's transform takes: PyTorch's operators beside the machine code, or on a GPU the kernel, that equals them.

    python benchmarks/transform.py --store ucf101-lz4.zarr --store ucf101-jpeg.zarr \\
        --output benchmarks/results/transform.json
    python benchmarks/transform.py --device cuda --store ucf101-jpeg.zarr --output benchmarks/results/transform-gpu.json

Clips of 33 frames of 342x256 into RGB and residual of 32x112x112, for each side of a training crop, the two ways in
turn. Of each store, also whole epochs of a stream of training clips with one and with the other.

On the CPU: one thread, each time other frames and another place, so that neither is in the cache; milliseconds of
processor time a clip. On a GPU: batches of 32, far more than its cache holds; milliseconds a clip, and the share of
the time that copying as many bytes takes: those of the square once, and those of the result. Streams there are fed by a
thread a core, each video many times over, and measured by the clock.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from resact.bench.competitors import NORMALISATION
from resact.cache.provenance import provenance
from resact.cache.store import open_store
from resact.train.clips import stream as stream_module
from resact.train.clips.geometry import SCALES, ClipGeometry
from resact.train.clips.packed_clips import PackedClips
from resact.train.clips.plain_transform import transform_clip
from resact.train.clips.sampling import Clip, TrainPlan
from resact.train.clips.stream import ClipStream
from resact.train.clips.transform import make_clip, transform_batch
from resact.train.networks.timing import mark, measure_rates, seconds_between, synchronise

GEOMETRY = ClipGeometry(modality="both")
HEIGHT, WIDTH = 256, 342
SIDES = tuple(round(HEIGHT * scale) for scale in SCALES)
DTYPES = (torch.float32, torch.bfloat16)
WAYS: dict[str, Callable[..., Any]] = {"pytorch": transform_clip, "machine code": make_clip}
GPU = torch.device("cuda")
GPU_WAYS: dict[str, Callable[..., Any]] = {
    "pytorch": partial(transform_batch, kernel="plain"),
    "kernel": partial(transform_batch, kernel="triton"),
}
GPU_BATCH, GPU_CALLS, GPU_CLIPS = 32, 5, 960


def main() -> None:
    """Measure, print a line a row, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--store", type=Path, action="append", default=[])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    result = on_gpu(options) if options.device == "cuda" else on_cpu(options)
    if options.output:
        options.output.write_text(json.dumps({**result, **provenance()}, indent=1) + "\n")


def on_cpu(options: argparse.Namespace) -> dict[str, Any]:
    """One thread."""
    torch.set_num_threads(1)
    rows = [row(named(side, dtype), transforms(side, dtype, options.rounds)) for dtype in DTYPES for side in SIDES]
    rows += [row(f"stream, {store.name}", epochs(store, options.epochs)) for store in options.store]
    return {"rounds": options.rounds, "rows": rows}


def on_gpu(options: argparse.Namespace) -> dict[str, Any]:
    """Batches, and streams from all cores."""
    rates, rows = measure_rates(GPU), []
    print(f"copies at {rates.bytes_per_second / 1e9:,.0f} GB/s")
    for dtype in DTYPES:
        for side in SIDES:
            copying, seconds = transforms_on_gpu(side, dtype, options.rounds, rates.bytes_per_second)
            result = row(named(side, dtype), seconds)
            for way in GPU_WAYS:
                share = result[way]["share_of_copying"] = round(copying * 1e3 / result[way]["median_ms"], 3)
                print(f"    {way}: {share} of copying's rate")
            rows.append(result)
    for store in options.store:
        for dtype in DTYPES:
            name = f"stream, {store.name}, {named(None, dtype)}"
            rows += [row(name, streams(store, dtype, options.epochs))]
    return {"rounds": options.rounds, "device": torch.cuda.get_device_name(), **asdict(rates), "rows": rows}


def named(side: int | None, dtype: torch.dtype) -> str:
    """A row's."""
    return str(dtype).removeprefix("torch.") + (f", side {side}" if side else "")


def row(name: str, seconds: dict[str, list[float]]) -> dict[str, Any]:
    """Medians and minima; the first of each warms up."""
    result: dict[str, Any] = {"name": name}
    for way, times in seconds.items():
        result[way] = {"median_ms": round(median(times[1:]) * 1e3, 3), "least_ms": round(min(times[1:]) * 1e3, 3)}
    print(name, *(f"{way} {result[way]['median_ms']:.2f} (at least {result[way]['least_ms']:.2f})" for way in seconds))
    return result


def transforms(side: int, dtype: torch.dtype, rounds: int) -> dict[str, list[float]]:
    """Seconds of each clip, by each way."""
    read, size = GEOMETRY.frames_read, GEOMETRY.size
    rng = np.random.default_rng(0)
    sources = torch.from_numpy(rng.integers(0, 256, (5, read, HEIGHT, WIDTH, 3), dtype=np.uint8))
    batch = {stream: torch.zeros(16, 3, GEOMETRY.frames, size, size, dtype=dtype) for stream in GEOMETRY.streams}
    top, left = (HEIGHT - side) // 2, (WIDTH - side) // 2
    clip = Clip(row=0, start=0, stop=read, order=np.arange(read), top=top, left=left, side=side, flip=False)
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(rounds + 1):
        for second, (way, make) in enumerate(WAYS.items()):
            turn = 2 * number + second
            out = {stream: clips[turn % 16] for stream, clips in batch.items()}
            start = time.thread_time()
            make(sources[turn % 5], clip, GEOMETRY, NORMALISATION, dtype=dtype, out=out)
            seconds[way].append(time.thread_time() - start)
    return seconds


def epochs(path: Path, count: int) -> dict[str, list[float]]:
    """Seconds of a clip in each epoch, reading and decoding included, by each way."""
    store = open_store(path)
    plan = TrainPlan(store.index, np.flatnonzero(store.index.num_frames), GEOMETRY, seed=0, flip=True)
    clips = ClipStream(store, plan, batch_size=8, normalisation=NORMALISATION, threads=1)
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(count + 1):
        for way, make in WAYS.items():
            stream_module.make_clip = make
            start = time.process_time()
            with clips.epoch(number) as reader:
                for _ in reader:
                    pass
            seconds[way].append((time.process_time() - start) / len(plan))
    return seconds


def transforms_on_gpu(
    side: int, dtype: torch.dtype, rounds: int, bytes_per_second: float
) -> tuple[float, dict[str, list[float]]]:
    """Seconds a clip: that copying takes, and by each way."""
    top, left, count = (HEIGHT - side) // 2, (WIDTH - side) // 2, GEOMETRY.frames_read
    frame = HEIGHT * WIDTH * 3
    clip = Clip(row=0, start=0, stop=count, order=np.arange(count), top=top, left=left, side=side, flip=False)
    packed = PackedClips(
        frames=torch.randint(0, 256, (GPU_BATCH * count * frame,), dtype=torch.uint8, device=GPU),
        offsets=[place * count * frame for place in range(GPU_BATCH)],
        heights=[HEIGHT] * GPU_BATCH,
        widths=[WIDTH] * GPU_BATCH,
        clips=[clip] * GPU_BATCH,
        largest_side=max(SIDES),
    )
    seconds: dict[str, list[float]] = {way: [] for way in GPU_WAYS}
    for _ in range(rounds + 1):
        for way, transform in GPU_WAYS.items():
            begin = mark(GPU)
            for _ in range(GPU_CALLS):  # the host makes the next ones ready meanwhile
                batch = transform(packed, GEOMETRY, NORMALISATION, dtype=dtype)
            end = mark(GPU)
            synchronise(GPU)
            seconds[way].append(seconds_between(begin, end) / GPU_CALLS / GPU_BATCH)
    moved = GPU_BATCH * count * side * side * 3 + sum(tensor.nbytes for tensor in batch.values())
    return moved / bytes_per_second / GPU_BATCH, seconds


def streams(path: Path, dtype: torch.dtype, count: int) -> dict[str, list[float]]:
    """Seconds of a clip in each epoch, until the GPU has it, by each way."""
    store = open_store(path)
    videos = np.flatnonzero(store.index.num_frames)
    plan = TrainPlan(store.index, np.resize(videos, GPU_CLIPS), GEOMETRY, seed=0, flip=True)
    clips = ClipStream(
        store, plan, batch_size=GPU_BATCH, normalisation=NORMALISATION, device=GPU, dtype=dtype, batches_ahead=3
    )
    seconds: dict[str, list[float]] = {way: [] for way in GPU_WAYS}
    for number in range(count + 1):
        for way, transform in GPU_WAYS.items():
            stream_module.transform_batch = transform
            start = time.perf_counter()
            with clips.epoch(number) as reader:
                for _ in reader:
                    pass
            synchronise(GPU)
            seconds[way].append((time.perf_counter() - start) / len(plan))
    return seconds


if __name__ == "__main__":
    main()
