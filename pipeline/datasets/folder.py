"""Any folder of videos as a data set: `<class>/<video>`, or deeper, below a root.

A video's id is its path below the root. Which videos are for test says a CSV, or else a seeded division by group. The
folder may grow between one prep and the next.
"""

import os
import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from resact.cache.settings import DatasetSettings
from resact.errors import SourceError, UsageError
from resact.pipeline.datasets.dataset import Dataset, SourceVideo, choose_classes, path_as_id, some
from resact.pipeline.datasets.division import SPLIT, Division
from resact.pipeline.datasets.folder_search import FolderSearch
from resact.pipeline.datasets.registry import DATASETS
from resact.pipeline.datasets.sides import (
    require_no_sides_as_classes,
    require_no_sides_as_groups,
    side_folders,
    sides_named,
)
from resact.pipeline.datasets.split_csv import Lists, read_split_csv

TEST_SHARE = 0.3
"""Of each class's groups, unless asked otherwise; about that of UCF101."""

_LAYOUT = "ROOT/<class>/<video>, in sub-folders of the class where wanted"
_SPECIAL = "not a regular file"
_UCF_GROUP = re.compile(r"(.*_g\d+)_", re.DOTALL)


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
) -> Dataset:
    """All videos below `root`.

    Args:
        root: the folder; each folder in it is a class.
        classes: only these.
        allow_partial: go on although videos that the CSV names are missing.
        name: of the data set; None for the folder's own.
        splits: CSV of memberships, as in `split_csv`; None to divide by group.
        test_share: of each class's groups, in (0, 1); None for `TEST_SHARE`.
        split_seed: of the division; None for 0.
        group_pattern: regular expression, searched in a video's path below the root; what its one pair of parentheses
            matches is the video's group. None for `..._gNN_...` in the file's name as in UCF101, else the sub-folder
            of the class that it is in; a video that has neither is a group of its own.
        flip_safe: whether a mirrored video keeps its class; None for yes.

    Raises:
        UsageError: contradicting or impossible arguments.
        SourceError: no such folder, no videos of classes in it, or a CSV that does not fit it.
    """
    if root is None:
        raise UsageError(f"prep folder needs --root DIR, the folder that holds your videos as {_LAYOUT}")
    if splits and (test_share is not None or split_seed is not None):
        raise UsageError(
            "got --splits with --test-share or --split-seed, expected one of them: the CSV decides the split, or a "
            "random draw"
        )
    share, seed = TEST_SHARE if test_share is None else test_share, split_seed or 0
    if not 0 < share < 1:
        raise UsageError(f"got --test-share {share:g}, expected more than 0 and less than 1, such as {TEST_SHARE}")
    title, pattern = _title(root, name), _pattern(group_pattern)

    found = FolderSearch(root, splits)
    by_class = found.search()
    names = [name for videos in by_class.values() for name in videos]
    notes = _require_classes(root, list(by_class)) + found.notes()
    given = read_split_csv(splits, names) if splits else None
    if given is None:
        notes += require_no_sides_as_groups(root, names)
    listed = names if given is None else [name for name in names if name in given.memberships]
    twins = found.twins(listed)
    again = _other_names(twins, given, splits)
    listed = [name for name in listed if name not in again]
    if again:
        notes.append(f"left out: other names of files that are already used: {len(again):,} ({some(sorted(again))})")
    groups, more = _groups(names, pattern, group_pattern, folders_are_groups=given is None)
    notes += more
    division = None
    if given is None:
        division = _division({name: groups[name] for name in listed}, share, seed)
        lists = _drawn(division, {name: groups[name] for name in listed})
        if sides_named([Path(os.path.abspath(root)).name]):  # noqa: PTH100
            notes.append(f"{root} is named like a side; its videos are still split into train and test")
    else:
        lists, groups = given, groups | given.groups
    missing = sorted(set(lists.memberships) - set(names))
    of_classes = missing if classes is None or not listed else [n for n in missing if _class_of(n) in classes]
    if of_classes and not (allow_partial and listed):
        raise SourceError(
            f"{splits} names {len(of_classes):,} videos that are not below {root} ({some(of_classes)}): expected paths "
            f"below it such as {names[0]!a}; correct the list, or take what is there with --allow-partial"
        )
    if unlisted := [name for name in names if name not in lists.memberships and name not in again]:
        notes.append(f"left out: videos that {splits} does not name: {len(unlisted):,} ({some(unlisted)})")
    known = list(dict.fromkeys(_class_of(name) for name in listed))
    chosen = choose_classes(known, classes)
    _require_one_class_each(root, twins, chosen)
    label_of = {class_name: label for label, class_name in enumerate(chosen)}
    videos = tuple(
        SourceVideo(
            video_id=path_as_id(name),
            class_name=_class_of(name),
            label=label_of[_class_of(name)],
            group=groups[name],
            splits=lists.memberships[name],
            path=root / name,
            name=name,
            problem=_SPECIAL if name in found.special else None,
        )
        for name in listed
        if _class_of(name) in label_of
    )
    notes += _doubts(videos, chosen, lists.splits)
    if flip_safe is None:
        notes.append("training mirrors half of the clips; if left and right matter, pass --not-flip-safe")
    accounted = {video.name for video in videos} | set(of_classes)
    return Dataset(
        settings=DatasetSettings(
            name=title,
            videos=None,
            all_classes=None,
            classes=chosen,
            splits=lists.splits,
            flip_safe=flip_safe is not False,
            division=division.description if division else None,
        ),
        videos=videos,
        missing=tuple(of_classes),
        others=tuple(path_as_id(n) for n in [*listed, *missing] if n not in accounted),
        other_classes=len({*known, *map(_class_of, missing)} - set(chosen)),
        aliases=_aliases(again),
        notes=tuple(notes),
        division=division,
    )


