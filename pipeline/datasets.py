"""What a data set is to prep: videos on the disk with their class, group and split memberships."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

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
    """Names that the lists have and the disk has not."""
    notes: tuple[str, ...]
    """What a user should know of, such as folders that are no class."""


def data_folder() -> Path:
    """Where sources and stores are, unless said otherwise: `RESACT_DATA`, or `data` in the current folder."""
    return Path(os.environ.get("RESACT_DATA", "data"))


def default_store(dataset: str) -> Path:
    """The store of a data set, beside its sources."""
    return data_folder() / f"{dataset}.zarr"


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

        return load_sample(root, classes=classes)
    raise UsageError(f"got data set {name!r}, expected one of {', '.join(DATASET_NAMES)}")


def limited(dataset: Dataset, limit: int | None) -> Dataset:
    """The first `limit` videos, taken from each class in turn, so that a short trial sees all classes.

    Raises:
        UsageError: a limit under one.
    """
    if limit is None:
        return dataset
    if limit < 1:
        raise UsageError(f"got --limit {limit}, expected at least 1")
    seen: dict[str, int] = {}
    turns = []
    for video in sorted(dataset.videos, key=lambda v: v.video_id):
        turn = seen[video.class_name] = seen.get(video.class_name, 0) + 1
        turns.append((turn, video.label, video.video_id, video))
    return replace(dataset, videos=tuple(entry[-1] for entry in sorted(turns, key=lambda t: t[:3])[:limit]))
