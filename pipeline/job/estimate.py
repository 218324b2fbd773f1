"""Estimates a store's size and the time of a prep from a few of its videos, before prep starts."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median_low
from time import perf_counter

from resact.cache.layout import CRC_BYTES, SLOT_BYTES, fps_value
from resact.cache.settings import DecodeSettings
from resact.errors import ResactError
from resact.pipeline.datasets.dataset import SourceVideo
from resact.pipeline.decoding.decode import VideoDecoder
from resact.pipeline.decoding.ffmpeg_log import SourceProperties
from resact.pipeline.job.task import PrepJob, decode_video, encode_frame

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


def estimate(job: PrepJob, videos: Sequence[SourceVideo]) -> Estimate | None:
    """Bytes and time that these videos will take.

    A dozen evenly spread videos are decoded for one second each. That gives bytes per frame and, with the number of
    frames per source byte, store bytes per source byte.

    Returns:
        None if none of them could be decoded.
    """
    sample = _evenly(videos, _SAMPLE_VIDEOS)
    with ThreadPoolExecutor(2) as pool:
        measured = [m for m in pool.map(lambda video: _measure(job, video), sample) if m is not None]
    if not measured:
        return None
    total = sum(file_bytes(video.path) for video in videos)
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


def _measure(job: PrepJob, video: SourceVideo) -> tuple[float, int, float] | None:
    """Bytes that a video will take in the store, that its source has, and seconds; None where it cannot be told."""
    if video.problem:
        return None
    decode, codec = job.settings.decode, job.settings.frame_codec

    def measure(decoder: VideoDecoder) -> tuple[list[int], float, SourceProperties | None]:
        begun, overhead = perf_counter(), CRC_BYTES + SLOT_BYTES
        sizes = [len(encode_frame(codec, frame, decoder)) + overhead for frame in decoder]
        return sizes, perf_counter() - begun, decoder.finish()[0]

    first = replace(decode, max_seconds=min(_SAMPLE_SECONDS, decode.max_seconds or _SAMPLE_SECONDS))
    try:
        sizes, spent, properties = decode_video(job, replace(video, segment=None), measure, decode=first)
    except (ResactError, OSError):
        return None  # prep itself will say what is wrong with it
    if properties is None or properties.duration_seconds is None or not sizes:
        return None
    fps = properties.fps if decode.fps == "source" else decode.fps
    if fps is None:
        return None
    frames = length_seconds(video, properties, decode) * fps_value(fps)
    # That ffmpeg starts for so few frames makes them a third slower; prep's own work, and its start, take as much.
    return frames * sum(sizes) / len(sizes), file_bytes(video.path), frames * spent / len(sizes)


def length_seconds(video: SourceVideo, properties: SourceProperties | None, decode: DecodeSettings) -> float:
    """Seconds of a video that are stored, as far as its file says how long it is; 0 if it does not."""
    length = 0.0 if properties is None else properties.duration_seconds or 0.0
    if video.segment is not None:
        end = length if video.segment.end is None else min(float(video.segment.end), length)
        length = max(end - float(video.segment.start), 0.0)
    return min(length, decode.max_seconds or length)


def file_bytes(path: Path) -> int:
    """The size of a file; 0 if it is gone."""
    try:
        return path.stat().st_size
    except OSError:
        return 0  # prep lists it as failed
