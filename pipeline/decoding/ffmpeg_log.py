"""Reads ffmpeg's verbose log: a video's properties, what it needs besides scaling, and its errors."""

import os
import re
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path

from resact.cache.settings import FIRST_RULE, RULE
from resact.pipeline.decoding.cut import Cut
from resact.pipeline.decoding.frame_times import Sampling
from resact.pipeline.decoding.tracks import Tracks

MAX_PIXELS = 1 << 26
"""Most pixels of a source frame: 8192x8192. 8K video has half as many."""

# Each pattern starts at the start of a log line: titles, and errors that quote them, may contain any other text.
_GRAPH_INPUT = re.compile(
    r"^\[graph \S+ input from stream (\S+) @ \S+\] \[verbose\] w:(\d+) h:(\d+) .*?tb:(\d+)/(\d+) "
    r"fr:(-?\d+)/(-?\d+) sar:(-?\d+)/(-?\d+)",
    re.M,
)
_SCALED = re.compile(r"^(?:\[Parsed_scale_\d+ @ \S+\] )?\[verbose\] w:.*-> w:(\d+) h:(\d+)", re.M)
_RESAMPLED = re.compile(r"^(?:\[Parsed_fps_\d+ @ \S+\] )?\[verbose\] ([1-9]\d*) frames in, (\d+) frames out", re.M)
_SIGNALLED = re.compile(r"^\[info\] Exiting normally, received signal (\d+)\.", re.M)
DURATION = re.compile(r"^\[info\]   Duration: (\d+):(\d+):(\d+\.\d+)", re.M)
_COMPLAINT = re.compile(r"(?:\[[^]]* @ [^]]*\] )*\[(?:error|fatal|panic)\] (.*)")
_INTERLACED = re.compile(r"^dvvideo\b|\((?:[^()]*, )?(?:top|bottom)(?: coded)? first[,) ]")
_CONTAINER = re.compile(r"^\[info\] Input #0, (\w+)", re.M)
_DECODED = re.compile(
    r"^(?:\[[^]]* @ [^]]*\] )*\[verbose\]   Input stream #0:\d+ \(video\): .*?(\d+) frames decoded", re.M
)
_PICTURES_TOO = {"gif", "apng"}  # a file of these formats may be a single picture
# Matrices that ffmpeg 5 and 6 treat as other ones, and that ffmpeg 7 refuses.
_UNCONVERTED = re.compile(r"\((?:tv, |pc, )?(ycgco[-\w]*|bt2020c|smpte2085|chroma-derived-n?c|ictcp|ipt-c2)[/,)]")
_PICTURE_SIZE = re.compile(r"Picture size (\d+)x(\d+) ")
_ADDRESS = re.compile(r" @ 0x[0-9a-f]+")
_COLOUR = re.compile(r"\x1b\[([\d;]*)m")  # texts have none: ffmpeg replaces control characters in them
_LEVELS = {"": "info", "0": "info", "0;32": "verbose", "0;33": "warning", "1;31": "error", "4;31": "fatal"}
_UNPRINTABLE = re.compile(r"[\x01-\x07\x0e-\x1f]")  # ffmpeg writes each of them as a question mark
_LINE_BREAKS = re.compile(r"[\n\v\f\r\x85\u2028\u2029]")

# Encoders round the size of a picture to whole pixels and write the remainder as the pixel aspect ratio: 22 of 673
# UCF101 files have 4096:4083. No real format has pixels that are so close to square.
_ROUNDING = Fraction(1, 100)
_MOST_OBLONG = 16  # a larger aspect ratio, either way, is damage


@dataclass(frozen=True, kw_only=True)
class SourceProperties:
    """Properties of a video before scaling, as ffmpeg reports them."""

    width: int
    height: int
    fps: str | None
    """Frame rate as an exact fraction, such as `30000/1001`; None if ffmpeg does not know it."""
    duration_seconds: float | None
    """Duration according to the container; None if it has none."""
    note: str | None
    """A note for the user, for example that there are several video tracks; None if there is nothing to say."""
    time_base: Fraction
    """Unit of its time stamps, in seconds."""


