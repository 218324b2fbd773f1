"""A folder of videos as a data set: `<class>/<video>`, or deeper, below a root or below its folders of sides.

A video's id is its path below the root. A CSV, folders such as `train`, or else a seeded random division by group
decide which videos are for test. The folder may grow between preps.
"""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

from resact.cache.settings import DatasetSettings
from resact.errors import SourceError, UsageError
from resact.pipeline.datasets.dataset import Dataset, SourceVideo, choose_classes, path_as_id, some
from resact.pipeline.datasets.division import SPLIT
from resact.pipeline.datasets.entries import Entry, FolderOptions, entries_of
from resact.pipeline.datasets.folder_search import NO_VIDEO, SPECIAL, FolderSearch
from resact.pipeline.datasets.groups import groups_of, look_alikes, parse_pattern
from resact.pipeline.datasets.list_file import Names
from resact.pipeline.datasets.listed import load_listed
from resact.pipeline.datasets.registry import DatasetKind
from resact.pipeline.datasets.sides import require_no_sides_as_groups, side_folders, sides_above, sides_named
from resact.pipeline.datasets.video_list import Problems, read_split_csv

_LAYOUT = "DIR/<class>/<video>, in sub-folders of the class where wanted"
_REMEDY = ", for which it takes two groups: --group-pattern says what a group is, --splits who is on which side"


class _Folder(DatasetKind):
    name = "folder"
    options = tuple({field.name for field in fields(FolderOptions)} - {"root", "classes", "allow_partial"})

    def load(
        self, root: Path | None, *, classes: Sequence[str] | None = None, allow_partial: bool = False, **own: Any
    ) -> Dataset:
        if root is None:
            raise UsageError(f"prep folder needs --root DIR, the folder that holds your videos as {_LAYOUT}")
        options = FolderOptions(root=root, classes=classes, allow_partial=allow_partial, **own)
        return _load_class_folders(options) if options.list is None else load_listed(options, options.list)


FOLDER = _Folder()


def _load_class_folders(options: FolderOptions) -> Dataset:
    root, splits = options.root, options.splits
    found = FolderSearch(root, splits)
    by_folder = found.search()
    names = [name for videos in by_folder.values() for name in videos]
    if not names:
        raise SourceError(f"{root} has no folder with videos in it, expected {_LAYOUT}")
    sides = sides_above(root, list(by_folder))
    depth = 1 if sides else 0
    class_of = partial(_class_of, depth=depth)
    if sides:
        options.require_no_draw(f"the folders {some(list(sides))} say which videos are for test: leave it out")
    notes = _require_classes(root, names, class_of, sides) + found.notes()
    if splits is None:
        notes += require_no_sides_as_groups(root, [name.partition("/")[2] for name in names] if sides else names)
        entry_of = {name: Entry(name=name, class_name=class_of(name)) for name in names}
        for name, entry in entry_of.items() if sides else ():
            entry.memberships[SPLIT] = sides[name.partition("/")[0]]
    else:
        entry_of = {entry.name: entry for entry in _entries_of_csv(splits, names, class_of)}
    listed = [name for name in names if name in entry_of]
    groups, more = groups_of(
        names, parse_pattern(options.group_pattern), depth=depth, sides=side_folders(names) if splits else ()
    )
    notes += more
    drawn = splits is None and not sides
    if drawn and sides_named([Path(os.path.abspath(root)).name]):  # noqa: PTH100
        notes.append(f"{root} is named like a side; its videos are still split into train and test")
    missing = sorted(set(entry_of) - set(names))
    of_classes = missing
    if options.classes is not None and listed:
        of_classes = [name for name in missing if class_of(name) in options.classes]
    if of_classes and not (options.allow_partial and listed):
        raise SourceError(
            f"{splits} names {len(of_classes):,} videos that are not below {root} ({some(of_classes)}): expected paths "
            f"below it such as {names[0]!a}; correct the list, or use what exists with --allow-partial"
        )
    if unlisted := [name for name in names if name not in entry_of]:
        notes.append(f"left out: videos that {splits} does not name: {len(unlisted):,} ({some(unlisted)})")
    chosen = choose_classes(sorted({class_of(name) for name in listed}), options.classes)
    where = "the folders have" if splits is None else f"{splits} has"
    again = _other_names(found.twins(listed), entry_of, chosen, root, where)
    if again:
        notes.append(f"left out: other names of files that are already used: {len(again):,} ({some(sorted(again))})")
    entries = [entry_of[name] for name in listed if name not in again]
    for entry in entries:
        entry.group = entry.group or groups[entry.name]
    of_sides = bool(sides) and splits is None
    if of_sides:
        _require_training(root, chosen, {entry.class_name for entry in entries if entry.sides[SPLIT] == "train"})
    return options.dataset(
        entries,
        classes=chosen,
        splits=None if drawn else tuple(sorted({split for entry in entry_of.values() for split in entry.sides})),
        special=found.special,
        absent={path_as_id(name): class_of(name) for name in missing},
        notes=notes,
        remedy="" if of_sides else _REMEDY,
        advice=f": expected {_LAYOUT}",
        aliases={path_as_id(name): path_as_id(taken) for name, taken in again.items()},
    )


