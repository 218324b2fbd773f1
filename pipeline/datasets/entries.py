"""The entries of the data set `folder`: what folders or a list say of each video; and how they become a data set."""

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resact.cache.layout import Segment
from resact.cache.settings import DatasetSettings
from resact.errors import UsageError
from resact.pipeline.datasets.dataset import Dataset, SourceVideo, path_as_id, some
from resact.pipeline.datasets.division import SPLIT, Division
from resact.pipeline.datasets.folder_search import SPECIAL
from resact.pipeline.datasets.groups import doubts, parse_pattern
from resact.pipeline.datasets.registry import DATASETS
from resact.pipeline.datasets.video_list import NONE, Problems, Row

TEST_SHARE = 0.3
"""Default share of each class's groups for test; about that of UCF101."""


@dataclass(kw_only=True)
class Entry:
    """One video, or part of one."""

    name: str
    """Path below the root."""
    class_name: str
    segment: Segment | None = None
    group: str = ""
    """Its group; empty as long as nothing but the path says it."""
    memberships: dict[str, str] = field(default_factory=dict)
    """Split -> side or `none`; not used if sides are drawn at random."""
    lines: list[int] = field(default_factory=list)
    """The lines of a list that name it."""

    @property
    def video_id(self) -> str:
        """The id of the video, or of the part."""
        return path_as_id(self.name if self.segment is None else f"{self.name}{self.segment}")

    @property
    def sides(self) -> dict[str, str]:
        """Split -> side, for the splits that use it."""
        return {split: side for split, side in self.memberships.items() if side != NONE}


def entries_of(
    rows: Iterable[Row], name_of: Mapping[int, str], class_name_of: Mapping[int, str], problems: Problems
) -> list[Entry]:
    """Combine the rows of each video, and add a problem for rows that contradict each other.

    Args:
        rows: rows of a list.
        name_of: line -> path of its video below the root.
        class_name_of: line -> class.
        problems: where to add problems.
    """
    entries: dict[tuple[str, Segment | None], Entry] = {}
    lines: dict[tuple[str, Segment | None, str], int] = {}
    for row in rows:
        class_name = class_name_of[row.line]
        key = name_of[row.line], row.segment
        entry = entries.setdefault(key, Entry(name=key[0], segment=row.segment, class_name=class_name))
        what = f"{entry.video_id!a}"
        before = f"line {entry.lines[0]}" if entry.lines else ""
        entry.lines.append(row.line)
        if entry.class_name != class_name:
            problems.add(
                row.line, f"{what} is of class {class_name!a}, and of {entry.class_name!a} in {before}: choose one"
            )
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
    return list(entries.values())


