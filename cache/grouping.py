"""Whether a store knows the groups of similar videos (such as clips of one recording) that a split keeps together."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from resact.cache.index import Index
from resact.cache.settings import DatasetSettings

WHAT_MENDS_IT = "make the store with --group-pattern REGEX, or with a sub-folder for each recording"


@dataclass(frozen=True, kw_only=True)
class Grouping:
    """Groups of the videos that have frames and are in a split."""

    videos: int
    groups: int
    ungrouped: int
    """Number of videos that are their own group, because nothing says which group they belong to."""
    divided: dict[str, int]
    """Split -> groups with videos on several sides (train, val, test); only where there are any."""
    by_chance: bool
    """Whether the split was drawn at random, by group; otherwise lists decide it."""
    whole: bool
    """Whether the store has all videos, so that groups of one video are not due to missing ones."""

    @property
    def notes(self) -> list[str]:
        """Notes for the user, one sentence each."""
        torn = (f"{split} has videos of {n:,} groups on more than one side" for split, n in self.divided.items())
        return [*([self.leak] if self.leak else []), *torn]

    @property
    def leak(self) -> str | None:
        """Why a recording may be on both sides of a split; None if groups prevent it."""
        if self.ungrouped:
            all_of_them = self.ungrouped == self.videos
            known = (
                f"no groups were found: each of the {self.videos:,} videos is a group of its own"
                if all_of_them
                else f"{self.ungrouped:,} of {self.videos:,} videos have no group, so each is its own group"
            )
        elif self.whole and self.groups == self.videos > 0:
            known = f"each of the {self.groups:,} groups holds one video"
        else:
            return None
        if self.by_chance:
            may = "so clips of one recording may be in both train and test, and accuracies may be too high"
            return f"{known}, {may}; to fix it, {WHAT_MENDS_IT}"
        may = "so training may validate on clips of recordings that it trains on"
        return f"{known}, {may}; to fix it, give the list a column group, or {WHAT_MENDS_IT}"


def grouping(index: Index, dataset: DatasetSettings, *, partial: str | None) -> Grouping:
    """The grouping of a store's videos.

    Args:
        index: of the store.
        dataset: its settings.
        partial: what it lacks; one video of each group may then be all that was asked for.
    """
    listed = np.any([codes > 0 for codes in index.splits.values()], axis=0)
    video_indices = np.flatnonzero(listed & (index.num_frames > 0)).tolist()
    group_of = {video_index: index.group[video_index] for video_index in video_indices}
    divided = {}
    for split, codes in index.splits.items():
        sides = {(group, int(codes[video_index])) for video_index, group in group_of.items() if codes[video_index]}
        count = sum(number > 1 for number in Counter(group for group, _ in sides).values())
        if count:
            divided[split] = count
    return Grouping(
        videos=len(video_indices),
        groups=len(set(group_of.values())),
        ungrouped=sum(index.video_id[video_index] == group for video_index, group in group_of.items()),
        divided=divided,
        by_chance=dataset.division is not None,
        whole=partial is None and dataset.videos is None,
    )


def note_on_tests(
    video_ids: Sequence[str], groups: Sequence[str], dataset: DatasetSettings, *, partial: str | None
) -> str | None:
    """A note if test videos may share recordings with training videos; None if they do not.

    Args:
        video_ids: ids of the test videos.
        groups: their groups.
        dataset: the store's settings of the data set.
        partial: what it lacks.
    """
    videos = len(video_ids)
    ungrouped = sum(video_id == group for video_id, group in zip(video_ids, groups, strict=True))
    if ungrouped:
        known = f"{'all' if ungrouped == videos else f'{ungrouped:,} of'} {videos:,} test videos have no group"
    elif partial is None and dataset.videos is None and len(set(groups)) == videos:
        known = f"each of the {videos:,} test videos is a group of its own"
    else:
        return None
    if dataset.division is not None:
        may = "clips of their recordings may have been trained on: accuracies may be too high, and intervals too narrow"
        return f"{known}, and {may}; {WHAT_MENDS_IT}"
    return f"{known}: only the list keeps their recordings apart from training, and intervals may be too narrow"
