"""Chooses the clips for a network, and their order.

A clip is a pure function of (seed, epoch, position): no random number depends on an earlier one, so threads, ranks and
interruptions do not change it. The random words come from Philox, a counter-based generator.

A plan copies the index rows of its own videos, so that it can be pickled to other processes.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from resact.cache.crop import Crop
from resact.cache.index import Index
from resact.errors import UsageError
from resact.train.clips.geometry import SAMPLING, ClipGeometry


class Purpose(IntEnum):
    """Purposes of random words, as independent streams. Runs rely on these numbers."""

    ORDER = 0
    CLIP = 1
    BALANCE = 2
    APPEARANCE = 3
    MIXUP = 4
    DROP = 5


_64_BITS = 2**64 - 1


@dataclass(frozen=True, kw_only=True)
class Appearance:
    """Changes to a clip's pixels, the same in all its frames; see `appearance.altered`."""

    brightness: float
    """A factor, as the next two; 1 leaves pixels as they are."""
    contrast: float
    saturation: float
    sigma: float
    """Sigma of the blur, in pixels of the finished clip; 0 for none."""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One clip: video, frames, crop and flip."""

    video_index: int
    """The video's index in the store."""
    start: int
    """Stored frames [start, stop) are read."""
    stop: int
    order: npt.NDArray[np.int64]
    """(frames_read,) position of each of the clip's frames among the frames read, counted from `start`."""
    top: int
    """The crop's upper edge, in pixels of the stored frame."""
    left: int
    side: int
    """The crop's height and width, in pixels."""
    flip: bool
    """Whether the clip is mirrored left to right."""
    appearance: Appearance | None = None
    """Changes to its pixels; None for no changes."""

    @property
    def crop(self) -> Crop:
        """The crop's rows and columns in the frame."""
        return Crop(self.top, self.top + self.side, self.left, self.left + self.side)

    @property
    def cropped(self) -> "Clip":
        """The same clip, for frames that are already cropped."""
        return replace(self, top=0, left=0)


class ClipPlan(ABC):
    """An epoch's clips by position; see `TrainPlan` and `TestPlan`."""

    def __init__(self, index: Index, video_indices: npt.NDArray[np.intp], geometry: ClipGeometry) -> None:
        if not len(video_indices):
            raise UsageError("got no videos to draw clips from: `resact info` says what each split holds")
        self.geometry = geometry
        self.video_indices = video_indices
        """Indices of the videos in the store."""
        columns = index.num_frames, index.height, index.width
        self._sizes_V3 = np.stack([column[video_indices] for column in columns], axis=1)
        """Stored frames, height and width of each video."""

    @abstractmethod
    def __len__(self) -> int:
        """Clips in an epoch."""

    @abstractmethod
    def clip(self, epoch: int, position: int) -> Clip:
        """The clip at a position of an epoch, for `0 <= position < len(plan)`."""

    @property
    def padded_share(self) -> float:
        """Share of the clips that are longer than their video, over many epochs."""
        return float(self._is_padded.mean())

    @property
    def _is_padded(self) -> npt.NDArray[np.bool_]:
        """(videos,): whether it is shorter than a clip."""
        return self._sizes_V3[:, 0] < self.geometry.frames_read

    def _require(self, position: int) -> None:
        if not 0 <= position < len(self):
            raise UsageError(f"got position {position}, expected 0 <= position < {len(self)}")


