"""Pictures of stored videos: RGB frames above, their residual frames below (paper, figure 1).

As in training, frames are first resized and then subtracted: a residual is the exact difference of the two frames
shown. `strip` has no text; `figure` and `contact_sheet` name the video, frames and step.

Shapes: T frames, H height, W width, C = 3 (RGB); everything uint8.
"""

import io
import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from resact.cache.layout import fps_value, printable
from resact.cache.store import ClipStore
from resact.errors import UsageError

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

Picture = npt.NDArray[np.uint8]

FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    ".png": ("PNG", {}),
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".webp": ("WEBP", {"lossless": True}),
    ".tif": ("TIFF", {"compression": "tiff_deflate"}),
    ".tiff": ("TIFF", {"compression": "tiff_deflate"}),
}
"""File suffix -> Pillow's name of the format, and its options for writing."""

MAX_PIXELS = 100_000_000
"""Most pixels of one picture: 300 MB in memory."""

_GAP, _MARGIN = 4, 12  # pixels between pictures, and around everything
_TEXT, _TITLE = 13, 17  # sizes of letters
_MIN_WIDTH = 360  # pixels of a figure, for its title
_SHEET_WIDTH = 1_600  # pixels that the columns of a contact sheet may take
_BLACK, _GREY = "#000000", "#606060"
_GAINS = (1, 1.5, 2, 3, 4, 6, 8, 12, 16)
_BRIGHT_SHARE, _BRIGHT = 0.02, 240  # `visible_gain` brings the brightest 2 % of the residuals close to this value


