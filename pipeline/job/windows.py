"""Windows along a video of any length, with frames as in prep's stores. They are decoded one by one, as needed.

Frames are sampled, coloured and compressed as in a store. There is one difference: whether the declared frame rate was
right is known only for the frames so far. If it turns out wrong, the video is decoded again from its start, and windows
continue after those already given.
"""

import math
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt

from resact.cache.codecs import Frame, FrameCodec, JpegFrames, build_codec
from resact.cache.settings import DecodeSettings
from resact.errors import DecodeError, UsageError
from resact.pipeline.decoding.binary import TRIES_WHEN_KILLED, find_ffmpeg
from resact.pipeline.decoding.decode import FfmpegKilledError, OtherSamplingError, VideoDecoder
from resact.pipeline.decoding.ffmpeg_log import SourceProperties, Treatment
from resact.pipeline.decoding.frame_times import Sampling
from resact.pipeline.job.task import NO_VIDEO, complaint_words, encode_frame, missing_end, pixels_of, require_content

_MOST_RATES = 4  # that are tried for one video; then each frame counts from its own time stamp on
_MISSING_SHARE, _MISSING_SECONDS = 0.02, 1.0  # of its length: what ends so early has broken off

_EVERY = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|min|h)?")
_UNITS = {None: Fraction(1), "ms": Fraction(1, 1000), "s": Fraction(1), "min": Fraction(60), "h": Fraction(3600)}


def parse_every(text: str) -> Fraction:
    """Parse a time, such as `1s`, `0.5`, `500ms` or `2min`, into seconds.

    Raises:
        UsageError: not a time above 0.
    """
    match = _EVERY.fullmatch(text.strip())
    seconds = Fraction(match[1]) * _UNITS[match[2]] if match else Fraction(0)
    if seconds <= 0:
        raise UsageError(f"got --every {text!r}, expected a time above 0, such as 1s, 500ms or 2min")
    return seconds


@dataclass(frozen=True, kw_only=True, eq=False)
class Window:
    """A stretch of a video."""

    start_seconds: float
    stop_seconds: float
    """End of its last frame, in seconds."""
    frames: npt.NDArray[np.uint8]
    """(T, H, W, 3); fewer frames than asked for if the video has no more."""


