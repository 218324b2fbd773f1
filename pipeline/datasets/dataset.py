"""What a data set is to prep: videos on the disk with their class, group and split memberships."""

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

from resact.cache.index import Index
from resact.cache.layout import Segment, array_name
from resact.cache.settings import DatasetSettings
from resact.errors import UsageError
from resact.pipeline.datasets.division import SPLIT, Division


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
    segment: Segment | None = None
    """The part of the file that it is; None for all of it."""
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