@dataclass(frozen=True, kw_only=True)
class FolderOptions:
    """What `resact prep folder` is given; None for what is not.

    Raises:
        UsageError: contradicting or impossible options.
    """

    root: Path
    """The folder of the videos."""
    classes: Sequence[str] | None
    """Names of the classes to use."""
    allow_partial: bool
    """Whether to continue if videos that the CSV or the list names are missing."""
    name: str | None = None
    """Name of the data set; None for the folder's name."""
    list: Path | None = None
    """List of the videos anywhere below the root, with their classes and sides: see `video_list`."""
    classes_file: Path | None = None
    """Names of the classes, if the list has numbers for them."""
    splits: Path | None = None
    """CSV of memberships, as in `video_list`; None to divide by folders of sides, or by group."""
    test_share: float | None = None
    """Share of each class's groups for test, in (0, 1); None for `TEST_SHARE`."""
    split_seed: int | None = None
    """Seed of the division; None for 0."""
    group_pattern: str | None = None
    """Regular expression, searched in a video's path below the root; what its one pair of parentheses matches is the
    video's group. None for `..._gNN_...` in the file's name as in UCF101, else the sub-folder of its class; a video
    without either is its own group.
    """
    flip_safe: bool | None = None
    """Whether a mirrored video still shows its class; None for yes."""

    def __post_init__(self) -> None:
        _require_title(self.title, "a folder named" if self.name is None else "--name")
        parse_pattern(self.group_pattern)
        if self.list and self.splits:
            raise UsageError("got --list and --splits, expected one: a list has the sides in its column membership")
        if self.classes_file and not self.list:
            raise UsageError("got --classes-file without --list: without a list, folders are named like their classes")
        if self.splits and (self.test_share is not None or self.split_seed is not None):
            raise UsageError(
                "got --splits with --test-share or --split-seed, expected one of them: the CSV decides the split, or a "
                "random draw"
            )
        if self.test_share is not None and not 0 < self.test_share < 1:
            raise UsageError(
                f"got --test-share {self.test_share:g}, expected more than 0 and less than 1, such as {TEST_SHARE}"
            )

    @property
    def title(self) -> str:
        """Name of the data set."""
        # Not `resolve`: a link has a name of its own.
        return Path(os.path.abspath(self.root)).name if self.name is None else self.name  # noqa: PTH100

    def require_no_draw(self, what: str) -> None:
        """Refuse options of the random division where something else decides the sides: `what` says what.

        Raises:
            UsageError: `--test-share` or `--split-seed` is given.
        """
        for option, value in (("--test-share", self.test_share), ("--split-seed", self.split_seed)):
            if value is not None:
                raise UsageError(f"got {option}, but {what}")

    def dataset(
        self,
        entries: Sequence[Entry],
        *,
        classes: tuple[str, ...],
        splits: tuple[str, ...] | None,
        special: Collection[str],
        absent: Mapping[str, str],
        notes: Iterable[str],
        remedy: str = "",
        advice: str = "",
        **others: Any,
    ) -> Dataset:
        """The data set of the chosen classes, with notes on what may be a mistake.

        Args:
            entries: all videos that are there, also of other classes, with their groups.
            classes: the chosen classes, in the order of their labels.
            splits: splits of the data set; None to draw sides at random, by group.
            special: names of files that nothing should open.
            absent: id of each video that a list names and that is missing -> its class.
            notes: notes so far.
            remedy: as in `doubts`.
            advice: what to do if there is only one class.
            others: other fields of `Dataset`.
        """
        division = self._division(entries) if splits is None else None
        splits = (SPLIT,) if splits is None else splits
        drawn = division.memberships() if division else {}
        label_of = {class_name: label for label, class_name in enumerate(classes)}
        videos = tuple(
            SourceVideo(
                video_id=entry.video_id,
                class_name=entry.class_name,
                label=label_of[entry.class_name],
                group=entry.group,
                splits={SPLIT: drawn[entry.group]} if division else entry.sides,
                path=self.root / entry.name,
                name=entry.name,
                segment=entry.segment,
                problem=SPECIAL if entry.name in special else None,
            )
            for entry in entries
            if entry.class_name in label_of
        )
        missing = [video_id for video_id, name in absent.items() if self.classes is None or name in classes]
        accounted = {*missing, *(video.video_id for video in videos)}
        more = []
        if unsplit := [video.video_id for video in videos if not video.splits]:
            more.append(f"stored, but in no split: {len(unsplit):,} videos ({some(unsplit)})")
        more += doubts(videos, classes, splits, remedy=remedy)
        if len(classes) == 1:
            more.append(f"there is only one class, {some(classes)}{advice}")
        if self.flip_safe is None:
            more.append("training mirrors half of the clips; if left and right matter, pass --not-flip-safe")
        settings = DatasetSettings(
            name=self.title,
            videos=None,
            all_classes=None,
            classes=classes,
            splits=splits,
            flip_safe=self.flip_safe is not False,
            division=division.description if division else None,
        )
        return Dataset(
            settings=settings,
            videos=videos,
            missing=tuple(missing),
            others=tuple(v for v in [*(entry.video_id for entry in entries), *absent] if v not in accounted),
            other_classes=len({*(entry.class_name for entry in entries), *absent.values()} - set(classes)),
            notes=(*notes, *more),
            division=division,
            **others,
        )

    def _division(self, entries: Iterable[Entry]) -> Division:
        classes: dict[str, set[str]] = {}
        for entry in entries:
            classes.setdefault(entry.group, set()).add(entry.class_name)
        return Division(
            test_share=TEST_SHARE if self.test_share is None else self.test_share,
            seed=self.split_seed or 0,
            groups={group: frozenset(names) for group, names in classes.items()},
        )


def _require_title(title: str, source: str) -> None:
    if not title.isprintable() or not title.strip() or "/" in title or title.startswith("."):
        raise UsageError(f"got {source} {title!r}, expected a name that a file may have: choose one with --name NAME")
    if title.lower() in DATASETS:
        raise UsageError(
            f"got {source} {title!r}, which is the name of another data set: choose one with --name NAME, "
            f"or see `resact prep {title.lower()}`"
        )
