"""The time stamps of a video's frames, read from its packets: they are copied, not decoded."""

import os
import re
import subprocess
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import numpy as np

from resact.cache.layout import Segment
from resact.cache.settings import DecodeSettings
from resact.errors import DecodeError
from resact.pipeline.decoding.cut import Cut, Timeline, plan_cut
from resact.pipeline.decoding.decode import FfmpegKilledError, OtherSamplingError, VideoDecoder
from resact.pipeline.decoding.ffmpeg_log import SourceProperties, Treatment
from resact.pipeline.decoding.frame_times import choose
from resact.pipeline.decoding.limits import RESTRICTIONS, run_limited

_TIME_BASE = re.compile(rb"^#tb 0: (\d+)/(\d+)", re.M)
_PACKET = re.compile(rb"^0, *-?\d+, *(-?\d+), .*?, 0x[0-9a-f]{8}(?:, F=0x([0-9A-F]+))?(?:, S=.*)?$", re.M)
_KEY, _CORRUPT, _DISCARD = 1, 2, 4
_LEAST_FRAMES = 2

_SOURCES = 4  # whose timelines are cached: the parts of a video are decoded one after another


@dataclass(frozen=True, eq=False)
class _Source:
    treatment: Treatment
    properties: SourceProperties
    timeline: Timeline


def cut_treatment(
    source: Path, segment: Segment, settings: DecodeSettings, *, binary: str, timeout_seconds: float, midway: bool
) -> Treatment:
    """Plan how to decode a part of a video.

    Args:
        source: the video.
        segment: the part.
        settings: as in `decode_arguments`.
        binary: path of ffmpeg.
        timeout_seconds: time limit for reading its packets.
        midway: whether to start in the middle, if that gives the same frames.

    Raises:
        DecodeError: the part lies outside the video.
    """
    cut = Cut.whole(segment, settings)
    known = _look(source, file_identity(source), settings, binary, timeout_seconds) if midway else None
    if known is None or known.properties.fps is None:
        return Treatment(cut=cut)
    declared = Fraction(known.properties.fps)
    sampling = None
    if settings.fps != "source":
        sampling = choose(known.timeline.stamps.tolist(), declared, known.properties.time_base)
    cut = plan_cut(cut, segment, known.timeline, settings, sampling=sampling, declared=declared)
    if cut.start is None:
        return Treatment(cut=cut)
    return replace(known.treatment, cut=cut, sampling=sampling)


def file_identity(path: Path) -> tuple[int, ...]:
    """Numbers that change with the file."""
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


@lru_cache(maxsize=_SOURCES)
def _look(
    source: Path,
    identity: tuple[int, ...],  # noqa: ARG001 - a changed file must be read again
    settings: DecodeSettings,
    binary: str,
    timeout_seconds: float,
) -> _Source | None:
    """The timeline; None if decoding must start with the first frame."""
    try:
        with VideoDecoder(
            source, settings, "rgb24", strict=False, binary=binary, timeout_seconds=timeout_seconds
        ) as decoder:
            first = next(iter(decoder), None)
            treatment, properties = decoder.treatment, decoder.properties
    except (DecodeError, FfmpegKilledError, OtherSamplingError):
        return None  # decoding reports the error
    if first is None or properties is None or treatment.deinterlace or treatment.keep_last:
        return None
    timeline = _read_packets(source, treatment.stream, binary, timeout_seconds)
    if timeline is None or timeline.time_base != properties.time_base:
        return None
    return _Source(treatment, properties, timeline)


def _read_packets(source: Path, stream: int | None, binary: str, timeout_seconds: float) -> Timeline | None:
    """The packets; None if they do not say when each frame is shown."""
    command = [
        binary, *RESTRICTIONS, "-nostdin", "-v", "quiet", "-protocol_whitelist", "file,pipe",
        "-i", f"file:{os.fspath(source)}", "-map", "0:V:0" if stream is None else f"0:{stream}", "-c", "copy",
        "-copyinkf", "-copypriorss", "1", "-f", "framecrc", "pipe:1",
    ]  # fmt: skip
    done = run_limited(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout_seconds=timeout_seconds)
    if done is None:
        return None
    base = _TIME_BASE.search(done.stdout)
    packets = [(int(pts), int(flags, 16) if flags else _KEY) for pts, flags in _PACKET.findall(done.stdout)]
    shown = sorted((pts, flags) for pts, flags in packets if not flags & _DISCARD)
    if done.returncode or base is None or len(shown) < _LEAST_FRAMES or any(f & _CORRUPT for _, f in shown):
        return None
    ticks = np.array([pts for pts, _ in shown], np.int64)
    if not (np.diff(ticks) > 0).all() or ticks[0] == np.iinfo(np.int64).min:
        return None
    keys = np.flatnonzero([flags & _KEY for _, flags in shown])
    return Timeline(ticks, Fraction(int(base[1]), int(base[2])), keys)
