"""A data set from a list: videos anywhere below a root, or parts of them. `video_list` has the forms of a list."""

import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from resact.errors import SourceError
from resact.pipeline.datasets.dataset import Dataset, choose_classes, some
from resact.pipeline.datasets.entries import Entry, FolderOptions, entries_of
from resact.pipeline.datasets.folder_search import NO_VIDEO, FolderSearch
from resact.pipeline.datasets.groups import groups_of, parse_pattern, similar_groups
from resact.pipeline.datasets.list_file import Names, read_class_names
from resact.pipeline.datasets.video_list import NONE, Problems, Row, read_list


def load_listed(options: FolderOptions, path: Path) -> Dataset:
    """The videos that the list at `path` names.

    Raises:
        UsageError: contradicting or impossible arguments.
        SourceError: no such folder, or a list that does not fit it, with the lines.
    """
    root = options.root
    rows, other_columns = read_list(path)
    notes = [f"columns of {path} that prep ignores: {some(other_columns)}"] if other_columns else []
    problems = Problems(path)
    found = FolderSearch(root, path)
    names = found.search_all()
    places = _Places(root, names, found.left_out[NO_VIDEO])
    meant = {row.line: places.meant_by(row.video) for row in rows}
    name_of = {line: names[0] if len(names) == 1 else None for line, names in meant.items()}
    if by_name := [row.video for row in rows if name_of[row.line] and row.video in places.by_file_name]:
        notes.append(f"videos of {path} that are found by their file name alone: {len(by_name):,} ({some(by_name)})")
    missing_rows = [row for row in rows if not name_of[row.line]]
    for row in missing_rows:
        several = " or ".join(map(ascii, meant[row.line][:2]))
        if several or not options.allow_partial:
            problems.add(row.line, f"{row.video!a} {f'may mean {several}' if several else f'is not below {root}'}")
    problems.require_none("correct the list, or use what exists with --allow-partial")
    if len(missing_rows) == len(rows):
        raise SourceError(
            f"none of the {len(rows):,} videos that {path} names is below {root}, such as {rows[0].video!a}"
        )
    class_name_of, order = _class_names(rows, options.classes_file, problems, notes)
    all_names = {row.line: name_of[row.line] or row.video.strip() for row in rows}
    entries = entries_of(rows, all_names, class_name_of, problems)
    _require_one_name_each(entries, found, problems)
    problems.require_none()
    present = [entry for entry in entries if name_of[entry.lines[0]]]
    labels = {entry.class_name for entry in present}
    chosen = choose_classes([name for name in order if name in labels], options.classes)
    notes += _group(present, parse_pattern(options.group_pattern))
    splits = None
    if any(row.membership is not None for row in rows):
        options.require_no_draw(f"{path} has a column membership: the list decides the split, or a random draw")
        splits = tuple(sorted({row.split for row in rows if row.membership != NONE}))
        _require_training([entry for entry in present if entry.class_name in chosen], chosen, splits, problems)
    named = {entry.name for entry in present}
    if unlisted := [name for name in names if name not in named]:
        notes.append(f"left out: videos that {path} does not name: {len(unlisted):,} ({some(unlisted)})")
    return options.dataset(
        sorted(present, key=lambda entry: entry.video_id),
        classes=chosen,
        splits=splits,
        special=found.special,
        absent={entry.video_id: entry.class_name for entry in entries if not name_of[entry.lines[0]]},
        notes=[*notes, *found.notes()],
        lines={entry.video_id: f"{path}, line {entry.lines[0]}" for entry in present},
    )


class _Places(Names):
    """Where the videos of a list lie."""

    def __init__(self, root: Path, names: Sequence[str], others: Sequence[str]) -> None:
        super().__init__([*names, *others])
        self._root = Path(os.path.abspath(root))  # noqa: PTH100 - a link has a name of its own
        self._by_file: dict[str, list[str]] = {}
        for name in names:
            file = PurePosixPath(name)
            for key in {file.name, file.stem}:
                self._by_file.setdefault(unicodedata.normalize("NFC", key), []).append(name)
        self.by_file_name: set[str] = set()
        """Videos of the list that were found by their file name alone, as the list writes them."""

    def meant_by(self, written: str) -> list[str]:
        """Paths below the root that the list may mean."""
        path = written.strip()
        if path.startswith(f"{self._root}/"):
            path = path[len(f"{self._root}/") :]
        if exact := super().meant_by(path):
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


def _require_one_name_each(entries: Sequence[Entry], found: FolderSearch, problems: Problems) -> None:
    """Adds a problem for each file that the list has under two names."""
    line_of = {entry.name: entry.lines[0] for entry in reversed(entries)}
    for same in found.twins(sorted(line_of)):
        first, *others = sorted(same, key=line_of.__getitem__)
        for name in others:
            problems.add(
                line_of[name], f"{name!a} and {first!a} of line {line_of[first]} are one file: write one of them"
            )


def _group(entries: Sequence[Entry], pattern: re.Pattern[str] | None) -> list[str]:
    """Give groups to entries without one, the same to all parts of a video; returns notes on the groups."""
    similar = similar_groups(entry.group for entry in entries if entry.group)
    by_path, notes = groups_of(sorted({e.name for e in entries if not e.group}), pattern, depth=None)
    for entry in entries:
        entry.group = entry.group or by_path[entry.name]
    return notes + similar


def _require_training(
    entries: Sequence[Entry], classes: Sequence[str], splits: Sequence[str], problems: Problems
) -> None:
    """Each class needs training videos in each split that has videos of it, and in at least one split."""
    lines: dict[str, dict[str, list[int]]] = {}
    trained = set()
    for entry in entries:
        for split, side in entry.sides.items():
            lines.setdefault(entry.class_name, {}).setdefault(split, []).append(min(entry.lines))
            trained |= {(entry.class_name, split)} if side == "train" else set()
    first = {entry.class_name: min(entry.lines) for entry in reversed(entries)}
    for name in classes:
        for split in splits:
            if (name, split) not in trained and (in_split := lines.get(name, {}).get(split)):
                more = f" (and {len(in_split) - 1:,} more lines)" if len(in_split) > 1 else ""
                problems.add(min(in_split), f"class {name!a} has no training videos in {split}{more}")
        if name not in lines:
            problems.add(first[name], f"class {name!a} has no videos in any split")
    problems.require_none("add some, or leave out these classes with --classes")
