"""`resact bench codecs`: size, speed and loss of each way to store a frame, in one run.

The reference frames are ffmpeg's RGB frames, as in a lossless store. JPEG is encoded from ffmpeg's own 4:2:0 planes, as
in prep, or from these RGB frames. Each variant encodes and decodes the same frames, and all take turns.

Shapes: T frames, H height, W width, C = 3 (RGB); everything uint8.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import islice
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import simplejpeg
from rich.console import Console

from resact.bench.comparison import Row, print_rows, result_of, take_turns
from resact.bench.loss import losses_against
from resact.cache.codecs import FrameCodec, JpegFrames, build_codec
from resact.cache.settings import DecodeSettings
from resact.errors import DecodeError, UsageError
from resact.pipeline.datasets.dataset import SourceVideo, in_turn
from resact.pipeline.decoding.binary import find_ffmpeg
from resact.pipeline.decoding.decode import FfmpegKilledError, OtherSamplingError, VideoDecoder
from resact.pipeline.decoding.ffmpeg_log import Treatment
from resact.pipeline.decoding.filter_graph import Pixels
from resact.pipeline.job.task import planes_of

Frame = npt.NDArray[np.uint8]

_RESIDUAL_STEPS = (1, 2, 4)  # the paper's, table 3
_MIN_FRAMES = max(_RESIDUAL_STEPS) + 1
_TIMED_FRAMES = 400  # of all videos together: 100 MB of 342x256
_WARM_UP = 20  # calls before timing starts
_CLIP_FRAMES = 33


@dataclass(frozen=True)
class Sample:
    """One frame, in ffmpeg's output for each kind of codec."""

    rgb: Frame
    """(H, W, 3)."""
    planes: tuple[Frame, Frame, Frame]
    """Luma (H, W) and both chromas (H / 2, W / 2)."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to encode and decode a frame."""

    codec: str
    quality: int | None = None
    subsampling: str | None = None
    made_from: str = "rgb"
    """`planes` or `rgb`."""
    upsampling: str | None = None
    """Chroma upsampling in decoding: `plain`, as in a store, or `fancy`."""

    @property
    def name(self) -> str:
        """Its name in tables."""
        if self.quality is None:
            return self.codec
        name = f"{self.codec} q{self.quality} {self.subsampling} of {self.made_from}"
        return name + (", fancy" if self.upsampling == "fancy" else "")

    @property
    def is_default(self) -> bool:
        """Whether prep and reads use it by default."""
        return (self.quality, self.made_from, self.upsampling) == (JpegFrames().quality, "planes", "plain")

    @cached_property
    def _frames(self) -> FrameCodec:
        return build_codec(self.codec) if self.quality is None else JpegFrames(self.quality)

    def encode(self, sample: Sample) -> bytes:
        """One frame's bytes."""
        if self.subsampling == "4:4:4":
            return bytes(simplejpeg.encode_jpeg(sample.rgb, self.quality, "RGB", "444"))
        if isinstance(self._frames, JpegFrames) and self.made_from == "planes":
            return self._frames.encode_planes(*sample.planes)
        return self._frames.encode(sample.rgb)

    def decode(self, data: bytes, out_HWC: Frame) -> None:
        """The frame again."""
        if self.upsampling == "fancy":
            simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=False, buffer=out_HWC)
        else:
            self._frames.decode_into(data, out_HWC)


@dataclass(kw_only=True)
class _Found:
    """Figures of one variant, over all videos."""

    bytes: int = 0
    exact: bool = True
    losses: list[dict[str, float | None]] = field(default_factory=list)
    """One per video."""
    encode_rates: list[float] = field(default_factory=list)
    """Frames per second, one per round."""
    decode_rates: list[float] = field(default_factory=list)


def variants(qualities: Sequence[int]) -> list[Variant]:
    """JPEG of each quality: 4:2:0 of planes (at the store's own quality also with fancy upsampling) and of RGB, 4:4:4;
    then the lossless codecs.
    """
    made = []
    for quality in qualities:
        jpeg = partial(Variant, codec="jpeg", quality=quality)
        planes = partial(jpeg, subsampling="4:2:0", made_from="planes")
        made.append(planes(upsampling="plain"))
        if quality == JpegFrames().quality:
            made.append(planes(upsampling="fancy"))
        made += [jpeg(subsampling="4:2:0", upsampling="plain"), jpeg(subsampling="4:4:4")]
    return [*made, Variant(codec="zstd"), Variant(codec="lz4")]


