"""What decoding a clip takes: the codec's library frame by frame beside our machine code that is equal to it.

    python benchmarks/decoding.py ucf101-jpeg.zarr ucf101-lz4.zarr --output benchmarks/results/decoding.json

One thread, clips of training in memory, contestants in turn: whole frames by either, and the clip's square alone, of
all clips and by its size. Microseconds of processor time a frame; rounds go over all clips, and the first
does not count. What is made is compared.
"""

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from resact.cache.box import Bounds, Box
from resact.cache.codecs import FrameCodec
from resact.cache.layout import CRC_BYTES, SHARD, array_name
from resact.cache.provenance import provenance
from resact.cache.store import open_store
from resact.train.clips.geometry import ClipGeometry
from resact.train.clips.sampling import TrainPlan


class _Stored(NamedTuple):
    """A clip's frames as they are stored."""

    data: memoryview
    bounds: Bounds
    shape: tuple[int, int]
    """Height and width."""
    square: Box


def main() -> None:
    """Measure, print a line a row, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stores", type=Path, nargs="+")
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    rows = []
    for path in options.stores:
        codec = open_store(path).settings.frame_codec
        for row in measured(codec, drawn(path, options.clips), options.rounds):
            rows.append({"codec": codec.name, **row})
            print(rows[-1])
    if options.output:
        result = {"clips": options.clips, "rounds": options.rounds, "rows": rows, **provenance()}
        options.output.write_text(json.dumps(result, indent=1) + "\n")


def measured(codec: FrameCodec, clips: list[_Stored], rounds: int) -> Iterator[dict[str, Any]]:
    """Rows, slowest first."""
    seconds: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds + 1):
        total: dict[str, list[float]] = defaultdict(list)
        for data, bounds, (height, width), box in clips:
            right, whole = (np.empty((len(bounds), height, width, 3), np.uint8) for _ in range(2))
            # As streams on the CPU have it: a square that would be copied out of whole frames stays there.
            size = (height, width) if codec.makes_whole_frames else box.size
            square = np.empty((len(bounds), *size, 3), np.uint8)
            start = time.thread_time()
            for (low, high), frame in zip(bounds, right, strict=True):
                codec.decode_into(data[low:high], frame)
            total["the library"].append((time.thread_time() - start) / len(bounds))
            for name, wanted, out in (
                ("whole frames", Box(0, height, 0, width), whole),
                ("the clip's square", box, square),
            ):
                start = time.thread_time()
                left = codec.decode_together(data, bounds, out, (height, width), wanted)
                taken = (time.thread_time() - start) / len(bounds)
                total[name].append(taken)
                if out is square:
                    total[f"a square of {box.bottom - box.top}"].append(taken)
                top, bottom, first, last = wanted
                made = out if out.shape[1:3] == wanted.size else out[:, top:bottom, first:last]
                if left or not np.array_equal(made, right[:, top:bottom, first:last]):
                    raise SystemExit(f"{codec.name}, {name}: other pixels than the library's")
        for name, times in total.items():
            seconds[name].append(sum(times) / len(times))
    by_library = seconds["the library"][1:]
    for name, all_times in sorted(seconds.items(), key=lambda item: -median(item[1])):
        times = all_times[1:]
        ratios = [library / one for library, one in zip(by_library, times, strict=True)]
        yield {
            "name": name,
            "microseconds_a_frame": round(median(times) * 1e6, 1),
            "times_the_library": [round(one(ratios), 2) for one in (median, min, max)],
        }


def drawn(path: Path, count: int) -> list[_Stored]:
    """Clips of training."""
    store = open_store(path)
    plan = TrainPlan(store.index, np.flatnonzero(store.index.num_frames >= 33), ClipGeometry(), seed=0, flip=False)
    clips = []
    for position in range(min(count, len(plan))):
        clip = plan.clip(0, position)
        edges = store.index.frame_offsets(clip.row, clip.stop)[clip.start :].tolist()
        data = (path / array_name(store.index.video_id[clip.row]) / SHARD).read_bytes()[edges[0] : edges[-1]]
        bounds = np.array([(low - edges[0], high - edges[0] - CRC_BYTES) for low, high in pairwise(edges)])
        shape = int(store.index.height[clip.row]), int(store.index.width[clip.row])
        clips.append(_Stored(memoryview(data), bounds, shape, clip.box))
    return clips


if __name__ == "__main__":
    main()
