"""What a data set is to prep: videos on the disk with their class, group and split memberships."""

import difflib
import inspect
import os
import pkgutil
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import zip_longest
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
    others: tuple[str, ...] = ()
    """Ids of videos that are not asked for, because of `--limit` or of their class."""
    other_classes: int = 0
    """Classes that are not asked for."""
    aliases: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Video id -> ids that other names of the same file would have."""
    notes: tuple[str, ...]
    """What a user should know of, such as folders that are no class."""
    division: Division | None = None
    """Where no list says which videos are for test."""

    def beside(self, index: Index) -> "Dataset":
        """As it is for a store that holds some of it.

        Where no list divides it, what is there keeps its side. A file that is there under another name stays so.
        """
        videos = self.videos
        if self.aliases:
            held = set(index.video_id)
            videos = tuple(v for v in videos if v.video_id in held or not held & self.aliases.get(v.video_id, set()))
        if self.division is not None:
            sides = self.division.memberships_beside(index)
            videos = tuple(replace(v, splits={SPLIT: sides[v.group]}) for v in videos)
        return replace(self, videos=videos)


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
            parts = [other for other in known if "," in other and name in map(str.strip, other.split(","))]
            raise UsageError(
                f"got class {name!r}, expected one of the {len(known)} classes, such as {', '.join(near or known[:3])}"
                + (f": a name with a comma goes in double quotes, --classes '\"{parts[0]}\"'" if parts else "")
            )
    if not asked:
        raise UsageError("got an empty --classes, expected names separated by commas")
    return tuple(name for name in known if name in asked)


def some(names: Sequence[str]) -> str:
    """The first three, for people: line ends, bytes that are no text and look-alikes show."""
    return ", ".join(n if n.isascii() and n.isprintable() else ascii(n) for n in names[:3]) + ", ..." * (len(names) > 3)


def path_as_id(name: str) -> str:
    """The id of a video that has only its path: this, or, where a store cannot have it, its beginning and a hash."""
    try:
        array_name(name)
    except UsageError:
        return f"{name[:12]}~{sha256(os.fsencode(name)).hexdigest()[:16]}"
    return name


_Keyed = tuple[list[Any], SourceVideo]


def limited(dataset: Dataset, limit: int | None) -> Dataset:
    """`limit` videos: of each class in turn, in it of each side of the first split, train first, then of each side of
    the other splits, then of each group. So a short trial sees all classes and, from two videos a class on, both sides;
    a larger limit takes the same ones and more.

    Raises:
        UsageError: a limit under one.
    """
    if limit is None:
        return dataset
    if limit < 1:
        raise UsageError(f"got --limit {limit}, expected at least 1")

    def turn_of(video: SourceVideo) -> list[Any]:
        sides = (("train", "test", None).index(video.splits.get(split)) for split in dataset.settings.splits)
        return [video.label, *sides, video.group]

    by_id = sorted(dataset.videos, key=lambda v: v.video_id)
    in_order = [video for _, video in _taken_in_turn([(turn_of(video), video) for video in by_id])]
    left = tuple(video.video_id for video in in_order[limit:])
    return replace(dataset, videos=tuple(in_order[:limit]), others=dataset.others + left)


def _taken_in_turn(videos: Sequence[_Keyed]) -> Sequence[_Keyed]:
    """Of each value of the first key in turn; within one value, in turn by the other keys."""
    if not videos or not videos[0][0]:
        return videos
    parts: dict[Any, list[_Keyed]] = {}
    for (first, *others), video in videos:
        parts.setdefault(first, []).append((others, video))
    turns = zip_longest(*(_taken_in_turn(parts[value]) for value in sorted(parts)))
    return [keyed for turn in turns for keyed in turn if keyed is not None]


def in_turn(videos: Iterable[SourceVideo], *, key: "Callable[[SourceVideo], Hashable]") -> list[SourceVideo]:
    """The first video of each key, then the second of each, and so on; otherwise in the order in which they come."""
    count: Counter[Hashable] = Counter()
    turns = []
    for video in videos:
        count[key(video)] += 1
        turns.append((count[key(video)], video))
    return [video for _, video in sorted(turns, key=lambda turn: turn[0])]
