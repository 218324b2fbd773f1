"""A folder of videos as a data set: `<class>/<video>`, or deeper, below a root or below its folders of sides.

A video's id is its path below the root. A CSV, folders such as `train`, or else a seeded random division by group
decide which videos are for test. The folder may grow between preps.
"""

import os
import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path

from resact.cache.settings import DatasetSettings
from resact.errors import SourceError, UsageError
from resact.pipeline.datasets.dataset import Dataset, SourceVideo, choose_classes, path_as_id, some
from resact.pipeline.datasets.division import SPLIT
from resact.pipeline.datasets.folder_options import FolderOptions
from resact.pipeline.datasets.folder_search import SPECIAL, FolderSearch
from resact.pipeline.datasets.groups import groups_of, parse_pattern
from resact.pipeline.datasets.listed import load_listed
from resact.pipeline.datasets.registry import DATASETS
from resact.pipeline.datasets.sides import require_no_sides_as_groups, side_folders, sides_above, sides_named
from resact.pipeline.datasets.split_csv import Lists, read_split_csv

_LAYOUT = "DIR/<class>/<video>, in sub-folders of the class where wanted"
_REMEDY = ", for which it takes two groups: --group-pattern says what a group is, --splits who is on which side"


def load_folder(
    root: Path | None,
    *,
    classes: Sequence[str] | None = None,
    allow_partial: bool = False,
    name: str | None = None,
    splits: Path | None = None,
    test_share: float | None = None,
    split_seed: int | None = None,
    group_pattern: str | None = None,
    flip_safe: bool | None = None,
    list: Path | None = None,  # noqa: A002 - what the option is called
    classes_file: Path | None = None,
) -> Dataset:
    """All videos below `root`, or those that a list names.

    Args:
        root: the folder; each folder in it is a class, or a side such as `train` with a folder for each class.
        classes: names of the classes to use; None for all.
        allow_partial: continue even if videos that the CSV names are missing.
        name: name of the data set; None for the folder's name.
        splits: CSV of memberships, as in `split_csv`; None to divide by folders of sides, or by group.
        test_share: share of each class's groups for test, in (0, 1); None for `TEST_SHARE`.
        split_seed: seed of the division; None for 0.
        group_pattern: regular expression, searched in a video's path below the root; what its one pair of parentheses
            matches is the video's group. None for `..._gNN_...` in the file's name as in UCF101, else the sub-folder of
            its class; a video without either is its own group.
        flip_safe: whether a mirrored video still shows its class; None for yes.
        list: list of the videos anywhere below the root, with their classes and sides: see `video_list`.
        classes_file: names of the classes, if the list has numbers for them.

    Raises:
        UsageError: contradicting or impossible arguments.
        SourceError: no such folder, no videos of classes in it, or a list or CSV that does not fit it.
    """
    if root is None:
        raise UsageError(f"prep folder needs --root DIR, the folder that holds your videos as {_LAYOUT}")
    if splits and (test_share is not None or split_seed is not None):
        raise UsageError(
            "got --splits with --test-share or --split-seed, expected one of them: the CSV decides the split, or a "
            "random draw"
        )
    options = FolderOptions(
        name=_title(root, name),
        classes=classes,
        allow_partial=allow_partial,
        test_share=test_share,
        split_seed=split_seed,
        group_pattern=parse_pattern(group_pattern),
        flip_safe=flip_safe,
    )
    if list is not None:
        if splits is not None:
            raise UsageError("got --list and --splits, expected one: a list says the sides in its column membership")
        return load_listed(root, list, options, classes_file=classes_file)
    if classes_file is not None:
        raise UsageError("got --classes-file without --list: without a list, folders are named like their classes")
    return _load_tree(root, splits, options)