@dataclass(frozen=True, kw_only=True)
class Treatment:
    """What unusual videos need in addition. The graph of ordinary videos stays exactly the same."""

    stream: int | None = None
    """Number of the video track among the file's streams, if it is not the first video track."""
    deinterlace: bool = False
    """The stream is flagged as interlaced, or is DV, which flags each frame."""
    square_pixels: bool = False
    """The source's pixels are not square."""
    keep_last: bool = False
    """It is so short that resampling would leave no frame."""
    sampling: Sampling | None = None
    """Timing of its frames, if they do not match its declared frame rate."""
    cut: Cut | None = None
    """The part of the video that is wanted; None for all of it."""

    @property
    def midway(self) -> Cut | None:
        """The part, if decoding starts in the middle of the video; otherwise None."""
        return self.cut if self.cut is not None and self.cut.start is not None else None


def by_message(log: str) -> str:
    """The coloured log without its colours, with each message on a line of its own and with its level.

    ffmpeg writes some lines in several pieces. If another of its threads logs in between, its message continues that
    line, without the level and without saying who logs: an error in the middle of a stream's description. Then only the
    colour shows the level.
    """
    parts = _COLOUR.split(log)
    pieces, unfinished = [], None
    for colour, text in zip(["", *parts[1::2]], parts[::2], strict=True):
        level = _LEVELS.get(colour)
        if not text:
            continue
        if level is None or text == f"[{level}] ":  # the part of ffmpeg that logs, or the level: a line begins
            begin = "\n" if unfinished else ""
            unfinished = None
        else:
            begin = f"\n[{level}] " if unfinished not in (None, level) else ""
            unfinished = None if text.endswith(("\n", "\r")) else level
        pieces.append(begin + text)
    return "".join(pieces)