class VideoWindows:
    """The windows of one video, each `every` seconds after the one before. Iterating decodes; iterate only once.

    A window that starts in the video but does not fit is moved back to end with the video. A video shorter than a
    window gives one window of all its frames.

    Args:
        video: the file.
        decode: frame rate, short side and so on; `max_seconds` is ignored, since the whole video is used.
        codec: codec that frames go through, as in a store.
        frames: frames per window.
        every: seconds between the starts of windows.
        ffmpeg: path of ffmpeg; None for the one of the `imageio-ffmpeg` wheel.
        timeout_seconds: time limit for each frame.

    Raises:
        UsageError: `every` is less than one frame.
    """

    def __init__(
        self,
        video: Path,
        decode: DecodeSettings,
        *,
        codec: str,
        frames: int,
        every: Fraction,
        ffmpeg: str | None = None,
        timeout_seconds: float = 600.0,
    ) -> None:
        self.num_frames = 0
        """Number of frames so far, at the frame rate of the windows."""
        self.duration_seconds: float | None = None
        """Duration according to the file, known from the first window on; None if it has none."""
        self.problem: str | None = None
        """After the last window: what ffmpeg recovered from."""
        self.note: str | None = None
        """After the last window: what a user may want to know about the video."""
        self._video, self._decode = video, replace(decode, max_seconds=None)
        self._codec: FrameCodec = build_codec(codec)
        self._frames, self._every = frames, every
        self._ffmpeg, self._timeout_seconds = ffmpeg, timeout_seconds
        self._rate = Fraction(0 if decode.fps == "source" else decode.fps)  # 0 until it is known
        self._given = 0
        self._sampled_otherwise: list[str] = []
        if self._rate:
            self._require_every()

    @property
    def seconds(self) -> float:
        """Seconds of video decoded so far."""
        return float(self.num_frames / self._rate) if self._rate else 0.0

    def __iter__(self) -> Iterator[Window]:
        """Raises:
        DecodeError: there is nothing to decode, or the video breaks off; earlier windows were given.

        """
        if not self._video.exists():
            raise DecodeError("no such file")
        require_content(self._video)
        treatment: Treatment | None = None
        rates = killed = 0
        while True:
            try:
                yield from self._decoded(treatment)
                break
            except OtherSamplingError as other:
                treatment, rates = other.treatment, rates + 1
                if rates >= _MOST_RATES or treatment.sampling is None:
                    treatment = replace(treatment, sampling=Sampling(rate="1", by_stamps=True))
                if self._given:
                    self._sampled_otherwise.append(f"{float(self._start(self._given) / self._rate):.1f} s")
            except FfmpegKilledError as error:
                killed += 1
                if killed == TRIES_WHEN_KILLED:
                    raise DecodeError(f"ffmpeg was killed by {error} each of {killed} times") from None

    def _decoded(self, treatment: Treatment | None) -> Iterator[Window]:
        """One run of ffmpeg: the windows that were not given yet."""
        recent: deque[Frame] = deque(maxlen=self._frames)
        with VideoDecoder(
            self._video,
            self._decode,
            pixels_of(self._codec),
            strict=False,
            binary=find_ffmpeg(self._ffmpeg)[0],
            timeout_seconds=self._timeout_seconds,
            treatment=treatment,
            live=True,
        ) as decoder:
            count = 0
            for frame in decoder:
                if not count:
                    self._look_at(decoder.properties)
                count += 1
                start = self._start(self._given)
                if count > start - self._frames:  # earlier ones are in no window to come
                    recent.append(self._as_stored(frame, decoder))
                self.num_frames = count
                if count == start + self._frames:
                    yield self._window(start, recent)
            properties, complaints = decoder.finish(keep_sampling=self._given > 0)
        if not count or properties is None:
            raise DecodeError(complaint_words(complaints) or NO_VIDEO)
        start = max(0, count - self._frames)
        if not self._given or (self._start(self._given) < count and start > self._start(self._given - 1)):
            yield self._window(start, recent)
        self.note = self._notes(properties)
        if lacking := missing_end(self._video):
            complaints.append(lacking)
        self.problem = complaint_words(complaints) or None
        if self.problem and (lacking or self._breaks_off()):
            raise DecodeError(f"it breaks off at {self.seconds:.1f} s: {self.problem}")

    def _as_stored(self, frame: Frame, decoder: VideoDecoder) -> Frame:
        if not isinstance(self._codec, JpegFrames):
            return frame.copy()
        stored = np.empty((decoder.height, decoder.width, 3), np.uint8)
        self._codec.decode_into(encode_frame(self._codec, frame, decoder), stored)
        return stored

    def _window(self, start: int, recent: "deque[Frame]") -> Window:
        self._given += 1
        return Window(
            start_seconds=float(start / self._rate),
            stop_seconds=float((start + len(recent)) / self._rate),
            frames=np.stack(recent),
        )

    def _start(self, number: int) -> int:
        """The frame that a window begins with; halves are rounded up."""
        return math.floor(number * self._every * self._rate + Fraction(1, 2))

    def _look_at(self, properties: SourceProperties | None) -> None:
        self.duration_seconds = None if properties is None else properties.duration_seconds
        if not self._rate:
            if properties is None or properties.fps is None:
                raise DecodeError("its frame rate is unknown, so windows have no times: re-encode it")
            self._rate = Fraction(properties.fps)
            self._require_every()

    def _require_every(self) -> None:
        if self._every * self._rate < 1:
            frame = f"{float(1 / self._rate):.4g} s"
            raise UsageError(f"got --every {float(self._every):g}s, expected at least a frame, which is {frame} here")

    def _breaks_off(self) -> bool:
        length = self.duration_seconds
        return length is not None and length - self.seconds > max(_MISSING_SECONDS, _MISSING_SHARE * length)

    def _notes(self, properties: SourceProperties) -> str | None:
        notes = [properties.note]
        if self._sampled_otherwise:
            places = " and ".join(self._sampled_otherwise)
            notes.append(f"its frames do not match its declared frame rate: from {places} on they were timed again")
        return "; ".join(filter(None, notes)) or None
