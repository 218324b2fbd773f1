"""A data set for prep: videos on disk with their class, group and split memberships."""

import difflib
import os
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from resact.cache.index import Index
from resact.cache.layout import Segment, array_name
from resact.cache.names import first_of
from resact.cache.settings import DatasetSettings
from resact.errors import UsageError
from resact.pipeline.datasets.division import SPLIT, Division


@dataclass(frozen=True, kw_only=True)
class SourceVideo:
    """One video file to put into the store."""

    video_id: str
    class_name: str
    label: int
    group: str
    splits: dict[str, str]
    path: Path
    name: str
    """Path below the data set's root, with forward slashes."""
    segment: Segment | None = None
    """The part of the file to use; None for the whole file."""
    problem: str | None = None
    """A problem known before decoding; such a video is listed as failed."""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A data set as found on disk."""

    settings: DatasetSettings
    videos: tuple[SourceVideo, ...]
    missing: tuple[str, ...]
    """Ids of videos that the lists name but are missing on disk."""
    others: tuple[str, ...] = ()
    """Ids of videos left out because of `--limit` or `--classes`."""
    other_classes: int = 0
    """Classes left out because of `--classes`."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Id that another name of a video's file would have -> the video's id."""
    lines: Mapping[str, str] = field(default_factory=dict)
    """Video id -> the line of a list that names it, in words."""
    notes: tuple[str, ...]
    """Notes for the user, such as folders that are not classes."""
    division: Division | None = None
    """The random division; None if a list says which videos are for test."""

    def beside(self, index: Index) -> "Dataset":
        """The data set, adapted to a store that already has some of it.

        Without a list, videos in the store keep their side. A file that is in the store under another name keeps that
        name.
        """
        held = set(index.video_id)
        renamed = {video_id for alias, video_id in self.aliases.items() if alias in held}
        videos = tuple(v for v in self.videos if v.video_id in held or v.video_id not in renamed)
        if self.division is not None:
            sides = self.division.memberships(index)
            videos = tuple(replace(v, splits={SPLIT: sides[v.group]}) for v in videos)
        return replace(self, videos=videos)


def choose_classes(known: Sequence[str], wanted: Iterable[str] | None) -> tuple[str, ...]:
    """The wanted classes, in the order of `known`; all classes for None.

    Raises:
        UsageError: no such class, or an empty selection.
    """
    if wanted is None:
        return tuple(known)
    asked = list(wanted)
    for name in asked:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
            parts = [other for other in known if "," in other and name in map(str.strip, other.split(","))]
            raise UsageError(
                f"got class {name!r}, expected one of the {len(known)} classes, such as {', '.join(near or known[:3])}"
                + (f": a name with a comma goes in double quotes, --classes '\"{parts[0]}\"'" if parts else "")
            )
    if not asked:
        raise UsageError("got an empty --classes, expected names separated by commas")
    return tuple(name for name in known if name in asked)


def limited(dataset: Dataset, limit: int | None) -> Dataset:
    """`limit` videos, taken in turn from each class; in a class, from each side of the first split (train first), then
    of the other splits, then from each group. So a short trial has all classes and, with two videos per class, both
    sides. A larger limit takes the same videos and more.

    Raises:
        UsageError: a limit below 1.
    """
    if limit is None:
        return dataset
    if limit < 1:
        raise UsageError(f"got --limit {limit}, expected at least 1")

    def turn_of(video: SourceVideo) -> tuple[Any, ...]:
        sides = (("train", "test", "val", None).index(video.splits.get(split)) for split in dataset.settings.splits)
        return (video.label, *sides, video.group)

    order = sorted(dataset.videos, key=lambda video: video.video_id)
    for depth in range(len(dataset.settings.splits) + 2, 0, -1):  # first within each group, last between classes
        order.sort(key=lambda video: turn_of(video)[:depth])
        order = in_turn(order, key=lambda video: turn_of(video)[:depth])
    left = tuple(video.video_id for video in order[limit:])
    return replace(dataset, videos=tuple(order[:limit]), others=dataset.others + left)


def in_turn(videos: Iterable[SourceVideo], *, key: Callable[[SourceVideo], Hashable]) -> list[SourceVideo]:
    """The first video of each key, then the second of each, and so on; otherwise the order is kept."""
    count: Counter[Hashable] = Counter()
    turns = []
    for video in videos:
        count[key(video)] += 1
        turns.append((count[key(video)], video))
    return [video for _, video in sorted(turns, key=lambda turn: turn[0])]


def some(names: Sequence[str]) -> str:
    """As `first_of`, for names of files: line breaks, undecodable bytes and non-ASCII letters are escaped."""
    return first_of(names, 3, show=lambda name: name if name.isascii() and name.isprintable() else ascii(name))


def path_as_id(name: str) -> str:
    """The id of a video that has only a path: the path, or its beginning and a hash if it is too long."""
    try:
        array_name(name)
    except UsageError:
        return f"{name[:12]}~{sha256(os.fsencode(name)).hexdigest()[:16]}"
    return name