def _entries_of_csv(path: Path, names: Sequence[str], class_of: Callable[[str], str]) -> list[Entry]:
    """The videos that a CSV for `--splits` names; those that are missing on disk have the names that it gives them."""
    rows, problems, on_disk = read_split_csv(path), Problems(path), Names(names)
    name_of = {}
    for row in rows:
        name_of[row.line], *others = on_disk.meant_by(row.video) or [row.video.strip()]
        if others:
            problems.add(row.line, f"{row.video!r} may mean {' or '.join(map(ascii, on_disk.meant_by(row.video)))}")
    problems.require_none("write one of them exactly")
    entries = entries_of(rows, name_of, {line: class_of(name) for line, name in name_of.items()}, problems)
    problems.require_none()
    return entries


def _class_of(name: str, *, depth: int) -> str:
    """The class of a video: its folder below the root (depth 0), or below the folder of its side (depth 1)."""
    folders = name.split("/")[:-1] or [name]
    return folders[min(depth, len(folders) - 1)]


def find_sources(root: Path | None, settings: DatasetSettings) -> Dataset:
    """The videos below a root, to repair a store: the store itself has their class, group and sides.

    Raises:
        UsageError: no root.
        SourceError: it cannot be searched.
    """
    if root is None:
        raise UsageError(f"{settings.name} is a folder of videos: say where it is with --root DIR")
    found = FolderSearch(root, None)
    names = {name for videos in found.search().values() for name in videos}
    names.update(found.search_all(), found.left_out[NO_VIDEO])  # of a list, which may name any file
    videos = tuple(
        SourceVideo(
            video_id=path_as_id(name),
            class_name="",
            label=-1,
            group="",
            splits={},
            path=root / name,
            name=name,
            problem=SPECIAL if name in found.special else None,
        )
        for name in sorted(names)
    )
    return Dataset(settings=settings, videos=videos, missing=(), notes=())


def _other_names(
    twins: Sequence[Sequence[str]], entry_of: Mapping[str, Entry], classes: Collection[str], root: Path, where: str
) -> dict[str, str]:
    """Name that is left out -> the name in its class by which the same file is used.

    Raises:
        SourceError: both are on different sides, or a file is in several of the wanted classes.
    """
    again, torn = {}, []
    for same in twins:
        first_of: dict[str, str] = {}
        for name in same:
            first = first_of.setdefault(entry_of[name].class_name, name)
            if entry_of[name].memberships != entry_of[first].memberships:
                raise SourceError(
                    f"{where} {first!a} and {name!a} on different sides, and they are one file: leave one of them"
                )
            if name != first:
                again[name] = first
        of_classes = sorted(first for class_name, first in first_of.items() if class_name in classes)
        torn += [of_classes] if len(of_classes) > 1 else []
    if torn:
        raise SourceError(
            f"{root} has {len(torn):,} videos in several classes, such as {' and '.join(map(ascii, torn[0]))}, which "
            "are one file: remove all but one name of each, or say which to take in a CSV for --splits"
        )
    return again


def _require_classes(
    root: Path, names: Sequence[str], class_of: Callable[[str], str], sides: Mapping[str, str]
) -> list[str]:
    """Notes on the names of the classes.

    Raises:
        SourceError: videos without a class, or names of classes that a store cannot hold side by side.
    """
    if sides and (loose := [name for name in names if name.count("/") < 2]):
        raise SourceError(
            f"{root} holds {some(loose)} outside class folders, expected <side>/<class>/<video>: move them, or give "
            "the classes with --list"
        )
    classes = sorted({class_of(name) for name in names})
    for name in classes:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise SourceError(f"{root} holds a folder {name!a}, whose name is not UTF-8: rename it") from None
    for first, second, *_ in look_alikes(classes):
        raise SourceError(f"{root} holds the folders {first!a} and {second!a}, which look alike: rename one")
    named = list(sides_named(classes))
    return [f"folders named like a side are used as classes: {some(named)}"] if named else []


def _require_training(root: Path, classes: Sequence[str], trained: Collection[str]) -> None:
    if lacking := [name for name in classes if name not in trained]:
        raise SourceError(
            f"{root} has no training videos of {len(lacking):,} classes ({some(lacking)}): add some, leave these "
            "classes out with --classes, or divide the videos with --splits"
        )
