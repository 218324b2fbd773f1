"""Estimates a store's size and the time of a prep from a few of its videos, before prep starts."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median_low
from time import perf_counter

from resact.cache.layout import CRC_BYTES, SLOT_BYTES, fps_value
from resact.errors import ResactError
from resact.pipeline.datasets.dataset import SourceVideo
from resact.pipeline.decoding.decode import FfmpegKilledError, OtherSamplingError, VideoDecoder
from resact.pipeline.decoding.ffmpeg_log import Treatment
from resact.pipeline.job.task import PrepJob, encode_frame, pixels_of

_SAMPLE_VIDEOS = 12
_SAMPLE_SECONDS = 1.0
_UNUSUAL = 10  # times the bytes a byte of source that the middle one of the sample has


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Estimated size and duration for some videos."""

    bytes: int
    """In the store."""
    seconds: float
    """Seconds of one worker."""


def estimate_bytes(job: PrepJob, videos: Sequence[SourceVideo], *, binary: str) -> int | None:
    """Bytes that these videos will take in the store; None where that cannot be told."""
    told = estimate(job, videos, binary=binary)
    return None if told is None else told.bytes


def estimate(job: PrepJob, videos: Sequence[SourceVideo], *, binary: str) -> Estimate | None:
    """Bytes and time that these videos will take.

    A dozen evenly spread videos are decoded for one second each. That gives bytes per frame and, with the number of
    frames per source byte, store bytes per source byte.

    Returns:
        None if none of them could be decoded.
    """
    sample = _evenly(videos, _SAMPLE_VIDEOS)
    with ThreadPoolExecutor(2) as pool:
        measured = [m for m in pool.map(lambda video: _measure(job, video, binary), sample) if m is not None]
    if not measured:
        return None
    total = sum(_size(video.path) for video in videos)
    if any(video.segment for video in videos):  # parts share files, whose sizes say nothing: each counts alike
        measured, total = [(stored, 1, seconds) for stored, _, seconds in measured], len(videos)
    # A header that lies about its length, or a time stamp that jumps by hours, must not speak for all the others.
    usual = median_low(stored / source for stored, source, _ in measured)
    measured = [one for one in measured if one[0] / one[1] <= _UNUSUAL * usual]
    stored, source, seconds = (sum(values) for values in zip(*measured, strict=True))
    return Estimate(bytes=round(stored / source * total), seconds=seconds / source * total)


def _evenly(videos: Sequence[SourceVideo], count: int) -> list[SourceVideo]:
    """The middle one of each of as many equal parts: classes stand one behind the other."""
    count = min(count, len(videos))
    return [videos[(2 * part + 1) * len(videos) // (2 * count)] for part in range(count)]


def _measure(
    job: PrepJob, video: SourceVideo, binary: str, treatment: Treatment | None = None
) -> tuple[float, int, float] | None:
    """Bytes that a video will take in the store, that its source has, and seconds; None where it cannot be told."""
    if video.problem:
        return None
    decode = job.settings.decode
    codec = job.settings.frame_codec
    seconds = min(_SAMPLE_SECONDS, decode.max_seconds or _SAMPLE_SECONDS)
    try:
        with VideoDecoder(
            video.path,
            replace(decode, max_seconds=seconds),
            pixels_of(codec),
            strict=False,
            binary=binary,
            timeout_seconds=job.timeout_seconds,
            treatment=treatment,
        ) as decoder:
            begun, overhead = perf_counter(), CRC_BYTES + SLOT_BYTES
            sizes = [len(encode_frame(codec, frame, decoder)) + overhead for frame in decoder]
            spent = perf_counter() - begun
            properties, _ = decoder.finish()
    except OtherSamplingError as other:
        return _measure(job, video, binary, other.treatment)
    except (ResactError, FfmpegKilledError, OSError):
        return None  # prep itself will say what is wrong with it
    if properties is None or properties.duration_seconds is None or not sizes:
        return None
    length = length_seconds(video, properties.duration_seconds)
    length = min(length, decode.max_seconds or length)
    fps = properties.fps if decode.fps == "source" else decode.fps
    if fps is None:
        return None
    frames = length * fps_value(fps)
    # That ffmpeg starts for so few frames makes them a third slower; prep's own work, and its start, take as much.
    return frames * sum(sizes) / len(sizes), _size(video.path), frames * spent / len(sizes)


def length_seconds(video: SourceVideo, of_file: float) -> float:
    """The length of a video in seconds, or of its part of a file, as far as the file goes."""
    if video.segment is None:
        return of_file
    end = of_file if video.segment.end is None else min(float(video.segment.end), of_file)
    return max(end - float(video.segment.start), 0.0)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # prep lists it as failed
