"""The user's lists: `--list` describes a whole data set, `--splits` only the sides of videos in class folders.

    video,label,start,end,membership,split,group
    talks/a.mp4,wave,0:12.5,0:15,train,split1,anna

For `--list`: CSV or TSV with a header, JSON lines with these keys, or two columns without a header, `path label` or
`path,label`, with whole numbers for labels. `video` and `label` are needed, other columns are ignored.

For `--splits`: CSV with a header and the columns `video` and `membership`, `split` and `group` if wanted, no others.

The order of columns, a byte order mark and CRLF do not matter.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

from resact.cache.layout import SIDES, Segment
from resact.errors import SourceError
from resact.pipeline.datasets.division import SPLIT
from resact.pipeline.datasets.list_file import lines_of, read_text, rows_of

NONE = "none"
"""The membership of a video that is stored but in no split."""

_MEMBERSHIPS = {side: side for side in (*SIDES, NONE)} | {"training": "train", "validation": "val", "testing": "test"}
_SPLIT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
"""Allowed names of splits, which become file names in the store."""
_TWO_COLUMNS = (
    re.compile(r"(?P<video>.*?),\s*(?P<label>\d+)\s*"),
    re.compile(r"(?P<video>.*?)[ \t]+(?P<label>\d+)\s*"),
)
_TIME = re.compile(r"(?:(?:(\d+):)?(\d+):)?(\d*\.?\d*(?:e[+-]?\d+)?)", re.I)
_MOST_SECONDS = 10_000_000
_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class _Columns:
    """What a list may have."""

    needed: tuple[str, ...]
    optional: tuple[str, ...]
    expected: str
    """The columns, in words."""
    memberships: str
    """The memberships, in words."""

    @property
    def all(self) -> tuple[str, ...]:
        return self.needed + self.optional


_OF_LIST = _Columns(
    needed=("video", "label"),
    optional=("start", "end", "membership", "split", "group"),
    expected="expected a header with the columns video and label and optionally start, end, membership, split and "
    "group, or lines such as `clips/a.mp4 0` with whole numbers for labels",
    memberships="train, val, test or none",
)
_OF_SPLITS = _Columns(
    needed=("video", "membership"),
    optional=("split", "group"),
    expected="expected the columns video,membership and optionally split and group, separated by commas",
    memberships="train, val or test",
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a list."""

    line: int
    video: str
    """The video's name as written in the list."""
    label: str
    """Empty in a CSV for `--splits`."""
    segment: Segment | None
    membership: str | None
    """`train`, `val`, `test` or `none`; None if the list has no such column."""
    split: str
    group: str
    """The video's group; empty if the list gives none."""


@dataclass
class Problems:
    """The problems of a list, by line."""

    path: Path
    found: list[tuple[int, str]] = field(default_factory=list)

    def add(self, line: int, what: str) -> None:
        """Add a problem."""
        self.found.append((line, what))

    def require_none(self, advice: str = "correct the list") -> None:
        """Raise a SourceError if there are problems: it names the first ones with their lines."""
        if self.found:
            shown = "; ".join(f"line {line}: {what}" for line, what in sorted(self.found)[:_SHOWN])
            more = f"; and {len(self.found) - _SHOWN:,} more lines" if len(self.found) > _SHOWN else ""
            raise SourceError(f"{self.path}, {shown}{more}: {advice}")


def read_list(path: Path) -> tuple[list[Row], list[str]]:
    """All rows of a list, and the columns that prep ignores.

    Raises:
        SourceError: it cannot be read, or lines are wrong; names them.
    """
    text = read_text(path)
    problems = Problems(path)
    first = next((line for line in lines_of(text) if line.strip()), "")
    if first.lstrip().startswith("["):
        raise SourceError(f"{path} is one JSON array, expected JSON lines: write them with `jq -c '.[]' {path.name}`")
    if first.lstrip().startswith("{"):
        lines, others = _json_lines(text, problems)
    elif form := next((form for form in _TWO_COLUMNS if form.fullmatch(first)), None):
        lines, others = _two_columns(text, form, problems), []
    else:
        lines, others = _with_header(text, "\t" if "\t" in first else ",", _OF_LIST, problems)
    rows = _rows(lines, _OF_LIST, problems)
    if any(row.membership is not None for row in rows):
        for row in rows:
            if row.membership is None:
                problems.add(row.line, "has no membership, and others have one: say train, val, test or none")
    problems.require_none()
    if not rows:
        raise SourceError(f"{path} names no video, {_OF_LIST.expected}")
    return rows, others


def read_split_csv(path: Path) -> list[Row]:
    """All rows of a CSV for `--splits`.

    Raises:
        SourceError: it cannot be read, or lines are wrong; names them.
    """
    problems = Problems(path)
    lines, others = _with_header(read_text(path), ",", _OF_SPLITS, problems)
    if others:
        raise SourceError(f"{path}: got the column {others[0]!r}, {_OF_SPLITS.expected}")
    rows = _rows(lines, _OF_SPLITS, problems)
    problems.require_none()
    if not rows:
        raise SourceError(f"{path} names no video: write a line for each, such as Walk/a.mp4,train")
    return rows


