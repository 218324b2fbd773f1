"""A worker's task for one video: decode, encode, commit. It returns a small record and never raises."""

import re
import stat
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from hashlib import file_digest
from io import BufferedReader
from pathlib import Path
from typing import TypeVar

import numpy as np

from resact.cache.codecs import Frame, FrameCodec, JpegFrames
from resact.cache.durable import DISK_FULL, ShardWriter, commit_video, disk_failure_as_error, forget_failure
from resact.cache.files import LocalFiles
from resact.cache.layout import DOCUMENT, Source, VideoRecord, array_name
from resact.cache.settings import DecodeSettings, StoreSettings
from resact.cache.verify import sound_record
from resact.errors import DamagedError, DecodeError, ResactError, ToolError
from resact.pipeline.datasets.dataset import SourceVideo
from resact.pipeline.decoding.binary import TRIES_WHEN_KILLED, find_ffmpeg
from resact.pipeline.decoding.decode import FfmpegKilledError, OtherSamplingError, VideoDecoder
from resact.pipeline.decoding.filter_graph import Pixels, decode_arguments
from resact.pipeline.decoding.timeline import cut_treatment, file_identity

Result = TypeVar("Result")

_MAX_COMPLAINTS = 3
NO_VIDEO = "ffmpeg finds no video in it"
_MOST_SAMPLINGS = 5  # of one video; ffmpeg may give other frames each time
_NUMBERS = re.compile(r"\d+")


@dataclass(frozen=True, kw_only=True)
class PrepJob:
    """Everything that is the same for all videos of a prep."""

    store: Path
    """Absolute path, on a file system that all workers share."""
    settings: StoreSettings
    ffmpeg: str | None
    """Path of ffmpeg; None for the one of the `imageio-ffmpeg` wheel."""
    timeout_seconds: float


@dataclass(frozen=True)
class Trouble:
    """Why a task committed nothing: the class and the words of an error, because not every error can be pickled."""

    kind: type[Exception]
    message: str

    def as_error(self) -> Exception:
        """The error to raise in the driver."""
        return self.kind(self.message)


Approve = Callable[[VideoRecord], None]
"""Called before a record is committed; raises `SourceError` to reject it."""


def prep_video(job: PrepJob, video: SourceVideo, approve: Approve = lambda _: None) -> VideoRecord | Trouble:
    """Put one video into the store, or record there why it has no frames.

    Returns:
        The record for the driver's journal, or why there is none.
    """
    try:
        with disk_failure_as_error(job.store):
            return _prep_video(job, video, approve)
    except ResactError as error:
        return Trouble(type(error), str(error))
    except Exception:  # noqa: BLE001 - a bug of ours: the driver raises it again, with the trace
        return Trouble(RuntimeError, f"{video.video_id}: {traceback.format_exc()}")


def _prep_video(job: PrepJob, video: SourceVideo, approve: Approve) -> VideoRecord:
    settings = job.settings
    for ours, here in (
        (settings.decode.ffmpeg, find_ffmpeg(job.ffmpeg)[1]),
        (settings.library, settings.frame_codec.library()),
    ):
        if ours != here:
            raise ToolError(
                f"a worker has {here}, but the store is made with {ours}: install the same versions on all hosts"
            )
    source, problem = look_at(video)
    failed = failed_record(video, source, problem or "ffmpeg gives no frames")
    if problem is None:
        try:
            for strict in (True, False):
                store = partial(_store, job, video, failed, approve, strict)
                stored = decode_video(job, video, store, strict=strict, midway=strict)
                if stored is not None:
                    return stored
        except DecodeError as error:
            failed = replace(failed, problem=str(error))
    approve(failed)
    return commit_failure(job, failed)


