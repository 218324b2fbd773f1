"""Options of the data set `folder`, for class folders and for lists: name, classes, groups, random division."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from resact.cache.settings import DatasetSettings
from resact.errors import UsageError
from resact.pipeline.datasets.dataset import Dataset, SourceVideo, some
from resact.pipeline.datasets.division import Division
from resact.pipeline.datasets.groups import doubts

TEST_SHARE = 0.3
"""Default share of each class's groups for test; about that of UCF101."""


@dataclass(frozen=True, kw_only=True)
class FolderOptions:
    """The options, as in `load_folder`.

    Raises:
        UsageError: an impossible share.
    """

    name: str
    """Name of the data set."""
    classes: Sequence[str] | None
    allow_partial: bool
    test_share: float | None
    split_seed: int | None
    group_pattern: re.Pattern[str] | None
    flip_safe: bool | None

    def __post_init__(self) -> None:
        if self.test_share is not None and not 0 < self.test_share < 1:
            raise UsageError(
                f"got --test-share {self.test_share:g}, expected more than 0 and less than 1, such as {TEST_SHARE}"
            )

    def require_no_draw(self, what: str) -> None:
        """Refuse options of the random division where something else decides the sides: `what` says what.

        Raises:
            UsageError: `--test-share` or `--split-seed` is given.
        """
        for option, value in (("--test-share", self.test_share), ("--split-seed", self.split_seed)):
            if value is not None:
                raise UsageError(f"got {option}, but {what}")

    def divide(self, videos: Iterable[tuple[str, str]]) -> Division:
        """The random division of videos, each given as its group and its class."""
        classes: dict[str, set[str]] = {}
        for group, class_name in videos:
            classes.setdefault(group, set()).add(class_name)
        return Division(
            test_share=TEST_SHARE if self.test_share is None else self.test_share,
            seed=self.split_seed or 0,
            groups={group: frozenset(names) for group, names in classes.items()},
        )

    def dataset(
        self,
        videos: tuple[SourceVideo, ...],
        *,
        classes: tuple[str, ...],
        splits: tuple[str, ...],
        division: Division | None,
        notes: Iterable[str],
        remedy: str = "",
        advice: str = "",
        **others: Any,
    ) -> Dataset:
        """The data set of the chosen videos, with notes on what may be a mistake.

        Args:
            videos: the videos of the chosen classes.
            classes: these classes, in the order of their labels.
            splits: splits of the data set.
            division: the random division, if there is one.
            notes: notes so far.
            remedy: as in `doubts`.
            advice: what to do if there is only one class.
            others: other fields of `Dataset`.
        """
        more = doubts(videos, classes, splits, remedy=remedy)
        if len(classes) == 1:
            more.append(f"there is only one class, {some(classes)}{advice}")
        if self.flip_safe is None:
            more.append("training mirrors half of the clips; if left and right matter, pass --not-flip-safe")
        settings = DatasetSettings(
            name=self.name,
            videos=None,
            all_classes=None,
            classes=classes,
            splits=splits,
            flip_safe=self.flip_safe is not False,
            division=division.description if division else None,
        )
        return Dataset(settings=settings, videos=videos, notes=(*notes, *more), division=division, **others)
