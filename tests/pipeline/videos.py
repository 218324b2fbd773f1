"""Tiny videos of every kind, made by ffmpeg from frames that a test knows, and prep's own task over them."""

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from tests.pipeline.conftest import FFMPEG

from resact.cache.codecs import build_codec
from resact.cache.settings import DatasetSettings, DecodeSettings
from resact.cache.store import ClipStore, open_store
from resact.pipeline.datasets.dataset import Dataset, SourceVideo
from resact.pipeline.decoding.binary import find_ffmpeg
from resact.pipeline.decoding.decode import OtherSamplingError, VideoDecoder
from resact.pipeline.decoding.ffmpeg_log import Treatment
from resact.pipeline.decoding.filter_graph import Pixels
from resact.pipeline.executor import open_executor
from resact.pipeline.job.plan import prep_job
from resact.pipeline.job.prep import PrepResult, prep

H264 = ("-c:v", "libx264", "-crf", "5", "-threads", "1")
DECODE = DecodeSettings(fps="15", short_side=48, max_seconds=None, ffmpeg=find_ffmpeg()[1])
_NAMED = os.environ.get("RESACT_TEST_FFMPEG", "").split(os.pathsep)
EACH_FFMPEG = [
    pytest.param(path, id=find_ffmpeg(path)[1])
    for path in dict.fromkeys([FFMPEG, shutil.which("ffmpeg"), *_NAMED])
    if path
]
"""The wheel's, which alone need be there; the one on PATH; those that `$RESACT_TEST_FFMPEG` names."""
FIELD = Path(__file__).parents[3] / "shared" / "field"
BITS = 10
QUADRANTS = np.array([[[200, 30, 30], [30, 200, 30]], [[30, 30, 200], [200, 200, 200]]], np.uint8)
"""Red, green; blue, white."""


def quadrants(num_frames: int = 10, width: int = 64, height: int = 48) -> np.ndarray:
    """(T, H, W, 3): four colours that tell which way up a picture is, and whether its colours are right."""
    frame = QUADRANTS.repeat(height // 2 + 1, axis=0).repeat(width // 2 + 1, axis=1)
    frames = np.stack([frame[1 : height + 1, 1 : width + 1]] * num_frames)
    for number, moving in enumerate(frames):  # or some encoders would leave out all but the first
        moving[height // 2 - 1 : height // 2 + 1, 2 * number : 2 * number + 4] = 255
    return frames


def colours(frame_HWC: np.ndarray) -> np.ndarray:
    """(2, 2, 3): the colour in the middle of each quadrant."""
    h, w = frame_HWC.shape[0] // 8, frame_HWC.shape[1] // 8
    rows = [[frame_HWC[y * h : (y + 2) * h, x * w : (x + 2) * w].mean((0, 1)) for x in (1, 5)] for y in (1, 5)]
    return np.array(rows)


def numbered(num_frames: int) -> np.ndarray:
    """(T, 48, 80, 3): each frame's number, one bar per bit."""
    bits = (np.arange(num_frames)[:, None] >> np.arange(BITS)) & 1
    bars = (bits * 200 + 25).astype(np.uint8).repeat(8, axis=1)
    return np.broadcast_to(bars[:, None, :, None], (num_frames, 48, 8 * BITS, 3)).copy()


def numbers_in(frames_THWC: np.ndarray) -> list[int]:
    """The number of each frame."""
    bars = frames_THWC[:, 16:32].mean((1, 3)).reshape(len(frames_THWC), BITS, 8)[:, :, 2:6].mean(2)
    return [int(number) for number in ((bars > 125) << np.arange(BITS)).sum(1)]


def ffmpeg(*arguments: object, data: bytes | None = None) -> None:
    """Run it; it must succeed."""
    subprocess.run([FFMPEG, "-v", "error", "-y", *map(str, arguments)], input=data, check=True)


def write_video(target: Path, frames_THWC: np.ndarray, *arguments: object, fps: object = 25) -> Path:
    """Frames, RGB or RGBA, as a video."""
    _, h, w, channels = frames_THWC.shape
    raw = ["-f", "rawvideo", "-pix_fmt", {3: "rgb24", 4: "rgba"}[channels], "-s", f"{w}x{h}", "-r", fps, "-i", "-"]
    ffmpeg(*raw, *arguments, target, data=frames_THWC.tobytes())
    return target


def decoded_by(
    treatment: Treatment | None,
    video: Path,
    decode: DecodeSettings = DECODE,
    *,
    pixels: Pixels = "rgb24",
    strict: bool = True,
    binary: str = FFMPEG,
) -> tuple[np.ndarray, Treatment | None]:
    """(T, ...) frames as prep would have them, without a store, which takes most of the time; and what they needed."""
    while True:
        try:
            with VideoDecoder(
                video, decode, pixels, strict=strict, binary=binary, timeout_seconds=600, treatment=treatment
            ) as decoder:
                frames = [frame.copy() for frame in decoder]
                assert decoder.finish()[1] == []
                return np.stack(frames), treatment
        except OtherSamplingError as other:
            assert treatment is None or treatment.cut is not None, "once is enough"
            treatment = other.treatment


def decoded(video: Path, *settings: DecodeSettings, **options: Any) -> np.ndarray:
    """(T, ...): the frames of a whole video."""
    return decoded_by(None, video, *settings, **options)[0]


@dataclass(frozen=True)
class Prepped:
    """What a prep made of some videos; their ids are `v000`, `v001` ..."""

    result: PrepResult
    store: ClipStore
    path: Path
    said: str

    def problem(self, row: int = 0) -> str:
        """Status and problem."""
        return f"{self.store.index.status[row]}: {self.store.index.problem[row]}"

    def attributes(self, row: int = 0) -> dict[str, Any]:
        """What the store keeps of a video that has frames."""
        document = json.loads((self.path / self.store.index.video_id[row] / "zarr.json").read_bytes())
        return dict(document["attributes"])


def prep_files(
    folder: Path,
    videos: Sequence[Path],
    *,
    decode: DecodeSettings = DECODE,
    codec: str = "jpeg",
    ffmpeg: str | None = None,
    timeout_seconds: float = 600,
) -> Prepped:
    """A real prep, from the driver on, into `folder`."""
    settings = DatasetSettings(
        name="files", videos=len(videos), all_classes=1, classes=("a",), splits=("1",), flip_safe=True
    )
    sources = tuple(
        SourceVideo(
            video_id=f"v{number:03}",
            class_name="a",
            label=0,
            group="",
            splits={"1": "test"},
            path=video,
            name=video.name,
        )
        for number, video in enumerate(videos)
    )
    dataset, path = Dataset(settings=settings, videos=sources, missing=(), notes=()), folder / "files.zarr"
    library = build_codec(codec).library()
    job = prep_job(dataset, decode, codec, library=library, store=path, ffmpeg=ffmpeg, timeout=timeout_seconds)
    with (folder / "said").open("w") as said:
        console = Console(quiet=False, record=True, width=500, file=said)
        result = prep(dataset, job, open_executor=partial(open_executor, workers=0), console=console)
    return Prepped(result, open_store(path), path, console.export_text())