def commit_failure(job: PrepJob, failed: VideoRecord) -> VideoRecord:
    """Record a failure, unless another worker has stored the video meanwhile, such as one that was cut off.

    Returns:
        The record of what the store has.
    """
    commit_video(job.store, failed, job.settings, shard=None)
    name = array_name(failed.video_id)
    # Looked for only now: when a video is stored after this, its worker's driver removes the failure.
    if not (job.store / name / DOCUMENT).exists():
        return failed
    try:
        stored = sound_record(LocalFiles(job.store), job.settings, name, failed=False, decode=False)
    except DamagedError:
        return failed
    forget_failure(job.store, failed.video_id)
    return stored


def failed_record(video: SourceVideo, source: Source | None, problem: str | None) -> VideoRecord:
    """The record of a video without frames, whose file may be unread; decoding fills it in if there are any."""
    return VideoRecord(
        video_id=video.video_id,
        class_name=video.class_name,
        label=video.label,
        group=video.group,
        splits=video.splits,
        segment=video.segment,
        status="failed",
        problem=problem,
        source=source or _unread(video),
        arguments=[],
        height=0,
        width=0,
        frame_bytes=np.empty(0, np.uint32),
    )


@contextmanager
def opened(path: Path) -> Iterator[BufferedReader]:
    """A video's file, opened for reading.

    Raises:
        DecodeError: it cannot be read, and why.
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # a pipe would be waited for without end
            raise DecodeError("not a regular file")
        with path.open("rb") as file:
            yield file
    except FileNotFoundError:
        link = path.is_symlink()
        raise DecodeError("a link to a file that is not there" if link else "the file is gone") from None
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        raise DecodeError(f"the file cannot be read: {error.strerror}") from None


def require_content(path: Path) -> None:
    """Refuse a file that ffmpeg need not see.

    Raises:
        DecodeError: it cannot be read, or is empty.
    """
    with opened(path) as file:
        if not file.read(1):
            raise DecodeError("the file is empty")


def _unread(video: SourceVideo) -> Source:
    return Source(name=video.name, bytes=0, sha256=None, fps=None, height=0, width=0)


def look_at(video: SourceVideo) -> tuple[Source, str | None]:
    """Size and checksum of the file, and what rules it out before ffmpeg sees it."""
    try:
        with opened(video.path):
            digest, size = _digest(video.path, file_identity(video.path))
    except DecodeError as error:
        return _unread(video), str(error)
    source = replace(_unread(video), bytes=size, sha256=digest)
    return source, video.problem or (None if size else "the file is empty")


@lru_cache(maxsize=4)
def _digest(path: Path, _: tuple[int, ...]) -> tuple[str, int]:
    """A file's sha256 and size: the parts of a video come one after the other, and it is read once for all of them."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest(), file.tell()


def missing_end(path: Path) -> str | None:
    """What an AVI lacks according to its header, in words: ffmpeg does not notice a cut between two frames."""
    with path.open("rb") as file:
        head = file.read(12)
        actual = file.seek(0, 2)
    announced = int.from_bytes(head[4:8], "little") + 8 if head[:4] == b"RIFF" and head[8:] == b"AVI " else 0
    if actual >= announced:
        return None
    return f"the file ends after {actual:,} of the {announced:,} bytes that its header announces"


def decode_video(
    job: PrepJob,
    video: SourceVideo,
    read: Callable[[VideoDecoder], Result],
    *,
    strict: bool = False,
    midway: bool = False,
    decode: DecodeSettings | None = None,
    pixels: Pixels | None = None,
) -> Result:
    """What `read` returns for a decoder of the video.

    It reads all frames and calls `finish`. It is called again if the frames were sampled wrongly, or if ffmpeg was
    killed from outside.

    Args:
        job: store and settings.
        video: the video.
        read: reads the frames.
        strict: as in `decode_arguments`.
        midway: as in `cut_treatment`.
        decode: default: the store's settings.
        pixels: default: as the store's codec takes them.

    Raises:
        DecodeError: the video cannot be decoded, or ffmpeg was killed each time.
    """
    decode, binary, treatment = decode or job.settings.decode, find_ffmpeg(job.ffmpeg)[0], None
    pixels = pixels or pixels_of(job.settings.frame_codec)
    if video.segment is not None:
        treatment = cut_treatment(
            video.path, video.segment, decode, binary=binary, timeout_seconds=job.timeout_seconds, midway=midway
        )
    samplings = killed = 0
    while True:
        try:
            with VideoDecoder(
                video.path,
                decode,
                pixels,
                strict=strict,
                binary=binary,
                timeout_seconds=job.timeout_seconds,
                treatment=treatment,
            ) as decoder:
                return read(decoder)
        except OtherSamplingError as other:  # at most once, and a few times for a part of a video
            treatment, samplings = other.treatment, samplings + 1
            if samplings == _MOST_SAMPLINGS:
                raise DecodeError("its frames are other ones each time") from None
        except FfmpegKilledError as error:
            killed += 1
            if killed == TRIES_WHEN_KILLED:
                raise DecodeError(f"ffmpeg was killed by {error} each of {killed} times") from None


