"""A user's own division of a data set: a CSV with a line for each video and split.

    video,split,membership,group
    Walk/a.mp4,split1,train,
    Walk/b.mp4,split1,test,

`split` and `group` may be left out; the order of columns does not matter, nor do a byte order mark or CRLF.
"""

import csv
import io
import re
import unicodedata
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from resact.errors import SourceError
from resact.pipeline.datasets.division import SPLIT

_NEEDED, _OPTIONAL = ("video", "membership"), ("split", "group")
_SPLIT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")  # it becomes the name of a file in the store
_EXPECTED = "expected the columns video,membership and optionally split and group, separated by commas"


@dataclass(frozen=True, kw_only=True)
class Lists:
    """What a CSV says, by the names that the videos have on the disk."""

    splits: tuple[str, ...]
    memberships: dict[str, dict[str, str]] = field(default_factory=dict)
    """Video -> split -> `train` or `test`."""
    groups: dict[str, str] = field(default_factory=dict)
    """Video -> group, where the CSV gives one."""


def read_split_csv(path: Path, names: Collection[str]) -> Lists:
    """Read a CSV of memberships.

    Args:
        path: the file, in UTF-8.
        names: of the videos on the disk, as paths below the data set's root. A name that the CSV writes with other
            Unicode (NFC, NFD), with backslashes or with a leading `./` is taken for the one that it can only mean.

    Returns:
        Videos that are not among `names` keep the name that the CSV has for them.

    Raises:
        SourceError: the file is missing or not of this form; says in which line.
    """
    lines = _rows(path)
    number, header = next(lines, (1, []))
    columns = [column.strip().lower() for column in header]
    if not set(_NEEDED) <= set(columns) <= {*_NEEDED, *_OPTIONAL} or len(set(columns)) < len(columns):
        raise SourceError(f"{path}, line {number}: got {','.join(header)!r}, {_EXPECTED}")
    on_disk = _Names(names)
    memberships: dict[str, dict[str, str]] = {}
    groups: dict[str, str] = {}
    for number, row in lines:
        where = f"{path}, line {number}"
        if len(row) != len(columns):
            raise SourceError(f"{where}: got {len(row)} fields, expected {len(columns)} ({','.join(columns)})")
        values = dict(zip(columns, row, strict=True))
        split = values.get("split", "").strip() or SPLIT
        side = values["membership"].strip().lower()
        if side not in ("train", "test"):
            raise SourceError(f"{where}: got membership {values['membership']!r}, expected train or test")
        if not _SPLIT_NAME.fullmatch(split):
            raise SourceError(f"{where}: got split {split!r}, expected a name of letters, digits, '_', '-' and '.'")
        video = on_disk.meant_by(values["video"], where)
        splits = memberships.setdefault(video, {})
        if split in splits:
            both = "both in train and in test" if splits[split] != side else f"twice in {side}"
            raise SourceError(f"{where}: {video!r} is {both} of {split}: keep one of these lines")
        splits[split] = side
        group = values.get("group", "").strip()
        if group and groups.setdefault(video, group) != group:
            raise SourceError(f"{where}: {video!r} is of group {group!r} and of group {groups[video]!r}: choose one")
    if not memberships:
        raise SourceError(f"{path} names no video: write a line for each, such as Walk/a.mp4,train")
    splits_named = sorted({split for sides in memberships.values() for split in sides})
    return Lists(splits=tuple(splits_named), memberships=memberships, groups=groups)


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and fields, empty lines left out."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from None
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise SourceError(f"{path} is in UTF-16: save it as CSV in UTF-8")
    text = data.decode("utf-8-sig", "surrogateescape")  # a file's name may be no UTF-8 either
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            if any(value.strip() for value in row):
                yield reader.line_num, row
    except csv.Error as error:
        raise SourceError(f"{path}, line {reader.line_num}: {error}") from None


class _Names:
    """Names on the disk, found also by another spelling."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = set(names)
        self._by_form: dict[str, list[str]] = {}
        for name in sorted(names):
            self._by_form.setdefault(_form(name), []).append(name)

    def meant_by(self, name: str, where: str) -> str:
        if name in self._names:
            return name
        alike = self._by_form.get(_form(name), [name])
        if len(alike) > 1:
            raise SourceError(f"{where}: {name!r} may mean {' or '.join(map(ascii, alike))}: write one of them exactly")
        return alike[0]


def _form(name: str) -> str:
    name = unicodedata.normalize("NFC", name.strip()).replace("\\", "/")
    while name.startswith("./"):
        name = name[2:]
    return name