@dataclass(frozen=True, kw_only=True)
class Look:
    """What to show of a video."""

    steps: tuple[int, ...] = (1,)
    """Residual steps, one row each: `abs(x[t + step] - x[t])`, below frame t."""
    frames: int = 8
    """Most columns."""
    start: int = 0
    """The first frame that may be shown."""
    every: int | None = None
    """Frames from column to column; None spreads the columns evenly over the rest of the video."""
    height: int = 128
    """Height of each frame, in pixels; the width follows."""
    gain: float = 1.0
    """Brightness factor of residuals, clipped at 255. `visible_gain` finds one."""

    def __post_init__(self) -> None:
        for name in ("frames", "height"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "a whole number of 1 or more")
        _require(self.start >= 0, "start", self.start, "a frame number of 0 or more")
        _require(self.every is None or self.every >= 1, "every", self.every, "a whole number of 1 or more")
        _require(0 < self.gain < math.inf, "gain", self.gain, "a number above 0")
        _require(
            len(self.steps) > 0 and min(self.steps) >= 1 and len(set(self.steps)) == len(self.steps),
            "steps",
            ",".join(map(str, self.steps)),
            "different whole numbers of 1 or more, such as 1,2,4",
        )

    def times(self, num_frames: int) -> list[int]:
        """The frames to show: fewer than `frames` if the video has fewer frames with all their successors."""
        stop = num_frames - max(self.steps)
        if self.every is not None:
            return list(range(self.start, stop, self.every)[: self.frames])
        count = min(self.frames, max(0, stop - self.start))
        if count == 1:
            return [(self.start + stop - 1) // 2]
        return [round(time) for time in np.linspace(self.start, stop - 1, count).tolist()]


@dataclass(frozen=True, kw_only=True)
class Excerpt:
    """One video's frames for a `Look`."""

    video_id: str
    class_name: str
    problem: str
    """What ffmpeg recovered from, or why there are no frames; usually empty."""
    num_frames: int
    """Number of frames of the whole video."""
    fps: float | None
    """Stored frames per second; None if not even the source's rate is known."""
    times: list[int]
    """Frames shown; empty if the video is too short for the look."""
    frames: dict[int, Picture]
    """The frames at `times` and their successors, resized."""

    def seconds(self, time: int) -> float | None:
        """Time of a frame in the video."""
        return time / self.fps if self.fps else None


def residual(earlier: Picture, later: Picture) -> Picture:
    """`abs(later - earlier)` of two frames, or of two arrays of frames, without integer overflow."""
    return np.maximum(earlier, later) - np.minimum(earlier, later)


def strip(
    frames_THWC: Picture, steps: Sequence[int] = (1,), *, times: Sequence[int] | None = None, gain: float = 1.0
) -> Picture:
    """Frames side by side, and below them a row of residuals for each step; small white gaps between.

    Args:
        frames_THWC: neighbouring frames, uint8 RGB.
        steps: residual steps in frames, each 1 <= step < T.
        times: frames to show, each with a successor at every step; default: all that have them.
        gain: brightness factor of residuals, clipped at 255.

    Returns:
        uint8 (height, width, 3).

    Raises:
        UsageError: the frames have another shape or dtype, or one of `times` has no successor.
    """
    if frames_THWC.ndim != 4 or frames_THWC.shape[3] != 3 or frames_THWC.dtype != np.uint8:
        raise UsageError(f"got frames {frames_THWC.shape} of {frames_THWC.dtype}, expected (T, H, W, 3) of uint8")
    look = Look(steps=tuple(steps), gain=gain, frames=len(frames_THWC), every=1)
    shown = look.times(len(frames_THWC))
    if times is not None and not set(times) <= set(shown):
        raise UsageError(f"got times {list(times)}, expected them among the {len(shown)} frames with all successors")
    shown = shown if times is None else list(times)
    if not shown:
        raise UsageError(f"got steps {list(steps)} for {len(frames_THWC)} frames, expected them below that")
    return _tiled(_rows(dict(enumerate(frames_THWC)), shown, look))


def read_excerpt(store: ClipStore, row: int, look: Look) -> Excerpt:
    """Read the frames to show and their successors, one by one, and resize them.

    Raises:
        DamagedError: bytes have changed since they were written.
        StoreError: the file system or server does not answer.
    """
    index, rate = store.index, store.settings.decode.fps
    num_frames = int(index.num_frames[row])
    fps = float(index.source_fps[row]) if rate == "source" else fps_value(rate)
    times = look.times(num_frames)
    needed = sorted({time + step for time in times for step in (0, *look.steps)})
    return Excerpt(
        video_id=index.video_id[row],
        class_name=index.classes[index.label[row]],
        problem=index.problem[row],
        num_frames=num_frames,
        fps=fps if fps > 0 else None,  # NaN if ffmpeg does not know it
        times=times,
        frames={time: _resized(store.read_frames(row, time, time + 1)[0], look.height) for time in needed},
    )


def visible_gain(shown: Iterable[tuple[Excerpt, Sequence[int]]]) -> float:
    """One gain for all residuals of a figure: bright enough to see them, and steps stay comparable.

    Residuals of real videos are dark: half of their pixels are below 3, and 2 % above 10 to 70. The gain brings
    the brightest 2 % close to white.

    Args:
        shown: the excerpts in the figure, each with its residual steps.

    Returns:
        1 to 16, a round number.
    """
    counts = np.zeros(256, np.int64)
    for excerpt, steps in shown:
        for time in excerpt.times:
            for step in steps:
                brightest_HW = residual(excerpt.frames[time], excerpt.frames[time + step]).max(-1)
                counts += np.bincount(brightest_HW.ravel(), minlength=256)
    brighter = np.cumsum(counts[::-1])[::-1]  # pixels at that value or above
    value = int(np.flatnonzero(brighter >= _BRIGHT_SHARE * counts.sum()).max(initial=0))
    if not value:
        return 1.0  # nothing moves, or there is nothing to show
    return float(max((gain for gain in _GAINS if gain * value <= _BRIGHT), default=1))


def strip_of(excerpt: Excerpt, look: Look) -> Picture:
    """`strip` of an excerpt; `excerpt.times` must not be empty."""
    return _tiled(_rows(excerpt.frames, excerpt.times, look))


def figure(excerpt: Excerpt, look: Look) -> Picture:
    """One video: a column per frame, with its number and time; a row for RGB and for each step.

    Raises:
        UsageError: it is too short to show anything, or the picture would be too large.
    """
    if not excerpt.times:
        raise UsageError(f"{excerpt.video_id!r} {_too_short(excerpt, look)}")
    heads = [_head(excerpt, time) for time in excerpt.times]
    font, title_font = _font(_TEXT), _font(_TITLE)
    names = ["RGB", *(f"step {step}, gain {look.gain:g}" for step in look.steps)]
    rows = _rows(excerpt.frames, excerpt.times, look)
    height, width = rows[0][0].shape[:2]
    pitch = max(width, *(_width(word, font) for head in heads for word in head)) + _GAP
    left = _MARGIN + max(_width(name, font) for name in names) + 2 * _GAP
    total = max(_MIN_WIDTH, left + pitch * len(heads) - _GAP + _MARGIN)
    details = [f"{excerpt.class_name}, {excerpt.num_frames:,} frames", excerpt.problem]
    if excerpt.fps:
        details[0] += f" at {excerpt.fps:g} a second"
    title = _wrapped(excerpt.video_id, title_font, total - 2 * _MARGIN)
    words = [line for text in details if text for line in _wrapped(text, font, total - 2 * _MARGIN)]
    line, title_line = _line(font), _line(title_font)
    top = _MARGIN + len(title) * title_line + len(words) * line + 2 * _GAP
    pictures_top = top + len(heads[0]) * line + _GAP
    down = max(height, line) + _GAP
    canvas = _Canvas(total, pictures_top + len(rows) * down - _GAP + _MARGIN)
    canvas.write(_MARGIN, _MARGIN, title, title_font)
    canvas.write(_MARGIN, _MARGIN + len(title) * title_line, words, font, _GREY)
    for column, head in enumerate(heads):
        canvas.write(left + column * pitch, top, head, font, _GREY)
    for number, (name, row) in enumerate(zip(names, rows, strict=True)):
        y = pictures_top + number * down
        canvas.write(_MARGIN, y + max(0, height - line) // 2, [name], font)
        for column, picture in enumerate(row):
            canvas.put(left + column * pitch, y, picture)
    return canvas.picture()


def contact_sheet(excerpts: Sequence[Excerpt], look: Look) -> Picture:
    """One cell per video: its frames, below them their residuals, then its id; a heading for each class.

    If a video is too short for the look, or has no frames, its cell says so.

    Raises:
        UsageError: the picture would be too large.
    """
    font, title_font = _font(_TEXT), _font(_TITLE)
    strips = [strip_of(excerpt, look) if excerpt.times else None for excerpt in excerpts]
    shown = [cell.shape for cell in strips if cell is not None]
    cell_height = max((shape[0] for shape in shown), default=look.height)
    cell_width = max((shape[1] for shape in shown), default=0)
    cell_width = max(cell_width, _width("frame 10,000, 1,000.00 s", font))
    pitch = cell_width + 2 * _MARGIN
    columns = max(1, min(len(excerpts), (_SHEET_WIDTH + 2 * _MARGIN) // pitch))
    words = [_cell_words(excerpt, look, font, cell_width) for excerpt in excerpts]
    line, title_line = _line(font), _line(title_font)
    row_height = cell_height + _GAP + max(map(len, words)) * line + _MARGIN
    steps = ", ".join(map(str, look.steps))
    below = f"step{'s' if len(look.steps) > 1 else ''} {steps}, gain {look.gain:g}"
    total = pitch * columns
    placed: list[tuple[int, int, int]] = []
    headings: list[tuple[int, list[str]]] = []
    y = _MARGIN
    for name in dict.fromkeys(excerpt.class_name for excerpt in excerpts):
        members = [number for number, excerpt in enumerate(excerpts) if excerpt.class_name == name]
        count = f"{len(members):,} video{'s' if len(members) > 1 else ''}"
        heading = _wrapped(f"{name}: {count}; RGB, residuals at {below}", title_font, total - 2 * _MARGIN)
        headings.append((y, heading))
        y += len(heading) * title_line + 2 * _GAP
        for place, number in enumerate(members):
            placed.append((number, _MARGIN + place % columns * pitch, y + place // columns * row_height))
        y += -(-len(members) // columns) * row_height
    canvas = _Canvas(total, y)
    for top, heading in headings:
        canvas.write(_MARGIN, top, heading, title_font)
    for number, x, top in placed:
        picture = strips[number]
        if picture is not None:
            canvas.put(x, top, picture)
        canvas.write(x, top + cell_height + _GAP, words[number], font)
    return canvas.picture()


def require_drawable(store: ClipStore, rows: Sequence[int], look: Look) -> None:
    """Check, before anything is read, that the frames, without text, fit into one picture.

    Raises:
        UsageError: they do not.
    """
    index = store.index
    pixels = 0
    for row in rows:
        columns = len(look.times(int(index.num_frames[row])))
        if columns:
            width = _width_at(int(index.height[row]), int(index.width[row]), look.height)
            pixels += columns * (1 + len(look.steps)) * look.height * width
    _require_size(pixels)


def encoded(picture: Picture, suffix: str) -> bytes:
    """The bytes of an image file.

    Args:
        picture: uint8 (H, W, 3).
        suffix: one of `FORMATS`.

    Raises:
        UsageError: another suffix, or a picture too large for the format.
    """
    from PIL import Image

    if suffix not in FORMATS:
        raise UsageError(f"got a picture's suffix {suffix!r}, expected one of {', '.join(FORMATS)}")
    name, options = FORMATS[suffix]
    buffer = io.BytesIO()
    limit = {"JPEG": 65_535, "WEBP": 16_383}.get(name, MAX_PIXELS)
    if max(picture.shape) > limit:
        height, width, _ = picture.shape
        raise UsageError(f"got {width:,}x{height:,} pixels for {suffix}, expected at most {limit:,} a side: write .png")
    Image.fromarray(picture).save(buffer, name, **options)
    return buffer.getvalue()


class _Canvas:
    """A white picture to draw on; positions are in pixels from the top left corner."""

    def __init__(self, width: int, height: int) -> None:
        from PIL import Image, ImageDraw

        _require_size(width * height)
        self._image = Image.new("RGB", (width, height), "white")
        self._draw = ImageDraw.Draw(self._image)

    def put(self, x: int, y: int, picture: Picture) -> None:
        from PIL import Image

        self._image.paste(Image.fromarray(picture), (x, y))

    def write(self, x: int, y: int, lines: Sequence[str], font: "FreeTypeFont", colour: str = _BLACK) -> None:
        for number, text in enumerate(lines):
            self._draw.text((x, y + number * _line(font)), text, font=font, fill=colour)

    def picture(self) -> Picture:
        return np.array(self._image)


def _rows(frames: Mapping[int, Picture], times: Sequence[int], look: Look) -> list[list[Picture]]:
    """RGB, and residuals of each step."""
    residuals = [[residual(frames[time], frames[time + step]) for time in times] for step in look.steps]
    return [[frames[time] for time in times], *([_amplified(one, look.gain) for one in row] for row in residuals)]


def _amplified(picture: Picture, gain: float) -> Picture:
    if gain == 1:
        return picture
    return np.minimum(np.rint(picture * np.float64(gain)), 255).astype(np.uint8)


def _tiled(rows: Sequence[Sequence[Picture]]) -> Picture:
    height, width, _ = rows[0][0].shape
    shape = (len(rows) * (height + _GAP) - _GAP, len(rows[0]) * (width + _GAP) - _GAP, 3)
    whole = np.full(shape, 255, np.uint8)
    for number, row in enumerate(rows):
        for column, picture in enumerate(row):
            y, x = number * (height + _GAP), column * (width + _GAP)
            whole[y : y + height, x : x + width] = picture
    return whole


def _resized(frame_HWC: Picture, height: int) -> Picture:
    """Resized with the same filter as in training."""
    from PIL import Image

    size = _width_at(frame_HWC.shape[0], frame_HWC.shape[1], height), height
    return np.array(Image.fromarray(frame_HWC).resize(size, Image.Resampling.BILINEAR))


def _width_at(frame_height: int, frame_width: int, height: int) -> int:
    return max(1, round(frame_width * height / frame_height))


def _head(excerpt: Excerpt, time: int) -> list[str]:
    seconds = excerpt.seconds(time)
    return [f"frame {time:,}", *([] if seconds is None else [f"{seconds:,.2f} s"])]


def _cell_words(excerpt: Excerpt, look: Look, font: "FreeTypeFont", width: int) -> list[str]:
    times = excerpt.times
    heads = [", ".join(_head(excerpt, time)) for time in (times[:1] if len(times) < 2 else [times[0], times[-1]])]
    words = " to ".join(heads) if times else _too_short(excerpt, look)
    return [*_wrapped(excerpt.video_id, font, width), *_wrapped(words, font, width)]


def _too_short(excerpt: Excerpt, look: Look) -> str:
    if not excerpt.num_frames:
        return f"has no frames: {excerpt.problem}"
    needed = look.start + max(look.steps) + 1
    frames = f"{excerpt.num_frames:,} frame{'s' if excerpt.num_frames > 1 else ''}"
    return f"has {frames}, expected {needed:,} or more for a residual at step {max(look.steps)} from frame {look.start}"


@lru_cache
def _font(size: int) -> "FreeTypeFont":
    """Pillow's own font, so that pictures look the same on every machine."""
    from PIL import ImageFont

    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font


def _line(font: "FreeTypeFont") -> int:
    return sum(font.getmetrics())


def _width(text: str, font: "FreeTypeFont") -> int:
    return math.ceil(font.getlength(text))


def _wrapped(text: str, font: "FreeTypeFont", width: int) -> list[str]:
    """Lines of at most that width, broken at a blank if possible; each has at least one letter."""
    lines, rest = [], "".join(_letter(letter, font) for letter in printable(text))
    while rest:
        fits = max(1, bisect_right(range(1, len(rest) + 1), width, key=lambda n: _width(rest[:n], font)))
        blank = rest.rfind(" ", 0, fits + 1)
        end = fits if fits == len(rest) or blank < 1 else blank
        lines.append(rest[:end])
        rest = rest[end:].lstrip(" ")
    return lines


@lru_cache(4096)
def _letter(letter: str, font: "FreeTypeFont") -> str:
    """The letter, escaped if the font lacks it: the font draws the same box for all letters that it lacks."""
    drawn = letter.isprintable() and bytes(font.getmask(letter)) != bytes(font.getmask("\uffff"))
    return letter if drawn else letter.encode("unicode_escape").decode()


def _require_size(pixels: int) -> None:
    if pixels > MAX_PIXELS:
        raise UsageError(
            f"got a picture of {pixels / 1e6:,.0f} million pixels, expected at most {MAX_PIXELS / 1e6:,.0f}: "
            "show fewer videos or frames, or use a smaller --height"
        )


def _require(fits: bool, name: str, got: Any, expected: str) -> None:
    if not fits:
        raise UsageError(f"got {name} {got}, expected {expected}")
