"""`resact bench decoding`: compares our machine code with the codec's library, frame by frame.

One thread, training clips in memory, in turns: both decode whole frames, and the machine code also decodes only the
clip's crop, over all clips and by crop size. Results are microseconds of CPU time per frame; each round goes over all
clips, and the first round does not count.
"""

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from rich.console import Console

from resact.bench.comparison import Row, print_rows, result_of, take_turns
from resact.cache.codecs import FrameCodec
from resact.cache.crop import Bounds, Crop
from resact.cache.layout import CRC_BYTES, SHARD, array_name
from resact.cache.store import ClipStore, open_store
from resact.errors import ToolError
from resact.train.clips.geometry import ClipGeometry
from resact.train.clips.sampling import TrainPlan

Frames = npt.NDArray[np.uint8]

_GEOMETRY = ClipGeometry()

_LIBRARY, _WHOLE, _CROP = "the library", "whole frames", "the clip's crop"


class _Stored(NamedTuple):
    """A clip's frames as they are stored."""

    data: memoryview
    bounds: Bounds
    shape: tuple[int, int]
    """Height and width."""
    crop: Crop


def bench_decoding(stores: Sequence[str | Path], *, clips: int, rounds: int, console: Console) -> dict[str, Any]:
    """Measure both on clips of each store.

    Args:
        stores: paths or URLs of stores.
        clips: most clips per store.
        rounds: number of measured rounds.
        console: where to print.

    Returns:
        `rows`, each `codec, name, microseconds_a_frame, times_the_library` (median, smallest and largest of rounds);
        machine, versions, commit.

    Raises:
        ToolError: no machine code decodes a store here, or its pixels differ from the library's.
    """
    rows: list[Row] = []
    for store in map(open_store, stores):
        rows += list(_measured(store.settings.frame_codec, _clips_of(store, clips), rounds))
        console.print(f"{store.files}: {rounds} rounds measured")
    print_rows(
        console,
        rows,
        {
            "": "{codec}: {name}",
            "us a frame": "{microseconds_a_frame:,.1f}",
            "times the library's speed": lambda row: "{:.2f} ({:.2f} to {:.2f})".format(*row["times_the_library"]),
        },
    )
    return result_of("decoding", clips=clips, rounds=rounds, rows=rows)


def _measured(codec: FrameCodec, clips: list[_Stored], rounds: int) -> Iterator[dict[str, Any]]:
    """Rows, slowest first."""
    seconds: dict[str, list[float]] = defaultdict(list)
    for stored in clips:
        _require_equal(codec, stored)
    for number, way in take_turns((_LIBRARY, _WHOLE, _CROP), rounds + 1):
        means: dict[str, list[float]] = defaultdict(list)
        for stored in clips:
            out = _empty(codec, stored, way)
            start = time.thread_time()
            _decode(codec, stored, way, out)
            taken = (time.thread_time() - start) / len(stored.bounds)
            means[way].append(taken)
            if way == _CROP:
                means[f"a crop of {stored.crop.bottom - stored.crop.top}"].append(taken)
        for name, times in means.items():
            if number:
                seconds[name].append(fmean(times))
    for name, times in sorted(seconds.items(), key=lambda item: -median(item[1])):
        ratios = [library / one for library, one in zip(seconds[_LIBRARY], times, strict=True)]
        yield {
            "codec": codec.name,
            "name": name,
            "microseconds_a_frame": round(median(times) * 1e6, 1),
            "times_the_library": [round(one(ratios), 2) for one in (median, min, max)],
        }


def _decode(codec: FrameCodec, stored: _Stored, way: str, out: Frames) -> None:
    if way == _LIBRARY:
        for (low, high), frame in zip(stored.bounds, out, strict=True):
            codec.decode_into(stored.data[low:high], frame)
    elif codec.decode_together(stored.data, stored.bounds, out, stored.shape, _wanted(stored, way)):
        raise ToolError(
            f"got a {codec.name} store, expected jpeg or lz4, and machine code that is on: `resact doctor` says "
            "whether it is"
        )


def _wanted(stored: _Stored, way: str) -> Crop:
    return stored.crop if way == _CROP else Crop(0, stored.shape[0], 0, stored.shape[1])


def _empty(codec: FrameCodec, stored: _Stored, way: str) -> Frames:
    # As in streams on the CPU: a codec that decodes whole frames leaves the crop inside them.
    size = stored.shape if way != _CROP or codec.makes_whole_frames else stored.crop.size
    return np.empty((len(stored.bounds), *size, 3), np.uint8)


def _require_equal(codec: FrameCodec, stored: _Stored) -> None:
    right = _empty(codec, stored, _LIBRARY)
    _decode(codec, stored, _LIBRARY, right)
    for way in (_WHOLE, _CROP):
        out = _empty(codec, stored, way)
        _decode(codec, stored, way, out)
        top, bottom, left, stop = wanted = _wanted(stored, way)
        made = out if out.shape[1:3] == wanted.size else out[:, top:bottom, left:stop]
        if not np.array_equal(made, right[:, top:bottom, left:stop]):
            raise ToolError(f"{codec.name}, {way}: other pixels than the library's")


def _clips_of(store: ClipStore, count: int) -> list[_Stored]:
    """Training clips, as they are stored."""
    index = store.index
    plan = TrainPlan(index, np.flatnonzero(index.num_frames >= _GEOMETRY.frames_read), _GEOMETRY, seed=0, flip=False)
    clips = []
    for position in range(min(count, len(plan))):
        clip = plan.clip(0, position)
        edges = index.frame_offsets(clip.video_index, clip.stop)[clip.start :].tolist()
        shard = f"{array_name(index.video_id[clip.video_index])}/{SHARD}"
        data = store.files.read_range(shard, edges[0], edges[-1])
        bounds = np.array([(low - edges[0], high - edges[0] - CRC_BYTES) for low, high in pairwise(edges)])
        shape = int(index.height[clip.video_index]), int(index.width[clip.video_index])
        clips.append(_Stored(memoryview(data), bounds, shape, clip.crop))
    return clips
