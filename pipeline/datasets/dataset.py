"""What a data set is to prep: videos on the disk with their class, group and split memberships."""

import difflib
import inspect
import os
import pkgutil
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resact.cache.index import Index
from resact.cache.layout import array_name
from resact.cache.settings import DatasetSettings
from resact.errors import UsageError
from resact.pipeline.datasets.division import SPLIT, Division

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from resact.pipeline.datasets.ucf101_download import Fetch
    from resact.pipeline.executor import Executor


@dataclass(frozen=True, kw_only=True)
class DatasetKind:
    """Where the functions of a data set are, as `module:function`; a module is imported when it is needed."""

    load: str
    """Finds its videos. Takes `root`, `classes`, `allow_partial` and, by keyword, the options that only it has."""
    make: str | None = None
    """Makes what can be made of it on the spot. Takes `root`, `classes`, `open_executor` and `console`."""
    fetch: str | None = None
    """Plans how what is missing can be downloaded. Takes `root`; gives a `Fetch`, or None."""


DATASETS = {
    "ucf101": DatasetKind(
        load="resact.pipeline.datasets.ucf101:load_ucf101", fetch="resact.pipeline.datasets.ucf101_download:plan_fetch"
    ),
    "sample": DatasetKind(
        load="resact.pipeline.datasets.sample:load_sample", make="resact.pipeline.datasets.sample:make_sample"
    ),
    "folder": DatasetKind(load="resact.pipeline.datasets.folder:load_folder"),
}
"""All that `resact prep` knows, by name: a new data set is a line here."""

_SHARED_ARGUMENTS = {"root", "classes", "allow_partial"}


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
    division: Division | None = None
    """Where no list says which videos are for test."""

    def beside(self, index: Index) -> "Dataset":
        """As it is for a store that holds some of it: where no list divides it, what is there keeps its side."""
        if self.division is None:
            return self
        sides = self.division.memberships_beside(index)
        return replace(self, videos=tuple(replace(v, splits={SPLIT: sides[v.group]}) for v in self.videos))


def load_dataset(
    name: str,
    *,
    root: Path | None = None,
    classes: Sequence[str] | None = None,
    allow_partial: bool = False,
    options: Mapping[str, Any] | None = None,
) -> Dataset:
    """Find a data set's videos.

    Args:
        name: one of `DATASETS`.
        root: folder that holds it; None to look where it usually is.
        classes: only these classes.
        allow_partial: take what is there, even if videos that the lists name are missing.
        options: what only some data sets take, as keyword arguments of the function that loads them.

    Raises:
        UsageError: no such data set or class, or an option that belongs to another data set.
        SourceError: sources missing, or fewer than the lists say.
    """
    require_own_options(name, options or {})
    load = pkgutil.resolve_name(_kind(name).load)
    found: Dataset = load(root, classes=classes, allow_partial=allow_partial, **(options or {}))
    return found


def require_own_options(name: str, options: Iterable[str]) -> None:
    """Refuse what a data set does not take, before any work.

    Raises:
        UsageError: no such data set, or an option that belongs to another one.
    """
    if foreign := [option for option in options if option not in _own_options(name)]:
        takers = [other for other in DATASETS if foreign[0] in _own_options(other)]
        raise UsageError(
            f"got --{foreign[0].replace('_', '-')}, which belongs to {' or '.join(takers) or 'no data set'}, "
            f"not to {name}: leave it out"
        )


def make_dataset(
    name: str,
    *,
    root: Path | None,
    classes: Sequence[str] | None,
    open_executor: "Callable[[], AbstractContextManager[Executor]]",
    console: "Console",
) -> None:
    """Make what can be made of a data set on the spot; of most nothing can.

    Raises:
        UsageError: no such data set.
        SourceError: it could not be made.
        Interrupted: ctrl-C.
    """
    if make := _kind(name).make:
        pkgutil.resolve_name(make)(root, classes=classes, open_executor=open_executor, console=console)


def plan_fetch(name: str, root: Path | None) -> "Fetch | None":
    """How to download what is missing of a data set; None where nothing is, or none can be downloaded.

    Raises:
        UsageError: no such data set.
    """
    plan = _kind(name).fetch
    fetch: Fetch | None = pkgutil.resolve_name(plan)(root) if plan else None
    return fetch


def _kind(name: str) -> DatasetKind:
    if name not in DATASETS:
        raise UsageError(f"got data set {name!r}, expected one of {', '.join(DATASETS)}")
    return DATASETS[name]


def _own_options(name: str) -> set[str]:
    return set(inspect.signature(pkgutil.resolve_name(_kind(name).load)).parameters) - _SHARED_ARGUMENTS


def choose_classes(known: Sequence[str], wanted: Iterable[str] | None) -> tuple[str, ...]:
    """Those asked for, in the order of `known`; all of them for None.

    Raises:
        UsageError: no such class, or none at all.
    """
    if wanted is None:
        return tuple(known)
    asked = list(wanted)
    for name in asked:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
            raise UsageError(
                f"got class {name!r}, expected one of the {len(known)} classes, such as {', '.join(near or known[:3])}"
            )
    if not asked:
        raise UsageError("got an empty --classes, expected names separated by commas")
    return tuple(name for name in known if name in asked)


def path_as_id(name: str) -> str:
    """The id of a video that has only its path: this, or, where a store cannot have it, its beginning and a hash."""
    try:
        array_name(name)
    except UsageError:
        return f"{name[:12]}~{sha256(os.fsencode(name)).hexdigest()[:16]}"
    return name


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
    by_id = sorted(dataset.videos, key=lambda v: v.video_id)
    of_groups = in_turn(by_id, key=lambda v: (v.label, v.group))
    of_classes = in_turn(sorted(of_groups, key=lambda v: v.label), key=lambda v: v.label)
    return replace(dataset, videos=tuple(of_classes[:limit]))


def in_turn(videos: Iterable[SourceVideo], *, key: "Callable[[SourceVideo], Hashable]") -> list[SourceVideo]:
    """The first video of each key, then the second of each, and so on; otherwise in the order in which they come."""
    count: Counter[Hashable] = Counter()
    turns = []
    for video in videos:
        count[key(video)] += 1
        turns.append((count[key(video)], video))
    return [video for _, video in sorted(turns, key=lambda turn: turn[0])]