class FfmpegLog:
    """The log of one run.

    Args:
        text: the log, at loglevel `repeat+level+verbose`, coloured or not.
        source: the path given to ffmpeg, without `file:`.
        rule: as in `DecodeSettings`; with the first rule, the first video track is always used.
    """

    def __init__(self, text: str, source: Path, *, rule: int = RULE) -> None:
        self._rule = rule
        # This comes before splitting into lines, because names may have line breaks. Folders differ between hosts.
        written, name = (
            _UNPRINTABLE.sub("?", os.fsencode(path).decode("utf-8", "replace")) for path in (source, source.name)
        )
        text = by_message(text).replace(f"file:{written}", _LINE_BREAKS.sub("?", name))
        self._text = text.replace("\r", "\n")  # ffmpeg ends progress lines with it

    @cached_property
    def _input(self) -> tuple[str, ...] | None:
        match = _GRAPH_INPUT.search(self._text)
        return match and match.groups()

    @cached_property
    def properties(self) -> SourceProperties | None:
        """Properties of the source; None if ffmpeg found no video."""
        if self._input is None:
            return None
        width, height, ticks, base, numerator, denominator = (int(number) for number in self._input[1:7])
        duration = DURATION.search(self._text)
        seconds = float(seconds_of(duration)) if duration else None
        return SourceProperties(
            width=width,
            height=height,
            fps=f"{numerator}/{denominator}" if numerator > 0 and denominator > 0 else None,
            duration_seconds=seconds,
            note=self.tracks.note if self._rule > FIRST_RULE else None,
            time_base=Fraction(ticks, base),
        )

    @property
    def treatment(self) -> Treatment:
        """What the video needs, as far as the log shows so far: the first frame is enough, except for `keep_last`."""
        chosen = self.tracks.stream if self._rule > FIRST_RULE else None
        if self._input is None or (chosen is not None and self._input[0] != f"0:{chosen}"):
            return Treatment(stream=chosen)
        stream, numerator, denominator = self._input[0], int(self._input[7]), int(self._input[8])
        known = min(numerator, denominator) > 0 and max(numerator, denominator) <= _MOST_OBLONG * min(
            numerator, denominator
        )
        described = re.search(rf"^\[info\]   Stream #{re.escape(stream)}(?!\d).*?: Video: (.*)", self._text, re.M)
        return Treatment(
            stream=chosen,
            deinterlace=bool(described and _INTERLACED.search(described[1])),
            square_pixels=known and abs(Fraction(numerator, denominator) - 1) > _ROUNDING,
            keep_last=self.frames_in is not None and not any(int(out) for _, out in self._resampled),
        )

    @cached_property
    def tracks(self) -> Tracks:
        """The file's video tracks."""
        return Tracks(self._text)

    @property
    def unfit(self) -> str | None:
        """Why ffmpeg's frames, if any, are not a video's, as far as the log shows so far; None if they are."""
        if self._rule == FIRST_RULE:
            return None
        container, decoded = _CONTAINER.search(self._text), _DECODED.search(self._text)
        single = container and container[1] in _PICTURES_TOO and decoded and decoded[1] == "1"
        # A video whose second frame did not fit in memory looks like a picture; `refusal` says what is wrong.
        if (single and not any(map(_lacks_memory, self.complaints))) or self.tracks.are_pictures:
            return "it is a still picture, not a video"
        matrix = self.tracks.chosen and _UNCONVERTED.search(self.tracks.chosen.words)
        if matrix:
            return f"its colours are coded as {matrix[1]}, which ffmpeg does not convert: re-encode it as BT.709"
        return None

    @cached_property
    def _resampled(self) -> list[tuple[str, str]]:
        """Frames in and out of each graph; a video whose pixel format changes midway has a second graph."""
        return _RESAMPLED.findall(self._text)

    @property
    def frames_in(self) -> int | None:
        """Number of source frames that were sampled; None if the log does not say, or not yet."""
        return sum(int(count) for count, _ in self._resampled) or None

    @property
    def sizes(self) -> list[str]:
        """Sizes of the frames, such as `342x256`, in the order of the frames."""
        return list(dict.fromkeys(f"{width}x{height}" for width, height in _SCALED.findall(self._text)))

    @property
    def signal(self) -> int | None:
        """The signal after which ffmpeg "exits normally": SIGTERM or SIGINT."""
        match = _SIGNALLED.search(self._text)
        return int(match[1]) if match else None

    @cached_property
    def complaints(self) -> list[str]:
        """Its errors, without duplicates; sorted because ffmpeg's threads log in any order."""
        found = (match[1] for match in map(_COMPLAINT.match, self._text.splitlines()) if match)
        return sorted({_ADDRESS.sub("", words) for words in found})

    @property
    def refusal(self) -> str | None:
        """Why there are no frames at all, in plainer words than ffmpeg's; None if the log does not say."""
        for words in self.complaints:
            if "Format not on whitelist" in words:
                return (
                    "it is not one of the video files that resact opens: playlists, scripts, network addresses, "
                    "pictures and texts are not followed (docs/videos.md)"
                )
            if "matches no streams" in words:
                return "ffmpeg finds no video in it, only sound, a cover picture or nothing"
            size = _PICTURE_SIZE.search(words)
            if size and int(size[1]) * int(size[2]) > MAX_PIXELS:
                return f"its frames have {size[1]}x{size[2]} pixels, over the limit of {MAX_PIXELS:,}: scale it down"
            if _lacks_memory(words):
                return "ffmpeg needs more memory for it than it may have (4 GiB at most): scale it down"
        general = [words for words in self.complaints if words.startswith("Error opening input")]
        if general:  # ffmpeg says this in three lines, and sometimes gives the reason in another one
            others = [words for words in self.complaints if words not in general]
            return "; ".join([f"ffmpeg cannot open it: {general[-1].partition(': ')[2]}", *others[:2]])
        return None


def seconds_of(duration: re.Match[str]) -> Fraction:
    """Seconds of a match of `DURATION`."""
    return int(duration[1]) * 3600 + int(duration[2]) * 60 + Fraction(duration[3])


def _lacks_memory(complaint: str) -> bool:
    return complaint.endswith("Cannot allocate memory")
