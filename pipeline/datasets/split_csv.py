"""The user's own split of a data set: a CSV with one line per video and split.

    video,split,membership,group
    Walk/a.mp4,split1,train,
    Walk/b.mp4,split1,test,

`split` and `group` are optional. The order of columns, a byte order mark and CRLF do not matter.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from resact.cache.layout import SIDES
from resact.errors import SourceError
from resact.pipeline.datasets.division import SPLIT
from resact.pipeline.datasets.list_file import SPLIT_NAME, SPLIT_NAME_WORDS, Names, read_text, rows_of

_NEEDED, _OPTIONAL = ("video", "membership"), ("split", "group")
_EXPECTED = "expected the columns video,membership and optionally split and group, separated by commas"


@dataclass(frozen=True, kw_only=True)
class Lists:
    """The contents of a CSV, by the videos' names on disk."""

    splits: tuple[str, ...]
    memberships: dict[str, dict[str, str]] = field(default_factory=dict)
    """Video -> split -> `train`, `val` or `test`."""
    groups: dict[str, str] = field(default_factory=dict)
    """Video -> group, for videos with a group in the CSV."""


def read_split_csv(path: Path, names: Collection[str]) -> Lists:
    """Read a CSV of memberships.

    Args:
        path: the file, in UTF-8.
        names: names of the videos on disk, as paths below the data set's root. The CSV may write a name with another
            Unicode form (NFC, NFD), with backslashes or with a leading `./`, if it can mean only one video.

    Returns:
        The memberships and groups. Videos that are not in `names` keep the name that the CSV has for them.

    Raises:
        SourceError: the file is missing, or a line is wrong; names the line.
    """
    lines = rows_of(read_text(path), path)
    number, header = next(lines, (1, []))
    columns = [column.strip().lower() for column in header]
    if not set(_NEEDED) <= set(columns) <= {*_NEEDED, *_OPTIONAL} or len(set(columns)) < len(columns):
        raise SourceError(f"{path}, line {number}: got {','.join(header)!r}, {_EXPECTED}")
    on_disk = Names(names)
    memberships: dict[str, dict[str, str]] = {}
    groups: dict[str, str] = {}
    for number, row in lines:
        where = f"{path}, line {number}"
        if len(row) != len(columns):
            raise SourceError(f"{where}: got {len(row)} fields, expected {len(columns)} ({','.join(columns)})")
        values = dict(zip(columns, row, strict=True))
        split = values.get("split", "").strip() or SPLIT
        side = values["membership"].strip().lower()
        if side not in SIDES:
            raise SourceError(f"{where}: got membership {values['membership']!r}, expected train, val or test")
        if not SPLIT_NAME.fullmatch(split):
            raise SourceError(f"{where}: got split {split!r}, {SPLIT_NAME_WORDS}")
        alike = on_disk.meant_by(values["video"]) or [values["video"]]
        if len(alike) > 1:
            named = " or ".join(map(ascii, alike))
            raise SourceError(f"{where}: {values['video']!r} may mean {named}: write one of them exactly")
        video = alike[0]
        splits = memberships.setdefault(video, {})
        if split in splits:
            both = f"both in {splits[split]} and in {side}" if splits[split] != side else f"twice in {side}"
            raise SourceError(f"{where}: {video!r} is {both} of {split}: keep one of these lines")
        splits[split] = side
        group = values.get("group", "").strip()
        if group and groups.setdefault(video, group) != group:
            raise SourceError(f"{where}: {video!r} is of group {group!r} and of group {groups[video]!r}: choose one")
    if not memberships:
        raise SourceError(f"{path} names no video: write a line for each, such as Walk/a.mp4,train")
    splits_named = sorted({split for sides in memberships.values() for split in sides})
    return Lists(splits=tuple(splits_named), memberships=memberships, groups=groups)
