"""What a clip's transform on the CPU takes: PyTorch's operators beside the machine code that is equal to them.

    python benchmarks/transform.py --store ucf101-lz4.zarr --store ucf101-jpeg.zarr \\
        --output benchmarks/results/transform.json

One thread. Clips of 33 frames of 342x256 into RGB and residual of 32x112x112, for each side of a training crop, the two
in turn, each time other frames and another place, so that neither is in the cache. Of each store, also whole epochs of
a stream of training clips with one and with the other. Milliseconds of processor time a clip.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from resact.cache.provenance import provenance
from resact.cache.store import open_store
from resact.train.clips import stream as stream_module
from resact.train.clips.contestants import NORMALISATION
from resact.train.clips.geometry import SCALES, ClipGeometry
from resact.train.clips.sampling import Clip, TrainPlan
from resact.train.clips.stream import ClipStream
from resact.train.clips.transform import make_clip, transform_clip

GEOMETRY = ClipGeometry(modality="both")
HEIGHT, WIDTH = 256, 342
WAYS: dict[str, Callable[..., Any]] = {"pytorch": transform_clip, "machine code": make_clip}


def main() -> None:
    """Measure, print a line a row, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--store", type=Path, action="append", default=[])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [
        row(f"{str(dtype).removeprefix('torch.')}, side {side}", transforms(side, dtype, options.rounds))
        for dtype in (torch.float32, torch.bfloat16)
        for side in (round(HEIGHT * scale) for scale in SCALES)
    ]
    rows += [row(f"stream, {store.name}", epochs(store, options.epochs)) for store in options.store]
    if options.output:
        options.output.write_text(json.dumps({"rounds": options.rounds, "rows": rows, **provenance()}, indent=1) + "\n")


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


if __name__ == "__main__":
    main()
