"""What a data set is to prep: videos on the disk with their class, group and split memberships."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from resact.cache.places import data_folder
from resact.cache.settings import DatasetSettings
from resact.errors import UsageError

DATASET_NAMES = ("ucf101", "sample")


@dataclass(frozen=True, kw_only=True)
class SourceVideo:
    """One video file that prep is asked to put into the store."""

    video_id: str
    class_name: str
    label: int
    group: str
    splits: dict[str, str]
    path: Path
    name: str
    """Path below the data set's root, with forward slashes."""
    problem: str | None = None
    """Known before decoding; such a video is listed as failed."""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A data set as found on the disk."""

    settings: DatasetSettings
    videos: tuple[SourceVideo, ...]
    missing: tuple[str, ...]
    """Ids of videos that the lists name and the disk has not."""
    notes: tuple[str, ...]
    """What a user should know of, such as folders that are no class."""


def load_dataset(
    name: str, *, root: Path | None = None, classes: Sequence[str] | None = None, allow_partial: bool = False
) -> Dataset:
    """Find a data set's videos.

    Args:
        name: one of `DATASET_NAMES`.
        root: folder that holds it; None to look under the data folder.
        classes: only these classes.
        allow_partial: take what is there, even if videos that the lists name are missing.

    Raises:
        UsageError: no such data set or class.
        SourceError: sources missing, or fewer than the lists say.
    """
    if name == "ucf101":
        from resact.pipeline.ucf101 import load_ucf101

        return load_ucf101(root, classes=classes, allow_partial=allow_partial)
    if name == "sample":
        from resact.pipeline.sample import load_sample

        return load_sample(root or sample_folder(), classes=classes)
    raise UsageError(f"got data set {name!r}, expected one of {', '.join(DATASET_NAMES)}")


def sample_folder() -> Path:
    """Where the sample is made, unless said otherwise."""
    return data_folder() / "sample"


def limited(dataset: Dataset, limit: int | None) -> Dataset:
    """`limit` videos, taken from each class and each of its groups in turn, so that a short trial sees all classes
    and both sides of a split; a larger limit takes the same ones and more.

    Raises:
        UsageError: a limit under one.
    """
    if limit is None:
        return dataset
    if limit < 1:
        raise UsageError(f"got --limit {limit}, expected at least 1")
    in_group: dict[str, int] = {}
    in_class: dict[int, int] = {}
    turns = []
    for video in sorted(dataset.videos, key=lambda v: v.video_id):
        in_group[video.group] = in_group.get(video.group, 0) + 1
        turns.append((in_group[video.group], video))
    order = []
    for _, video in sorted(turns, key=lambda turn: (turn[0], turn[1].video_id)):
        in_class[video.label] = in_class.get(video.label, 0) + 1
        order.append((in_class[video.label], video.label, video))
    return replace(dataset, videos=tuple(v for *_, v in sorted(order, key=lambda entry: entry[:2])[:limit]))
