"""Limits the number of videos, keeping all classes and sides."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Any

from resact.errors import UsageError
from resact.pipeline.datasets.dataset import Dataset, SourceVideo

_Keyed = tuple[list[Any], SourceVideo]


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

    def turn_of(video: SourceVideo) -> list[Any]:
        sides = (("train", "test", "val", None).index(video.splits.get(split)) for split in dataset.settings.splits)
        return [video.label, *sides, video.group]

    by_id = sorted(dataset.videos, key=lambda v: v.video_id)
    in_order = [video for _, video in _taken_in_turn([(turn_of(video), video) for video in by_id])]
    left = tuple(video.video_id for video in in_order[limit:])
    return replace(dataset, videos=tuple(in_order[:limit]), others=dataset.others + left)


def _taken_in_turn(videos: Sequence[_Keyed]) -> Sequence[_Keyed]:
    """Videos in turn from each value of the first key; among equal values, in turn by the other keys."""
    if not videos or not videos[0][0]:
        return videos
    parts: dict[Any, list[_Keyed]] = {}
    for (first, *others), video in videos:
        parts.setdefault(first, []).append((others, video))
    turns = zip_longest(*(_taken_in_turn(parts[value]) for value in sorted(parts)))
    return [keyed for turn in turns for keyed in turn if keyed is not None]


def in_turn(videos: Iterable[SourceVideo], *, key: Callable[[SourceVideo], Hashable]) -> list[SourceVideo]:
    """The first video of each key, then the second of each, and so on; otherwise the order is kept."""
    count: Counter[Hashable] = Counter()
    turns = []
    for video in videos:
        count[key(video)] += 1
        turns.append((count[key(video)], video))
    return [video for _, video in sorted(turns, key=lambda turn: turn[0])]
