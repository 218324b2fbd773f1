"""A data set from a list: videos anywhere below a root, or parts of them. `video_list` has the forms of a list."""

import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from resact.cache.layout import Segment
from resact.errors import SourceError
from resact.pipeline.datasets.dataset import Dataset, SourceVideo, choose_classes, path_as_id, some
from resact.pipeline.datasets.division import SPLIT, Division
from resact.pipeline.datasets.folder_options import FolderOptions
from resact.pipeline.datasets.folder_search import SPECIAL, FolderSearch
from resact.pipeline.datasets.groups import groups_of, look_alikes
from resact.pipeline.datasets.list_file import Names
from resact.pipeline.datasets.video_list import NONE, Problems, Row, read_class_names, read_list


@dataclass
class _Entry:
    """One video of the data set, from all rows that name it."""

    name: str
    segment: Segment | None
    label: str
    lines: list[int]
    group: str = ""
    memberships: dict[str, str] = field(default_factory=dict)
    """Split -> side or `none`."""

    @property
    def video_id(self) -> str:
        return video_id_of_part(self.name, self.segment)


def video_id_of_part(name: str, segment: Segment | None) -> str:
    """The id of a video, or of a part of one."""
    return path_as_id(name if segment is None else f"{name}{segment}")


def load_listed(root: Path, path: Path, options: FolderOptions, *, classes_file: Path | None) -> Dataset:
    """The videos that a list names.

    Args:
        root: folder that contains the videos.
        path: the list.
        options: as in `load_folder`.
        classes_file: names of the classes, if the list has numbers.

    Raises:
        UsageError: contradicting or impossible arguments.
        SourceError: no such folder, or a list that does not fit it, with the lines.
    """
    rows, other_columns = read_list(path)
    notes = [f"columns of {path} that prep ignores: {some(other_columns)}"] if other_columns else []
    problems = Problems(path)
    found = FolderSearch(root, path)
    names = found.search_all()
    places = _Places(root, names, found.not_taken)
    name_of = {row.line: places.find(row.video) for row in rows}
    if by_name := [row.video for row in rows if name_of[row.line] and row.video in places.by_file_name]:
        notes.append(f"videos of {path} that are found by their file name alone: {len(by_name):,} ({some(by_name)})")
    missing_rows = [row for row in rows if not name_of[row.line]]
    for row in missing_rows:
        several = places.meant_by(row.video)
        if several or not options.allow_partial:
            may = " or ".join(map(ascii, several[:2]))
            problems.add(row.line, f"{row.video!a} " + (f"may mean {may}" if several else f"is not below {root}"))
    problems.require_none("correct the list, or use what exists with --allow-partial")
    if len(missing_rows) == len(rows):
        raise SourceError(
            f"none of the {len(rows):,} videos that {path} names is below {root}, such as {rows[0].video!a}"
        )
    class_name_of, order = _class_names(rows, classes_file, problems, notes)
    entries = _entries(rows, name_of, class_name_of, problems)
    _require_one_name_each(entries, found, problems)
    problems.require_none()
    present = [entry for entry in entries.values() if name_of[entry.lines[0]]]
    labels = {entry.label for entry in present}
    known = [name for name in order if name in labels]
    chosen = choose_classes(known, options.classes)
    drawn_by_chance = all(row.membership is None for row in rows)
    if not drawn_by_chance:
        options.require_no_draw(f"{path} has a column membership: the list decides the split, or a random draw")
    taken = [entry for entry in present if entry.label in chosen]
    group_of, more = _groups(present, options.group_pattern)
    notes += more
    division: Division | None = None
    if drawn_by_chance:
        division = options.divide((group_of[e.video_id], e.label) for e in present)
        side_of = division.memberships()
        sides = {e.video_id: {SPLIT: side_of[group_of[e.video_id]]} for e in present}
        splits: tuple[str, ...] = (SPLIT,)
    else:
        sides = {e.video_id: {s: side for s, side in e.memberships.items() if side != NONE} for e in present}
        splits = tuple(sorted({split for row in rows if row.membership != NONE for split in [row.split]}))
        _require_training(taken, chosen, splits, sides, problems)
    label_of = {class_name: label for label, class_name in enumerate(chosen)}
    videos = tuple(
        SourceVideo(
            video_id=entry.video_id,
            class_name=entry.label,
            label=label_of[entry.label],
            group=group_of[entry.video_id],
            splits=sides[entry.video_id],
            path=root / entry.name,
            name=entry.name,
            segment=entry.segment,
            problem=SPECIAL if entry.name in found.special else None,
        )
        for entry in sorted(taken, key=lambda entry: entry.video_id)
    )
    if unsplit := [video.video_id for video in videos if not video.splits]:
        notes.append(f"stored, but in no split: {len(unsplit):,} videos ({some(unsplit)})")
    named = {entry.name for entry in present}
    if unlisted := [name for name in names if name not in named]:
        notes.append(f"left out: videos that {path} does not name: {len(unlisted):,} ({some(unlisted)})")
    absent = {video_id_of_part(row.video.strip(), row.segment): class_name_of[row.line] for row in missing_rows}
    of_classes = [video_id for video_id, name in absent.items() if options.classes is None or name in chosen]
    accounted = {video.video_id for video in videos}
    return options.dataset(
        videos,
        classes=chosen,
        splits=splits,
        division=division,
        notes=[*notes, *found.notes()],
        missing=tuple(of_classes),
        others=tuple(
            v for v in [*(entry.video_id for entry in present), *absent] if v not in accounted | {*of_classes}
        ),
        other_classes=len({*known, *absent.values()} - set(chosen)),
        lines={entry.video_id: f"{path}, line {entry.lines[0]}" for entry in taken},
    )