def _with_header(
    text: str, delimiter: str, form: _Columns, problems: Problems
) -> tuple[list[tuple[int, dict[str, str]]], list[str]]:
    lines = rows_of(text, problems.path, delimiter=delimiter)
    number, header = next(lines, (1, []))
    columns = [column.strip().lower() for column in header]
    known = [column for column in columns if column in form.all]
    if not set(form.needed) <= set(columns) or len(set(known)) < len(known):
        raise SourceError(f"{problems.path}, line {number}: got {','.join(header)!r}, {form.expected}")
    found = []
    for number, row in lines:
        if len(row) == len(columns):
            found.append((number, dict(zip(columns, row, strict=True))))
        else:
            problems.add(number, f"got {len(row)} fields, expected {len(columns)} ({','.join(columns)})")
    return found, [column for column in columns if column not in form.all]


def _two_columns(text: str, form: re.Pattern[str], problems: Problems) -> list[tuple[int, dict[str, str]]]:
    found = []
    for number, line in enumerate(lines_of(text), start=1):
        if match := form.fullmatch(line):
            values = match.groupdict()
            quoted = re.fullmatch(r'"(.*)"', values["video"])
            found.append((number, values | ({"video": quoted[1].replace('""', '"')} if quoted else {})))
        elif line.strip():
            problems.add(number, f"got {line[:80]!a}, expected a path and a whole number, as in the first line")
    return found


def _json_lines(text: str, problems: Problems) -> tuple[list[tuple[int, dict[str, str]]], list[str]]:
    found, others = [], dict[str, None]()
    for number, line in enumerate(lines_of(text), start=1):
        if not line.strip():
            continue
        try:
            # Numbers stay text, so that seconds are exact.
            entry = json.loads(line, parse_float=str, parse_int=str, parse_constant=str)
        except ValueError as error:
            problems.add(number, f"is no JSON ({error})")
            continue
        if not isinstance(entry, dict) or not set(_OF_LIST.needed) <= {str(key).lower() for key in entry}:
            problems.add(number, "has no video and label, expected an object with both on each line")
            continue
        values = {key.lower(): value for key, value in entry.items()}
        others |= dict.fromkeys(key for key in values if key not in _OF_LIST.all)
        if wrong := [k for k, v in values.items() if k in _OF_LIST.all and not isinstance(v, str | None)]:
            problems.add(number, f"has {wrong[0]} {json.dumps(values[wrong[0]])[:60]}, expected a text or a number")
            continue
        found.append((number, {key: value or "" for key, value in values.items() if key in _OF_LIST.all}))
    return found, list(others)


def _rows(lines: Iterable[tuple[int, dict[str, str]]], form: _Columns, problems: Problems) -> list[Row]:
    return [row for number, values in lines if (row := _row(number, values, form, problems)) is not None]


def _row(number: int, values: Mapping[str, str], form: _Columns, problems: Problems) -> Row | None:
    before = len(problems.found)
    video, label = values["video"], values.get("label", "").strip()
    if not video.strip() or ("label" in values and not label):
        problems.add(number, "has no video" if not video.strip() else "has no label")
    membership = None
    if "membership" in values:
        membership = _MEMBERSHIPS.get(values["membership"].strip().lower())
        if membership is None or (membership == NONE and form is _OF_SPLITS):
            problems.add(number, f"got membership {values['membership']!r}, expected {form.memberships}")
    split = values.get("split", "").strip() or SPLIT
    if split.lower() in _MEMBERSHIPS and "membership" not in values:
        problems.add(number, f"got split {split!r}, which is a side: call that column membership")
    elif values.get("split", "").strip() and "membership" not in values:
        problems.add(number, f"got split {split!r} without a membership: write train, val, test or none")
    elif not _SPLIT_NAME.fullmatch(split):
        problems.add(number, f"got split {split!r}, expected a name of letters, digits, '_', '-' and '.'")
    segment = None
    if any(values.get(name, "").strip() for name in ("start", "end")):
        times = [_seconds(values.get(name, ""), name, number, problems) for name in ("start", "end")]
        start, end = times[0] or Decimal(0), times[1]
        if end is not None and end <= start:
            problems.add(number, f"ends at {end:f} s and begins at {start:f} s: expected an end after the start")
        segment = Segment(f"{start:f}", None if end is None else f"{end:f}")
    if len(problems.found) > before:
        return None
    return Row(
        line=number,
        video=video,
        label=label,
        segment=segment,
        membership=membership,
        split=split,
        group=values.get("group", "").strip(),
    )


def _seconds(text: str, name: str, number: int, problems: Problems) -> Decimal | None:
    """Seconds from `12.5`, `1:02.5` or `1:00:02.5`, exact and without trailing zeros; None for no text."""
    if not text.strip():
        return None
    match = _TIME.fullmatch(text.strip())
    if match and re.search(r"\d", match[3]):
        hours, minutes, seconds = int(match[1] or 0), int(match[2] or 0), Decimal(match[3])
        whole = hours * 3600 + minutes * 60 + seconds
        in_range = (match[2] is None or seconds < 60) and (match[1] is None or minutes < 60)
        if in_range and whole < _MOST_SECONDS:
            return whole.quantize(Decimal(1)) if whole == whole.to_integral_value() else whole.normalize()
    problems.add(number, f"got {name} {text.strip()!r}, expected seconds such as 12.5, or 1:02.5")
    return None