def find_sources(root: Path | None, settings: DatasetSettings) -> Dataset:
    """The videos below a root for mending a store of it, which says itself what class, group and sides they have.

    Raises:
        UsageError: no root.
        SourceError: it cannot be searched.
    """
    if root is None:
        raise UsageError(f"{settings.name} is a folder of videos: say where it is with --root DIR")
    found = FolderSearch(root, None)
    videos = tuple(
        SourceVideo(
            video_id=path_as_id(name),
            class_name=class_name,
            label=-1,
            group="",
            splits={},
            path=root / name,
            name=name,
            problem=_SPECIAL if name in found.special else None,
        )
        for class_name, names in found.search().items()
        for name in names
    )
    return Dataset(settings=settings, videos=videos, missing=(), notes=())


def _other_names(twins: Sequence[Sequence[str]], given: Lists | None, csv: Path | None) -> dict[str, str]:
    """Name that is left out -> the name of its class by which the same file is taken.

    Raises:
        SourceError: the CSV has both on different sides.
    """
    again = {}
    for same in twins:
        taken: dict[str, str] = {}
        for name in same:
            first = taken.setdefault(_class_of(name), name)
            if name == first:
                continue
            if given is not None and given.memberships[name] != given.memberships[first]:
                raise SourceError(
                    f"{csv} has {first!a} and {name!a} on different sides, and they are one file: leave one line"
                )
            again[name] = first
    return again


def _aliases(again: Mapping[str, str]) -> dict[str, frozenset[str]]:
    aliases: dict[str, set[str]] = {}
    for name, taken in again.items():
        aliases.setdefault(path_as_id(taken), set()).add(path_as_id(name))
    return {video_id: frozenset(others) for video_id, others in aliases.items()}


def _require_one_class_each(root: Path, twins: Sequence[Sequence[str]], classes: Collection[str]) -> None:
    torn = []
    for same in twins:
        first_of = {_class_of(name): name for name in reversed(same) if _class_of(name) in classes}
        torn += [sorted(first_of.values())] if len(first_of) > 1 else []
    if torn:
        raise SourceError(
            f"{root} has {len(torn):,} videos in several classes, such as {' and '.join(map(ascii, torn[0]))}, which "
            "are one file: remove all but one name of each, or say which to take in a CSV for --splits"
        )