class _Places:
    """Where the videos of a list lie."""

    def __init__(self, root: Path, names: Sequence[str], others: Sequence[str]) -> None:
        self._root = Path(os.path.abspath(root))  # noqa: PTH100 - a link has a name of its own
        self._names = Names([*names, *others])
        self._by_file: dict[str, list[str]] = {}
        for name in names:
            file = PurePosixPath(name)
            for key in {file.name, file.stem}:
                self._by_file.setdefault(unicodedata.normalize("NFC", key), []).append(name)
        self.by_file_name: set[str] = set()
        """Videos of the list that were found by their file name alone, as the list writes them."""

    def find(self, written: str) -> str | None:
        """The path below the root; None if there is none, or if several are possible."""
        found = self.meant_by(written)
        return found[0] if len(found) == 1 else None

    def meant_by(self, written: str) -> list[str]:
        """Paths below the root that the list may mean."""
        path = written.strip()
        if path.startswith(f"{self._root}/"):
            path = path[len(f"{self._root}/") :]
        if exact := self._names.meant_by(path):
            return exact
        parts = PurePosixPath(path.replace("\\", "/")).parts
        if ".." in parts or not parts or parts[0] == "/":
            return []
        plain = "/".join(parts)
        if (self._root / plain).is_file():  # through a link to a folder that was searched before
            return [plain]
        if len(parts) == 1 and (alike := self._by_file.get(unicodedata.normalize("NFC", plain))):
            self.by_file_name.add(written)
            return alike
        return []


def _class_names(
    rows: Sequence[Row], classes_file: Path | None, problems: Problems, notes: list[str]
) -> tuple[dict[int, str], list[str]]:
    """Line -> class, and all classes in the order of their labels."""
    numbers = all(row.label.isdecimal() for row in rows)
    if classes_file is None:
        if numbers:
            notes.append("the list's labels are numbers, which are used as class names: give names with --classes-file")
        names = {row.line: str(int(row.label)) if numbers else row.label for row in rows}
        order = sorted(set(names.values()), key=int if numbers else str)
    else:
        name_of = read_class_names(classes_file)
        known = set(name_of.values())
        names = {}
        for row in rows:
            key = str(int(row.label)) if row.label.isdecimal() else row.label
            name = row.label if row.label in known else name_of.get(key)
            if name is None:
                problems.add(row.line, f"has label {row.label!a}, which is not in {classes_file}")
            names[row.line] = name or ""
        order = sorted(known, key=[*name_of.values()].index)
        if unused := [name for name in order if name not in set(names.values())]:
            notes.append(f"classes of {classes_file} without a video: {len(unused):,} ({some(unused)})")
    forms: dict[str, tuple[str, int]] = {}
    for row in rows:
        name = names[row.line]
        first, line = forms.setdefault(unicodedata.normalize("NFC", name).casefold(), (name, row.line))
        if first != name:
            problems.add(row.line, f"has class {name!a}, which looks like {first!a} of line {line}: write one of them")
        if not name.isprintable():
            problems.add(row.line, f"has class {name!a}, expected a name that can be printed")
    return names, order


