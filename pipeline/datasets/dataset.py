"""A data set for prep: videos on disk with their class, group and split memberships."""

import difflib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

from resact.cache.default_paths import data_folder
from resact.cache.index import Index
from resact.cache.layout import Segment, array_name
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
    aliases: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Video id -> ids that the other names of the same file would have."""
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
        videos = self.videos
        if self.aliases:
            held = set(index.video_id)
            videos = tuple(v for v in videos if v.video_id in held or not held & self.aliases.get(v.video_id, set()))
        if self.division is not None:
            sides = self.division.memberships_beside(index)
            videos = tuple(replace(v, splits={SPLIT: sides[v.group]}) for v in videos)
        return replace(self, videos=videos)


def possible_homes(root: Path | None, name: str) -> list[Path]:
    """Folders that may hold a data set: the root that the user gives, or the data folder and its folder `name`."""
    return [root] if root else [data_folder(), data_folder() / name]


def find_home(homes: Sequence[Path], parts: Mapping[str, Callable[[Path], bool]]) -> tuple[Path, list[str]]:
    """The folder that holds most of a data set, and the names of the parts that are missing there.

    Args:
        homes: possible folders, existing or not; if none has any part, the last one is taken.
        parts: name of a part -> whether a folder has it; the most important part first.
    """
    home = min(homes, key=lambda folder: [not has(folder) for has in parts.values()])
    missing = [name for name, has in parts.items() if not has(home)]
    return (home if len(missing) < len(parts) else homes[-1]), missing


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


def some(names: Sequence[str]) -> str:
    """The first three names for a message; line breaks, undecodable bytes and non-ASCII letters are escaped."""
    return ", ".join(n if n.isascii() and n.isprintable() else ascii(n) for n in names[:3]) + ", ..." * (len(names) > 3)


def path_as_id(name: str) -> str:
    """The id of a video that has only a path: the path, or its beginning and a hash if it is too long."""
    try:
        array_name(name)
    except UsageError:
        return f"{name[:12]}~{sha256(os.fsencode(name)).hexdigest()[:16]}"
    return name
