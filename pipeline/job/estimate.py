"""Estimates a store's size from a few of its videos, before prep starts."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import median_low

from resact.cache.layout import CRC_BYTES, SLOT_BYTES, fps_value
from resact.errors import ResactError
from resact.pipeline.datasets.dataset import SourceVideo
from resact.pipeline.decoding.decode import FfmpegKilledError, OtherSamplingError, VideoDecoder
from resact.pipeline.decoding.ffmpeg_log import Treatment
from resact.pipeline.job.task import PrepJob, encode_frame, pixels_of

_SAMPLE_VIDEOS = 12
_SAMPLE_SECONDS = 1.0
_UNUSUAL = 10  # times the bytes a byte of source that the middle one of the sample has


def estimate_bytes(job: PrepJob, videos: Sequence[SourceVideo], *, binary: str) -> int | None:
    """Bytes that these videos will take in the store.

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
    # A header that lies about its length, or a time stamp that jumps by hours, must not speak for all the others.
    usual = median_low(stored / source for stored, source in measured)
    measured = [(stored, source) for stored, source in measured if stored / source <= _UNUSUAL * usual]
    ratio = sum(stored for stored, _ in measured) / sum(source for _, source in measured)
    return round(ratio * sum(_size(video.path) for video in videos))


def _evenly(videos: Sequence[SourceVideo], count: int) -> list[SourceVideo]:
    """The middle one of each of as many equal parts: classes stand one behind the other."""
    count = min(count, len(videos))
    return [videos[(2 * part + 1) * len(videos) // (2 * count)] for part in range(count)]


def _measure(
    job: PrepJob, video: SourceVideo, binary: str, treatment: Treatment | None = None
) -> tuple[float, int] | None:
    """Bytes that a video will take in the store, and that its source has; None where it cannot be told."""
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
            overhead = CRC_BYTES + SLOT_BYTES
            sizes = [len(encode_frame(codec, frame, decoder)) + overhead for frame in decoder]
            properties, _ = decoder.finish()
    except OtherSamplingError as other:
        return _measure(job, video, binary, other.treatment)
    except (ResactError, FfmpegKilledError, OSError):
        return None  # prep itself will say what is wrong with it
    if properties is None or properties.duration_seconds is None or not sizes:
        return None
    length = min(properties.duration_seconds, decode.max_seconds or properties.duration_seconds)
    fps = properties.fps if decode.fps == "source" else decode.fps
    if fps is None:
        return None
    return length * fps_value(fps) * sum(sizes) / len(sizes), _size(video.path)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # prep lists it as failed