class TrainPlan(ClipPlan):
    """Clips at a random start, a corner or centre crop at a random scale, flip (paper, sec. 3).

    An epoch has one clip of each video, or equally many of each class.

    Example:
        store = resact.open_store("data/sample.zarr")
        videos = store.index.video_indices("split1", "train")
        plan = resact.TrainPlan(store.index, videos, resact.ClipGeometry(), seed=0, flip=True)
        clip = plan.clip(epoch=0, position=3)  # which video, frames [start, stop), crop in pixels, flip
    """

    def __init__(
        self,
        index: Index,
        video_indices: npt.NDArray[np.intp],
        geometry: ClipGeometry,
        *,
        seed: int,
        flip: bool,
        sampling: str = "uniform",
        colour_jitter: float = 0.0,
        blur: float = 0.0,
    ) -> None:
        """Args:
        index: the store's index.
        video_indices: the videos to draw from, such as `index.video_indices("split1", "train")`.
        geometry: geometry of the clips.
        seed: 0 to 2^63 - 1.
        flip: mirror half of the clips, at random; only for flip-safe data sets.
        sampling: `uniform`: each video once per epoch. `balanced`: each class equally often, in epochs of the same
            length; within a class, each video as often as any other, give or take one.
        colour_jitter: most that the factors of brightness, contrast and saturation differ from 1.
        blur: largest sigma of the Gaussian blur, in pixels of the finished clip.

        Raises:
            UsageError: there are no videos, or the seed is out of range.
        """
        super().__init__(index, video_indices, geometry)
        if not 0 <= seed < 2**63:
            raise UsageError(f"got seed {seed}, expected 0 <= seed < 2^63")
        if sampling not in SAMPLING:
            raise UsageError(f"got sampling {sampling!r}, expected one of {', '.join(SAMPLING)}")
        self._seed, self._flip, self._colour_jitter, self._blur = seed, flip, colour_jitter, blur
        self._label_V = index.label[video_indices] if sampling == "balanced" else None
        self._last_order: tuple[int, npt.NDArray[np.intp]] | None = None

    def __len__(self) -> int:
        return len(self.video_indices)

    @property
    def padded_share(self) -> float:
        """Share of the clips that are longer than their video, over many epochs."""
        if self._label_V is None:
            return super().padded_share
        classes = [float(self._is_padded[self._label_V == label].mean()) for label in np.unique(self._label_V)]
        return sum(classes) / len(classes)

    def clip(self, epoch: int, position: int) -> Clip:
        """The clip at a position of an epoch, for `0 <= position < len(plan)`."""
        self._require(position)
        video = int(self._order(epoch)[position])
        start_word, scale_word, corner_word, flip_word = random_words(self._seed, Purpose.CLIP, epoch, position)
        num_frames, height, width = self._sizes_V3[video].tolist()
        scales = self.geometry.scales
        side = max(1, round(min(height, width) * scales[below(scale_word, len(scales))]))
        corner = below(corner_word, 5)
        if corner < 4:
            top, left = (height - side) * (corner // 2), (width - side) * (corner % 2)
        else:
            top, left = (height - side) // 2, (width - side) // 2
        start = below(start_word, max(1, num_frames - self.geometry.frames_read + 1))
        flip = self._flip and bool(below(flip_word, 2))
        video_index = int(self.video_indices[video])
        clip = _clip(self.geometry, video_index, num_frames, start, top=top, left=left, side=side, flip=flip)
        changes = self._colour_jitter or self._blur
        return replace(clip, appearance=self._appearance(epoch, position)) if changes else clip

    def _appearance(self, epoch: int, position: int) -> Appearance:
        *words, blur_word = random_words(self._seed, Purpose.APPEARANCE, epoch, position)
        brightness, contrast, saturation = (1 + self._colour_jitter * (2 * share(word) - 1) for word in words)
        sigma = self._blur * share(blur_word)
        return Appearance(brightness=brightness, contrast=contrast, saturation=saturation, sigma=sigma)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_last_order": None}

    def _order(self, epoch: int) -> npt.NDArray[np.intp]:
        """Video at each position; computed once per epoch."""
        last = self._last_order  # threads share a plan: epoch and order are replaced together
        if last is None or last[0] != epoch:
            order = _shuffled(self._seed, epoch, len(self))
            if self._label_V is not None:
                order = _balanced(self._seed, epoch, self._label_V)[order]
            last = self._last_order = epoch, order
        return last[1]


class TestPlan(ClipPlan):
    """`views` clips per video, uniform starts, centre crop (paper, sec. 3), video by video; equal in every epoch.

    Example:
        store = resact.open_store("data/sample.zarr")
        videos = store.index.video_indices("split1", "test")
        plan = resact.TestPlan(store.index, videos, resact.ClipGeometry(), views=10)
        print(len(plan))  # 10 clips a video
    """

    __test__ = False  # for pytest, which takes every class named Test... for tests

    def __init__(
        self, index: Index, video_indices: npt.NDArray[np.intp], geometry: ClipGeometry, *, views: int = 10
    ) -> None:
        """Args:
        index: the store's index.
        video_indices: the videos, such as `index.video_indices("split1", "test")`.
        geometry: geometry of the clips.
        views: clips per video, 1 or more.

        Raises:
            UsageError: there are no videos, or no views.
        """
        super().__init__(index, video_indices, geometry)
        if views < 1:
            raise UsageError(f"got {views} views, expected 1 or more")
        self.views = views

    def __len__(self) -> int:
        return len(self.video_indices) * self.views

    def clip(self, epoch: int, position: int) -> Clip:  # noqa: ARG002 - every epoch is the same
        """View `position % views` of video `position // views`: starts are `linspace(0, N - T - s, views)`, rounded."""
        self._require(position)
        video, view = divmod(position, self.views)
        num_frames, height, width = self._sizes_V3[video].tolist()
        last = max(0, num_frames - self.geometry.frames_read)
        gaps = max(1, self.views - 1)
        start = (2 * view * last + gaps) // (2 * gaps)  # halves are rounded up
        video_index = int(self.video_indices[video])
        return centre_clip(self.geometry, num_frames, height, width, start=start, video_index=video_index)


def centre_clip(
    geometry: ClipGeometry, num_frames: int, height: int, width: int, *, start: int = 0, video_index: int = 0
) -> Clip:
    """The clip from a given first frame, with the centre crop, as in testing (paper, sec. 3).

    Args:
        geometry: geometry of the clip.
        num_frames: stored frames of the video.
        height: height of the stored frames, in pixels.
        width: width of the stored frames, in pixels.
        start: the clip's first frame; 0 if the video is shorter than the clip.
        video_index: index of the video in the store.
    """
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return _clip(geometry, video_index, num_frames, start, top=top, left=left, side=side, flip=False)


def batches(
    num_clips: int, batch_size: int, *, rank: int = 0, world_size: int = 1, position: int = 0, until: int | None = None
) -> Iterator[range]:
    """The positions that one rank takes in each step of an epoch.

    An epoch has as many steps as full batches would need. Its clips are spread evenly over the steps, and each step's
    clips evenly over the ranks. So every clip is used once, all ranks take the same number of steps, and there is no
    small last batch.

    Args:
        num_clips: clips in an epoch.
        batch_size: most clips of one rank in a step.
        rank: rank of this process, 0 <= rank < world_size.
        world_size: number of ranks.
        position: clips of the epoch that all ranks together have already taken.
        until: where a step ends, to end with that step; None: the epoch's end.
    """
    steps = -(-num_clips // (batch_size * world_size))
    for step in range(steps):
        start, stop = step * num_clips // steps, (step + 1) * num_clips // steps
        if until is not None and stop > until:
            return
        if stop > position:
            start = max(start, position)
            count = stop - start
            yield range(start + rank * count // world_size, start + (rank + 1) * count // world_size)


def _clip(
    geometry: ClipGeometry, video_index: int, num_frames: int, start: int, *, top: int, left: int, side: int, flip: bool
) -> Clip:
    order = geometry.frame_order(start, num_frames)
    stop = min(num_frames, start + geometry.frames_read)
    return Clip(
        video_index=video_index, start=start, stop=stop, order=order - start, top=top, left=left, side=side, flip=flip
    )


def random_words(seed: int, purpose: int, epoch: int, position: int) -> tuple[int, int, int, int]:
    """Four random 64-bit words, as a pure function of the arguments.

    Philox 4x64-10 (Salmon et al., Parallel random numbers: as easy as 1, 2, 3, 2011, sec. 3.3). They equal the first
    four words of `numpy.random.Philox(key=[seed, purpose], counter=[0, position, epoch, 0])`, which takes three times
    as long to set up.
    """
    key_0, key_1 = seed, purpose
    word_0, word_1, word_2, word_3 = 1, position, epoch, 0  # NumPy increments its counter before it draws
    for _ in range(10):
        product_0, product_1 = 0xD2E7470EE14C6C93 * word_0, 0xCA5A826395121157 * word_2
        word_0, word_1 = product_1 >> 64 ^ word_1 ^ key_0, product_1 & _64_BITS
        word_2, word_3 = product_0 >> 64 ^ word_3 ^ key_1, product_0 & _64_BITS
        key_0, key_1 = key_0 + 0x9E3779B97F4A7C15 & _64_BITS, key_1 + 0xBB67AE8584CAA73B & _64_BITS
    return word_0, word_1, word_2, word_3


def share(word: int) -> float:
    """A random 64-bit word as a number from 0 on and below 1."""
    return (word >> 11) * 2.0**-53


def below(word: int, bound: int) -> int:
    """A random 64-bit word as a whole number below `bound`."""
    return word * bound >> 64


def _shuffled(seed: int, epoch: int, length: int) -> npt.NDArray[np.intp]:
    """A permutation, by sorting random words: its result does not depend on the release of NumPy."""
    words = np.random.Philox(key=[seed, Purpose.ORDER], counter=[0, 0, epoch, 0]).random_raw(length)
    return np.argsort(words, kind="stable")


def _balanced(seed: int, epoch: int, label_V: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    """V of V videos, class by class: V / C of each of C classes, rounded up for randomly drawn classes.

    Each epoch shuffles the videos of a class; after the last video, the class starts again with its first.
    """
    classes, videos = np.unique(label_V), len(label_V)
    words = np.random.Philox(key=[seed, Purpose.BALANCE], counter=[0, 0, epoch, 0]).random_raw(videos + len(classes))
    counts = np.full(len(classes), videos // len(classes))
    counts[np.argsort(words[videos:], kind="stable")[: videos % len(classes)]] += 1
    taken = []
    for label, count in zip(classes, counts, strict=True):
        of_class = np.flatnonzero(label_V == label)
        taken.append(np.resize(of_class[np.argsort(words[of_class], kind="stable")], count))
    return np.concatenate(taken)
