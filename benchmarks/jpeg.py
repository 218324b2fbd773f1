"""What decoding a JPEG clip takes: libjpeg-turbo frame by frame beside the machine code that is equal to it.

    python benchmarks/jpeg.py ucf101-jpeg.zarr --output benchmarks/results/jpeg.json

One thread, clips of training in memory, contestants in turn: whole frames by either, and the clip's square alone, of
all clips and by its size. Microseconds of processor time a frame; rounds go over all clips, and the first
does not count. What is made is compared.
"""

import argparse
import json
import time
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from resact.cache.codecs import Box, JpegFrames
from resact.cache.jpeg_llvm import decode_jpegs
from resact.cache.layout import CRC_BYTES, SHARD, array_name
from resact.cache.provenance import provenance
from resact.cache.store import open_store
from resact.train.clips.geometry import ClipGeometry
from resact.train.clips.sampling import TrainPlan


def main() -> None:
    """Measure, print a line a row, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    clips = drawn(options.store, options.clips)
    seconds: dict[str, list[float]] = defaultdict(list)
    for _ in range(options.rounds + 1):
        total: dict[str, list[float]] = defaultdict(list)
        for chunks, shape, box in clips:
            right, whole, square = (np.empty((len(chunks), *shape, 3), np.uint8) for _ in range(3))
            start = time.thread_time()
            for chunk, frame in zip(chunks, right, strict=True):
                JpegFrames().decode_into(chunk, frame)
            total["libjpeg-turbo"].append((time.thread_time() - start) / len(chunks))
            rows = {"whole frames": (Box(0, shape[0], 0, shape[1]), whole), "the clip's square": (box, square)}
            for name, (wanted, out) in rows.items():
                start = time.thread_time()
                left = decode_jpegs(chunks, out, wanted)
                taken = (time.thread_time() - start) / len(chunks)
                total[name].append(taken)
                if out is square:
                    total[f"a square of {box.bottom - box.top}"].append(taken)
                top, bottom, first, last = wanted
                if left or not np.array_equal(out[:, top:bottom, first:last], right[:, top:bottom, first:last]):
                    raise SystemExit(f"{name}: other pixels than libjpeg-turbo's")
        for name, times in total.items():
            seconds[name].append(sum(times) / len(times))
    by_libjpeg = seconds["libjpeg-turbo"][1:]
    rows = []
    for name, all_times in sorted(seconds.items(), key=lambda item: -median(item[1])):
        times = all_times[1:]
        ratios = [libjpeg / one for libjpeg, one in zip(by_libjpeg, times, strict=True)]
        rows.append({"name": name, "microseconds_a_frame": round(median(times) * 1e6, 1)})
        rows[-1] |= {"times_libjpeg": [round(one(ratios), 2) for one in (median, min, max)]}
        print(rows[-1])
    if options.output:
        result = {"clips": len(clips), "rounds": options.rounds, "rows": rows, **provenance()}
        options.output.write_text(json.dumps(result, indent=1) + "\n")


def drawn(path: Path, count: int) -> list[tuple[list[memoryview], tuple[int, int], Box]]:
    """Chunks of each frame, the frames' height and width, and the square, of clips of training."""
    store = open_store(path)
    plan = TrainPlan(store.index, np.flatnonzero(store.index.num_frames >= 33), ClipGeometry(), seed=0, flip=False)
    clips: list[Any] = []
    for position in range(min(count, len(plan))):
        clip = plan.clip(0, position)
        edges = store.index.frame_offsets(clip.row, clip.stop)[clip.start :].tolist()
        data = (path / array_name(store.index.video_id[clip.row]) / SHARD).read_bytes()
        chunks = [memoryview(data[low : high - CRC_BYTES]) for low, high in pairwise(edges)]
        clips.append((chunks, (int(store.index.height[clip.row]), int(store.index.width[clip.row])), clip.box))
    return clips


if __name__ == "__main__":
    main()