def bench_codecs(
    videos: Sequence[SourceVideo],
    decode: DecodeSettings,
    *,
    compared: Sequence[Variant],
    size: int,
    frames: int,
    rounds: int,
    ffmpeg: str | None,
    console: Console,
) -> dict[str, Any]:
    """Measure all variants on the first frames of each video.

    Args:
        videos: the videos to use.
        decode: decode settings.
        compared: the variants to measure, from `variants`.
        size: height and width of the residuals whose loss is measured.
        frames: T, most frames per video; videos with too few for a residual are skipped, and listed.
        rounds: number of timing rounds.
        ffmpeg: as in `find_ffmpeg`.
        console: where to print.

    Returns:
        `rows`, one a variant: `name, codec, quality, subsampling, made_from, upsampling, is_default, exact,
        bytes_a_frame`, for each loss `median, p5, p95` over videos in dB (None where `exact`), and frames a second of
        one core's time in encoding and decoding with their rounds; `left_out`, each `video_id, problem`; machine,
        versions, commit.

    Raises:
        UsageError: no video is left.
    """
    binary, _ = find_ffmpeg(ffmpeg)
    found = [_Found() for _ in compared]
    timed: list[Sample] = []
    left_out: list[dict[str, str]] = []
    total = 0
    for number, video in enumerate(videos, 1):
        try:
            samples = _samples(video, decode, frames, binary)
        except (DecodeError, FfmpegKilledError) as error:
            left_out.append({"video_id": video.video_id, "problem": str(error)})
            continue
        _evaluate(samples, compared, found, size)
        total += len(samples)
        timed += samples[:: max(1, math.ceil(len(samples) * len(videos) / _TIMED_FRAMES))]
        if number % max(1, len(videos) // 10) == 0:
            console.print(f"{number:,} of {len(videos):,} videos compared")
    if not timed:
        problems = f", such as {left_out[0]['video_id']}: {left_out[0]['problem']}" if left_out else ""
        raise UsageError(f"got {len(videos)} videos, expected some with {_MIN_FRAMES} frames or more{problems}")
    _time(timed, compared, found, rounds, console)
    result = result_of(
        "codecs",
        videos=len(videos) - len(left_out),
        frames=total,
        timed_frames=len(timed),
        rounds=rounds,
        frame_shapes=sorted({f"{sample.rgb.shape[1]}x{sample.rgb.shape[0]}" for sample in timed}),
        fps=decode.fps,
        left_out=left_out,
        rows=[_row(variant, one, total) for variant, one in zip(compared, found, strict=True)],
    )
    _print(result, console)
    return result


def _print(result: Row, console: Console) -> None:
    """Which videos were skipped, and a table."""
    for video in result["left_out"]:
        console.print(f"left out: {video['video_id']}: {video['problem']}")
    rows = result["rows"]
    columns: dict[str, str | Callable[[Row], str]] = {
        "jpeg": lambda row: row["name"].removeprefix("jpeg ") + "*" * row["is_default"],
        "KB": lambda row: f"{row['bytes_a_frame'] / 1e3:.1f}",
    }
    for name in [name for name in rows[0] if name.endswith("_db")]:
        what = name.removesuffix("_db").removeprefix("residual_").replace("_", " ")
        columns[f"{what}\ndB"] = partial(_decibels, name)
    columns["encode\n/s"] = "{encode_frames_per_second:,.0f}"
    columns["decode\n/s"] = "{decode_frames_per_second:,.0f}"
    caption = f"{result['videos']:,} videos, {result['frames']:,} frames; medians of videos and of rounds"
    print_rows(console, rows, columns, caption=caption)
    if any(row["is_default"] for row in rows):
        console.print("* what prep and reads do unless told otherwise")


def _decibels(name: str, row: Row) -> str:
    return "exact" if row["exact"] else f"{row[name]['median'] or math.inf:.1f}"


def _samples(video: SourceVideo, decode: DecodeSettings, count: int, binary: str) -> list[Sample]:
    """The first frames, as RGB and as planes: two runs of ffmpeg."""
    if video.problem:
        raise DecodeError(video.problem)
    rgb, height, width = _decoded(video, decode, "rgb24", count, binary)
    planes, *size = _decoded(video, decode, "yuvj420p", count, binary)
    if len(planes) != len(rgb) or (planes and size != [height, width]):
        other = f"{len(planes)} of planes of {size[1]}x{size[0]}"
        raise DecodeError(f"ffmpeg gives {len(rgb)} RGB frames of {width}x{height}, but {other}")
    if len(rgb) < _MIN_FRAMES:
        raise DecodeError(f"{len(rgb)} frames, expected {_MIN_FRAMES} or more")
    return [Sample(one, planes_of(two, height, width)) for one, two in zip(rgb, planes, strict=True)]


def _decoded(
    video: SourceVideo,
    decode: DecodeSettings,
    pixels: Pixels,
    count: int,
    binary: str,
    treatment: Treatment | None = None,
) -> tuple[list[Frame], int, int]:
    try:
        with VideoDecoder(
            video.path, decode, pixels, strict=False, binary=binary, timeout_seconds=600, treatment=treatment
        ) as decoder:
            frames = [frame.copy() for frame in islice(decoder, count)]
            if len(frames) < count:
                decoder.finish()
            return frames, decoder.height, decoder.width
    except OtherSamplingError as other:
        return _decoded(video, decode, pixels, count, binary, other.treatment)


def _evaluate(samples: Sequence[Sample], compared: Sequence[Variant], found: Sequence[_Found], size: int) -> None:
    right_THWC = np.stack([sample.rgb for sample in samples])
    loss = losses_against(right_THWC, steps=_RESIDUAL_STEPS, size=size)
    back_THWC = np.empty_like(right_THWC)
    for variant, one in zip(compared, found, strict=True):
        for sample, out_HWC in zip(samples, back_THWC, strict=True):
            data = variant.encode(sample)
            variant.decode(data, out_HWC)
            one.bytes += len(data)
        one.exact &= np.array_equal(back_THWC, right_THWC)
        one.losses.append(loss(back_THWC))


def _time(
    samples: Sequence[Sample], compared: Sequence[Variant], found: Sequence[_Found], rounds: int, console: Console
) -> None:
    # Decode into the memory of a whole clip, as the reader does: it is larger than the processor's caches.
    clips = {sample.rgb.shape: np.ones((_CLIP_FRAMES, *sample.rgb.shape), np.uint8) for sample in samples}
    outs = [clips[sample.rgb.shape][number % _CLIP_FRAMES] for number, sample in enumerate(samples)]
    for number, (variant, one) in take_turns(list(zip(compared, found, strict=True)), rounds):
        one.encode_rates.append(_rate(variant.encode, [(sample,) for sample in samples]))
        encoded = [variant.encode(sample) for sample in samples]
        one.decode_rates.append(_rate(variant.decode, list(zip(encoded, outs, strict=True))))
        console.print(f"round {number + 1} of {rounds}: {variant.name}")


def _rate(call: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> float:
    """Calls per second of this thread's CPU time, each timed by itself, after a few warm-up calls."""
    for some in arguments[:_WARM_UP]:
        call(*some)
    seconds = 0.0
    for some in arguments:
        begin = time.thread_time()
        call(*some)
        seconds += time.thread_time() - begin
    return len(arguments) / seconds


def _row(variant: Variant, found: _Found, frames: int) -> dict[str, Any]:
    plain = ("name", "codec", "quality", "subsampling", "made_from", "upsampling", "is_default")
    return {
        **{key: getattr(variant, key) for key in plain},
        "exact": found.exact,
        "bytes_a_frame": found.bytes / frames,
        **{name: None if found.exact else _spread(name, found.losses) for name in found.losses[0]},
        "encode_frames_per_second": median(found.encode_rates),
        "encode_frames_per_second_rounds": found.encode_rates,
        "decode_frames_per_second": median(found.decode_rates),
        "decode_frames_per_second_rounds": found.decode_rates,
    }


def _spread(name: str, losses: Sequence[dict[str, float | None]]) -> dict[str, float | None]:
    """Over the videos with a signal; None for infinite: no difference."""
    values = [value for loss in losses if (value := loss[name]) is not None]
    # The nearest value, never a mean of two: videos without a difference count as infinite.
    points = np.percentile(values, (50, 5, 95), method="nearest").tolist() if values else [math.inf] * 3
    finite = [value if math.isfinite(value) else None for value in points]
    return dict(zip(("median", "p5", "p95"), finite, strict=True))


def chosen(videos: Sequence[SourceVideo], count: int, seed: int) -> list[SourceVideo]:
    """A random selection of `count` videos, from each class in turn."""
    order = [videos[number] for number in np.random.default_rng(seed).permutation(len(videos))]
    return in_turn(order, key=lambda video: video.label)[:count]
