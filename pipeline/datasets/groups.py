"""Groups of videos by their paths, and notes for the user on groups and sides."""

import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence

from resact.errors import UsageError
from resact.pipeline.datasets.dataset import SourceVideo, path_as_id, some

_UCF_GROUP = re.compile(r"(.*_g\d+)_", re.DOTALL)


def parse_pattern(text: str | None) -> re.Pattern[str] | None:
    """Parse `--group-pattern`.

    Raises:
        UsageError: not a regular expression with one pair of parentheses.
    """
    if text is None:
        return None
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise UsageError(f"got --group-pattern {text!r}, which is not a regular expression: {error}") from None
    if pattern.groups != 1:
        raise UsageError(f"got --group-pattern {text!r}, expected one pair of parentheses around what names the group")
    return pattern


def groups_of(
    names: Sequence[str], pattern: re.Pattern[str] | None, *, depth: int | None, sides: Collection[str] = ()
) -> tuple[dict[str, str], list[str]]:
    """Video -> group, and notes on the groups.

    Args:
        names: names of the videos, as paths below the root.
        pattern: `--group-pattern`.
        depth: depth of the class's folder in a path, below which folders are groups; None if folders are not groups.
        sides: folders that are sides, and so not groups.
    """
    notes = []
    if pattern and (own := [name for name in names if not _found_in(name, pattern)]):
        if len(own) == len(names):
            raise UsageError(f"got --group-pattern {pattern.pattern!r}, which matches no path, such as {names[0]!a}")
        notes.append(f"{len(own):,} videos do not match --group-pattern: each is its own group ({some(own)})")
    groups = {name: _group(name, pattern, depth, sides) for name in names}
    return groups, notes + similar_groups(groups.values())


def look_alikes(names: Iterable[str]) -> list[list[str]]:
    """Names that differ only in case or Unicode form, together; sorted."""
    forms: dict[str, set[str]] = {}
    for name in names:
        forms.setdefault(unicodedata.normalize("NFC", name).casefold(), set()).add(name)
    return [sorted(same) for same in forms.values() if len(same) > 1]


def similar_groups(groups: Iterable[str]) -> list[str]:
    """Notes on groups whose names look alike."""
    alike = [", ".join(map(ascii, same)) for same in look_alikes(groups)]
    words = "groups with similar names stay separate, and may be on different sides"
    return [f"{words}: {len(alike):,} ({'; '.join(alike[:3])})"] if alike else []


def _group(name: str, pattern: re.Pattern[str] | None, depth: int | None, sides: Collection[str]) -> str:
    """The group of a video. The same name is the same group in all classes; a folder of a side is not a group."""
    *folders, file = name.split("/")
    if pattern:
        return _found_in(name, pattern) or path_as_id(name)
    if match := _UCF_GROUP.match(file):
        return match[1]
    if depth is not None:
        for place in range(depth + 1, len(folders)):
            if "/".join(folders[: place + 1]) not in sides:
                return folders[place]
    return path_as_id(name)


def _found_in(name: str, pattern: re.Pattern[str]) -> str | None:
    match = pattern.search(name)
    return match and match[1]


def doubts(videos: Sequence[SourceVideo], classes: Sequence[str], splits: Sequence[str], *, remedy: str) -> list[str]:
    """Notes on possible mistakes: classes on one side only, groups on several sides, no test videos.

    Args:
        videos: the wanted videos.
        classes: the wanted classes.
        splits: splits of the data set.
        remedy: what to do about classes on one side only.
    """
    notes = []
    for split in splits:
        sides_of_class: dict[str, set[str]] = {name: set() for name in classes}
        sides_of_group: dict[str, set[str]] = {}
        for video in videos:
            if split in video.splits:
                sides_of_class[video.class_name].add(video.splits[split])
                sides_of_group.setdefault(video.group, set()).add(video.splits[split])
        used = set().union(*sides_of_class.values())
        lacking = [name for name, sides in sides_of_class.items() if len(sides) < 2]
        if lacking:
            notes.append(f"{split} has no videos on both sides of {len(lacking):,} classes ({some(lacking)}){remedy}")
        if torn := sorted(group for group, sides in sides_of_group.items() if len(sides) > 1):
            notes.append(f"{split} has videos of {len(torn):,} groups on more than one side ({some(torn)})")
        if "val" in used and "test" not in used:
            notes.append(f"{split} has no test videos: `resact evaluate --membership val` tests on its val videos")
    return notes