def _store(
    job: PrepJob, video: SourceVideo, record: VideoRecord, approve: Approve, strict: bool, decoder: VideoDecoder
) -> VideoRecord | None:
    """One run of ffmpeg into the store; None if a strict one has to be followed by a forgiving one."""
    settings, num_frames = job.settings, 0
    codec = settings.frame_codec
    with ShardWriter(job.store, video.video_id) as shard:
        for frame in decoder:
            shard.append(encode_frame(codec, frame, decoder))
            num_frames += 1
        properties, complaints = decoder.finish()
        if strict and (complaints or not num_frames):
            return None
        if lacking := missing_end(video.path):
            complaints.append(lacking)
        if video.segment is not None and properties is not None and not num_frames and not complaints:
            raise DecodeError(f"there is no frame in its part {str(video.segment)[1:]} s of the video")
        if not num_frames or properties is None:
            raise DecodeError(complaint_words(complaints) or NO_VIDEO)
        problem = complaint_words(complaints) or (
            None if strict else "strict decoding fails, plain decoding says nothing"
        )
        arguments = decode_arguments(
            video.name, settings.decode, pixels_of(codec), strict=strict, treatment=decoder.treatment
        )
        stored = replace(
            record,
            status="damaged" if problem else "ok",
            problem=problem,
            note=properties.note,
            source=replace(record.source, fps=properties.fps, height=properties.height, width=properties.width),
            arguments=arguments,
            height=decoder.height,
            width=decoder.width,
            frame_bytes=shard.finish(),
        )
        approve(stored)
        commit_video(job.store, stored, settings, shard=shard.path)
        return stored


def pixels_of(codec: FrameCodec) -> Pixels:
    """The pixel format that the codec takes directly: planes for JPEG, RGB for the lossless codecs."""
    return "yuvj420p" if isinstance(codec, JpegFrames) else "rgb24"


def encode_frame(codec: FrameCodec, frame: Frame, decoder: VideoDecoder) -> bytes:
    """Bytes of one frame from `decoder`, for a codec that takes `pixels_of`."""
    if not isinstance(codec, JpegFrames):
        return codec.encode(frame)
    return codec.encode_planes(*planes_of(frame, decoder.height, decoder.width))


def planes_of(frame: Frame, height: int, width: int) -> tuple[Frame, Frame, Frame]:
    """Luma and both chromas of a 4:2:0 frame, as views."""
    luma, chroma = height * width, height * width // 4
    y, u, v = frame[:luma], frame[luma : luma + chroma], frame[luma + chroma :]
    half = height // 2, width // 2
    return y.reshape(height, width), u.reshape(half), v.reshape(half)


def complaint_words(complaints: list[str]) -> str:
    """A few of ffmpeg's complaints, without their number: for a broken stream, that number varies from run to run."""
    alike: dict[str, list[str]] = {}
    for complaint in complaints:
        alike.setdefault(_NUMBERS.sub("", complaint), []).append(complaint)
    words = [same[0] + (" (and more like it)" if len(same) > 1 else "") for same in alike.values()]
    return "; ".join(words[:_MAX_COMPLAINTS]) + ("; and others" if len(words) > _MAX_COMPLAINTS else "")