def _load_tree(root: Path, splits: Path | None, options: FolderOptions) -> Dataset:
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
    given = read_split_csv(splits, names) if splits else None
    if given is None:
        below = [name.partition("/")[2] for name in names] if sides else names
        notes += require_no_sides_as_groups(root, below)
        if sides:
            given = Lists(splits=(SPLIT,), memberships={n: {SPLIT: sides[n.partition("/")[0]]} for n in names})
    listed = names if given is None else [name for name in names if name in given.memberships]
    twins = found.twins(listed)
    again = _other_names(twins, class_of, given, "the folders have" if splits is None else f"{splits} has")
    listed = [name for name in listed if name not in again]
    if again:
        notes.append(f"left out: other names of files that are already used: {len(again):,} ({some(sorted(again))})")
    groups, more = groups_of(names, options.group_pattern, depth=depth, sides=side_folders(names) if splits else ())
    notes += more
    division = None
    if given is None:
        division = options.divide((groups[name], class_of(name)) for name in listed)
        drawn_sides = division.memberships()
        lists = Lists(splits=(SPLIT,), memberships={name: {SPLIT: drawn_sides[groups[name]]} for name in listed})
        if sides_named([Path(os.path.abspath(root)).name]):  # noqa: PTH100
            notes.append(f"{root} is named like a side; its videos are still split into train and test")
    else:
        lists, groups = given, groups | given.groups
    missing = sorted(set(lists.memberships) - set(names))
    of_classes = missing
    if options.classes is not None and listed:
        of_classes = [name for name in missing if class_of(name) in options.classes]
    if of_classes and not (options.allow_partial and listed):
        raise SourceError(
            f"{splits} names {len(of_classes):,} videos that are not below {root} ({some(of_classes)}): expected paths "
            f"below it such as {names[0]!a}; correct the list, or use what exists with --allow-partial"
        )
    if unlisted := [name for name in names if name not in lists.memberships and name not in again]:
        notes.append(f"left out: videos that {splits} does not name: {len(unlisted):,} ({some(unlisted)})")
    known = sorted({class_of(name) for name in listed})
    chosen = choose_classes(known, options.classes)
    _require_one_class_each(root, class_of, twins, chosen)
    if sides and splits is None:
        _require_training(
            root, chosen, {class_of(name) for name in listed if lists.memberships[name][SPLIT] == "train"}
        )
    label_of = {class_name: label for label, class_name in enumerate(chosen)}
    videos = tuple(
        SourceVideo(
            video_id=path_as_id(name),
            class_name=class_of(name),
            label=label_of[class_of(name)],
            group=groups[name],
            splits=lists.memberships[name],
            path=root / name,
            name=name,
            problem=SPECIAL if name in found.special else None,
        )
        for name in listed
        if class_of(name) in label_of
    )
    accounted = {video.name for video in videos} | set(of_classes)
    return options.dataset(
        videos,
        classes=chosen,
        splits=lists.splits,
        division=division,
        notes=notes,
        remedy="" if sides and splits is None else _REMEDY,
        advice=f": expected {_LAYOUT}",
        missing=tuple(of_classes),
        others=tuple(path_as_id(n) for n in [*listed, *missing] if n not in accounted),
        other_classes=len({*known, *map(class_of, missing)} - set(chosen)),
        aliases=_aliases(again),
    )


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
    names.update(found.search_all(), found.not_taken)  # of a list, which may name any file
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
    twins: Sequence[Sequence[str]], class_of: Callable[[str], str], given: Lists | None, where: str
) -> dict[str, str]:
    """Name that is left out -> the name in its class by which the same file is used.

    Raises:
        SourceError: both are on different sides.
    """
    again = {}
    for same in twins:
        taken: dict[str, str] = {}
        for name in same:
            first = taken.setdefault(class_of(name), name)
            if name == first:
                continue
            if given is not None and given.memberships[name] != given.memberships[first]:
                raise SourceError(
                    f"{where} {first!a} and {name!a} on different sides, and they are one file: leave one of them"
                )
            again[name] = first
    return again


def _aliases(again: Mapping[str, str]) -> dict[str, frozenset[str]]:
    aliases: dict[str, set[str]] = {}
    for name, taken in again.items():
        aliases.setdefault(path_as_id(taken), set()).add(path_as_id(name))
    return {video_id: frozenset(others) for video_id, others in aliases.items()}


def _require_one_class_each(
    root: Path, class_of: Callable[[str], str], twins: Sequence[Sequence[str]], classes: Collection[str]
) -> None:
    torn = []
    for same in twins:
        first_of = {class_of(name): name for name in reversed(same) if class_of(name) in classes}
        torn += [sorted(first_of.values())] if len(first_of) > 1 else []
    if torn:
        raise SourceError(
            f"{root} has {len(torn):,} videos in several classes, such as {' and '.join(map(ascii, torn[0]))}, which "
            "are one file: remove all but one name of each, or say which to take in a CSV for --splits"
        )


def _title(root: Path, name: str | None) -> str:
    # Not `resolve`: a link has a name of its own.
    title = Path(os.path.abspath(root)).name if name is None else name  # noqa: PTH100
    source = "--name" if name is not None else "a folder named"
    if not title.isprintable() or not title.strip() or "/" in title or title.startswith("."):
        raise UsageError(f"got {source} {title!r}, expected a name that a file may have: choose one with --name NAME")
    if title.lower() in DATASETS:
        raise UsageError(
            f"got {source} {title!r}, which is the name of another data set: choose one with --name NAME, "
            f"or see `resact prep {title.lower()}`"
        )
    return title


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
    alike: dict[str, str] = {}
    for name in classes:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise SourceError(f"{root} holds a folder {name!a}, whose name is not UTF-8: rename it") from None
        folded = unicodedata.normalize("NFC", name).casefold()
        if folded in alike:
            raise SourceError(f"{root} holds the folders {alike[folded]!a} and {name!a}, which look alike: rename one")
        alike[folded] = name
    named = list(sides_named(classes))
    return [f"folders named like a side are used as classes: {some(named)}"] if named else []


def _require_training(root: Path, classes: Sequence[str], trained: Collection[str]) -> None:
    if lacking := [name for name in classes if name not in trained]:
        raise SourceError(
            f"{root} has no training videos of {len(lacking):,} classes ({some(lacking)}): add some, leave these "
            "classes out with --classes, or divide the videos with --splits"
        )
