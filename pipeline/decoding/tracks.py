"""Chooses a file's video track, from what ffmpeg's log says about its streams before the first frame."""

import re
from dataclasses import dataclass
from functools import cached_property

_AFTER_INPUT = re.compile(r"^\[info\] (?:Stream mapping:|Output #0)", re.M)
_STREAM = re.compile(r"^\[info\] +Stream #0:(\d+)(?!\d).*?: Video: (.*)", re.M)
_SIZE = re.compile(r", (\d+)x(\d+)\b")
_UNKNOWN = re.compile(r", none\b")  # the pixel format of a track without packets, or without a decoder
_COVER = re.compile(r"\((?:attached pic|timed thumbnails)\)")
_SECONDARY = re.compile(r"\((?:still image|dependent)\)")

# In ISO's file format a picture is an item beside the tracks. ffmpeg shows it as a stream with one time unit per second
# and, unlike a track, no bit rate.
_BRANDS = re.compile(r"^\[info\]     (?:major_brand|compatible_brands) *: (.*)", re.M)
_PICTURE_BRANDS = {"avif", "avis", "heic", "heix", "hevc", "hevx", "mif1", "mif2", "msf1"}
_PICTURE_ITEM = re.compile(r"^(?!.* kb/s,).*, 1 tbn\b")

_WORTH_OF_DEFAULT = 5_000_000  # pixels, as in ffmpeg


@dataclass(frozen=True, kw_only=True)
class Track:
    """A video stream that is not just a picture."""

    stream: int
    """Its number among all streams of the file."""
    words: str
    """ffmpeg's description of it."""

    @property
    def pixels(self) -> int:
        """Pixels of a frame; 0 if unknown."""
        size = _SIZE.search(self.words)
        return int(size[1]) * int(size[2]) if size else 0

    @property
    def is_default(self) -> bool:
        """Whether the file marks it as the default track."""
        return "(default)" in self.words

    @property
    def rank(self) -> tuple[bool, bool, int]:
        """Its rank: ffmpeg and players use the track with the highest one."""
        return (
            not _UNKNOWN.search(self.words),
            not _SECONDARY.search(self.words),
            self.pixels + _WORTH_OF_DEFAULT * self.is_default,
        )

    def __str__(self) -> str:
        size = _SIZE.search(self.words)
        return (f"{size[1]}x{size[2]}" if size else "of unknown size") + (", the default" if self.is_default else "")


class Tracks:
    """The video streams of the first input.

    Args:
        log: ffmpeg's log, at loglevel `level+info` or higher.
    """

    def __init__(self, log: str) -> None:
        end = _AFTER_INPUT.search(log)
        said = log[: end.start()] if end else log
        brands = "".join(_BRANDS.findall(said))
        pictures = any(brands[place : place + 4] in _PICTURE_BRANDS for place in range(0, len(brands), 4))
        streams = sorted((int(number), words) for number, words in _STREAM.findall(said) if not _COVER.search(words))
        self._first = streams[0][0] if streams else None
        self.videos = [
            Track(stream=number, words=words)
            for number, words in streams
            if not (pictures and _PICTURE_ITEM.match(words))
        ]
        """The video tracks, in the file's order."""
        self.are_pictures = bool(streams) and not self.videos
        """Whether there are streams, and all are pictures."""

    @cached_property
    def chosen(self) -> Track | None:
        """The track to use; None if there is none."""
        return max(self.videos, key=lambda track: track.rank, default=None)

    @property
    def stream(self) -> int | None:
        """Stream number of the chosen track; None if it is the first that is not a cover, which ffmpeg calls `V:0`."""
        return None if self.chosen is None or self.chosen.stream == self._first else self.chosen.stream

    @property
    def note(self) -> str | None:
        """A note on which of several tracks was used; None if there is only one."""
        if self.chosen is None or len(self.videos) < 2:
            return None
        place = self.videos.index(self.chosen) + 1
        return f"it has {len(self.videos)} video tracks, of which number {place} was taken ({self.chosen})"