def _groups(
    names: Sequence[str], pattern: re.Pattern[str] | None, text: str | None, *, folders_are_groups: bool
) -> tuple[dict[str, str], list[str]]:
    """Video -> group; and what there is to say of it."""
    notes = []
    if pattern and (own := [name for name in names if not _found_in(name, pattern)]):
        if len(own) == len(names):
            raise UsageError(f"got --group-pattern {text!r}, which matches no path, such as {names[0]!a}")
        notes.append(f"{len(own):,} videos do not match --group-pattern: each is its own group ({some(own)})")
    sides = set() if folders_are_groups else side_folders(names)
    groups = {name: _group(name, pattern, sides) for name in names}
    forms: dict[str, set[str]] = {}
    for group in groups.values():
        forms.setdefault(unicodedata.normalize("NFC", group).casefold(), set()).add(group)
    if alike := [", ".join(map(ascii, sorted(same))) for same in forms.values() if len(same) > 1]:
        notes.append(
            f"groups with similar names stay separate, and may be on different sides: {len(alike):,} "
            f"({'; '.join(alike[:3])})"
        )
    return groups, notes


def _class_of(name: str) -> str:
    return name.partition("/")[0]


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


def _pattern(text: str | None) -> re.Pattern[str] | None:
    if text is None:
        return None
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise UsageError(f"got --group-pattern {text!r}, which is not a regular expression: {error}") from None
    if pattern.groups != 1:
        raise UsageError(f"got --group-pattern {text!r}, expected one pair of parentheses around what names the group")
    return pattern


def _require_classes(root: Path, classes: Sequence[str]) -> list[str]:
    """What there is to say of them."""
    if not classes:
        raise SourceError(f"{root} has no folder with videos in it, expected {_LAYOUT}")
    notes = require_no_sides_as_classes(root, classes, layout=_LAYOUT)
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
    return notes


def _group(name: str, pattern: re.Pattern[str] | None, sides: Collection[str]) -> str:
    """The group of a video; one name is one group, in whatever classes it is. A folder that is a side is none."""
    class_name, *folders, file = name.split("/")
    if pattern:
        return _found_in(name, pattern) or path_as_id(name)
    if match := _UCF_GROUP.match(file):
        return match[1]
    path = class_name
    for folder in folders:
        path += f"/{folder}"
        if path not in sides:
            return folder
    return path_as_id(name)


def _found_in(name: str, pattern: re.Pattern[str]) -> str | None:
    match = pattern.search(name)
    return match and match[1]


def _division(group_of: Mapping[str, str], share: float, seed: int) -> Division:
    classes: dict[str, set[str]] = {}
    for name, group in group_of.items():
        classes.setdefault(group, set()).add(_class_of(name))
    return Division(test_share=share, seed=seed, groups={g: frozenset(names) for g, names in classes.items()})


def _drawn(division: Division, groups: Mapping[str, str]) -> Lists:
    """As a CSV would say it."""
    side_of = division.memberships()
    return Lists(splits=(SPLIT,), memberships={name: {SPLIT: side_of[group]} for name, group in groups.items()})


def _doubts(videos: Sequence[SourceVideo], classes: Sequence[str], splits: Sequence[str]) -> list[str]:
    """What a user may not have meant."""
    notes = []
    for split in splits:
        sides_of_class: dict[str, set[str]] = {name: set() for name in classes}
        sides_of_group: dict[str, set[str]] = {}
        for video in videos:
            if split in video.splits:
                sides_of_class[video.class_name].add(video.splits[split])
                sides_of_group.setdefault(video.group, set()).add(video.splits[split])
        lacking = [name for name, sides in sides_of_class.items() if len(sides) < 2]
        if lacking:
            notes.append(
                f"{split} has no videos on both sides of {len(lacking):,} classes ({some(lacking)}), for which it "
                "takes two groups: --group-pattern says what a group is, --splits who is on which side"
            )
        if torn := sorted(group for group, sides in sides_of_group.items() if len(sides) > 1):
            notes.append(f"{split} has videos of {len(torn):,} groups in both train and test ({some(torn)})")
    if len(classes) == 1:
        notes.append(f"there is only one class, {some(classes)}: expected {_LAYOUT}")
    return notes