def _entries(
    rows: Sequence[Row], name_of: Mapping[int, str | None], class_name_of: Mapping[int, str], problems: Problems
) -> dict[tuple[str, Segment | None], _Entry]:
    """Combines the rows of each video, and adds a problem for rows that contradict each other."""
    entries: dict[tuple[str, Segment | None], _Entry] = {}
    lines: dict[tuple[str, Segment | None, str], int] = {}
    for row in rows:
        name, class_name = name_of[row.line] or row.video.strip(), class_name_of[row.line]
        key = name, row.segment
        entry = entries.get(key)
        if entry is None:
            entry = entries[key] = _Entry(name, row.segment, class_name, [])
        what = f"{entry.video_id!a}"
        before = f"line {entry.lines[0]}" if entry.lines else ""
        entry.lines.append(row.line)
        if entry.label != class_name:
            problems.add(row.line, f"{what} is of class {class_name!a}, and of {entry.label!a} in {before}: choose one")
            continue
        side = row.membership or ""
        if row.split in entry.memberships:
            was, line = entry.memberships[row.split], lines[(*key, row.split)]
            twice = f"in {side} of {row.split}, and in {was} in line {line}" if was != side else f"also in line {line}"
            problems.add(row.line, f"{what} is {twice}: keep one of the lines")
            continue
        entry.memberships[row.split], lines[(*key, row.split)] = side, row.line
        if row.group and entry.group and row.group != entry.group:
            problems.add(row.line, f"{what} is of group {row.group!a}, and of {entry.group!a} in {before}: choose one")
        entry.group = entry.group or row.group
    return entries


def _require_one_name_each(
    entries: Mapping[tuple[str, Segment | None], _Entry], found: FolderSearch, problems: Problems
) -> None:
    """Adds a problem for each file that the list has under two names."""
    line_of = {entry.name: entry.lines[0] for entry in reversed([*entries.values()])}
    for same in found.twins(sorted(line_of)):
        first, *others = sorted(same, key=line_of.__getitem__)
        for name in others:
            problems.add(
                line_of[name], f"{name!a} and {first!a} of line {line_of[first]} are one file: write one of them"
            )


def _groups(entries: Sequence[_Entry], pattern: re.Pattern[str] | None) -> tuple[dict[str, str], list[str]]:
    """Video id -> group, and notes on the groups. The parts of one video are one group."""
    by_path, notes = groups_of(sorted({e.name for e in entries if not e.group}), pattern, depth=None)
    groups = {e.video_id: e.group or by_path[e.name] for e in entries}
    return groups, [*notes, *look_alikes({e.group for e in entries if e.group})]


def _require_training(
    entries: Sequence[_Entry],
    classes: Sequence[str],
    splits: Sequence[str],
    sides: Mapping[str, Mapping[str, str]],
    problems: Problems,
) -> None:
    """Each class needs training videos in each split that has videos of it, and in at least one split."""
    lines: dict[str, dict[str, list[int]]] = {}
    trained = set()
    for entry in entries:
        for split, side in sides[entry.video_id].items():
            lines.setdefault(entry.label, {}).setdefault(split, []).append(min(entry.lines))
            trained |= {(entry.label, split)} if side == "train" else set()
    first = {entry.label: min(entry.lines) for entry in reversed(entries)}
    for name in classes:
        for split in splits:
            if (name, split) not in trained and (in_split := lines.get(name, {}).get(split)):
                more = f" (and {len(in_split) - 1:,} more lines)" if len(in_split) > 1 else ""
                problems.add(min(in_split), f"class {name!a} has no training videos in {split}{more}")
        if name not in lines:
            problems.add(first[name], f"class {name!a} has no videos in any split")
    problems.require_none("add some, or leave out these classes with --classes")
