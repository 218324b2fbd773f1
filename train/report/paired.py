"""A paired test of two runs on the same test videos: the difference, its interval and its p-value.

Shapes: V videos, C classes, G groups, R drawn resamples.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from resact.errors import UsageError
from resact.train.report.intervals import Interval, clustered_interval, numbered

if TYPE_CHECKING:
    from resact.train.report.read_runs import Evaluation, ReadRun

SIGNIFICANT = 0.05
_EXACT_GROUPS = 14
"""Up to this number of groups with a difference, all combinations of signs are tried; with more, signs are drawn."""
_DRAWN = 10_000
_SIGNS_AT_ONCE = 2_000_000  # 16 MB


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two sides compared. A side is one run or several seeds; its score for a video is the share of correct seeds."""

    first: str
    """Name of the first side."""
    second: str
    interval: Interval
    """Top-1 of the first side minus the second's, in percentage points, with its interval."""
    p: float
    """p-value: probability of such a difference, or a larger one, by chance alone."""
    only_first: tuple[str, ...]
    """Ids of videos for which more seeds of the first side are correct."""
    only_second: tuple[str, ...]
    classes: tuple[tuple[str, float], ...]
    """Classes with test videos, and the first side's points over the second; the largest first."""

    @property
    def verdict(self) -> Literal["better", "worse", "undecided"]:
        """The verdict on the first side; decided only if the test and the interval agree."""
        low, high = self.interval.low, self.interval.high
        if self.p >= SIGNIFICANT or low is None or high is None or low <= 0 <= high:
            return "undecided"
        return "better" if low > 0 else "worse"


def compare(
    first: Sequence["ReadRun"], second: Sequence["ReadRun"], *, names: tuple[str, str] | None = None
) -> Comparison:
    """Test the difference of two sides.

    Args:
        first: finished runs, one per seed.
        second: the same for the second side.
        names: names of the sides; default: those of their runs.

    Raises:
        UsageError: they were not tested on the same videos.
    """
    base = first[0].tested
    sides_V = [np.mean([_hits_like(base, run, first[0]) for run in side], axis=0) for side in (first, second)]
    difference_V = sides_V[0] - sides_V[1]
    label_V = np.array([label for label, _ in base.cluster])
    classes = [
        (name, 100 * float(difference_V[label_V == label].mean()))
        for label, name in enumerate(first[0].record.classes)
        if (label_V == label).any()
    ]
    ids = np.array(base.video_id)
    given = names or (_names(first), _names(second))
    return Comparison(
        first=given[0],
        second=given[1],
        interval=clustered_interval(100 * difference_V, base.cluster),
        p=sign_flip_p(difference_V, base.cluster),
        only_first=tuple(ids[difference_V > 0].tolist()),
        only_second=tuple(ids[difference_V < 0].tolist()),
        classes=tuple(sorted(classes, key=lambda entry: -entry[1])),
    )


def sign_flip_p(difference_V: npt.NDArray[np.float64], group_V: Sequence[Hashable], *, seed: int = 0) -> float:
    """Two-sided p-value: without a true difference, each group's difference would be as likely to have the other sign.

    Signs are flipped per group, because its videos are similar. With groups of one video and one seed per side, this is
    McNemar's exact test.

    Args:
        difference_V: difference of each video's scores on the two sides.
        group_V: group of each video; videos of equal value belong together.
        seed: seed for drawing signs, if there are too many combinations to go through.
    """
    group_index_V, count = numbered(group_V)
    sums_G = np.bincount(group_index_V, difference_V, count)
    sums_G = sums_G[np.abs(sums_G) > 1e-9]
    groups = len(sums_G)
    least = abs(sums_G.sum()) - 1e-9  # sums of thirds and the like are not exact
    if groups <= _EXACT_GROUPS:
        signs_RG = 1 - 2 * (np.arange(2**groups)[:, None] >> np.arange(groups) & 1)
        return float((np.abs(signs_RG @ sums_G) >= least).mean())
    random, as_large = np.random.default_rng(seed), 0
    rows = max(1, _SIGNS_AT_ONCE // groups)
    for start in range(0, _DRAWN, rows):
        turned_RG = random.integers(0, 2, size=(min(rows, _DRAWN - start), groups), dtype=np.int8)
        as_large += int((np.abs(sums_G.sum() - 2 * (turned_RG @ sums_G)) >= least).sum())
    return (1 + as_large) / (1 + _DRAWN)


def _hits_like(base: "Evaluation", run: "ReadRun", other: "ReadRun") -> npt.NDArray[np.float64]:
    """(V,) the videos that a run has right, in the order of another run's videos."""
    place = {video_id: number for number, video_id in enumerate(run.tested.video_id)}
    ours, theirs = _truths(other), _truths(run)
    if ours != theirs:
        same = sum(theirs.get(video_id) == truth for video_id, truth in ours.items())
        raise UsageError(
            f"got {other.path} and {run.path}, which were tested on {len(ours):,} and {len(theirs):,} videos, "
            f"{same:,} of them the same, expected two runs with the same test videos: "
            "`resact report` has the runs that can be compared under one heading"
        )
    return run.tested.hits1[[place[video_id] for video_id in base.video_id]].astype(np.float64)


def _truths(run: "ReadRun") -> dict[str, str]:
    """Video -> its class."""
    videos = zip(run.tested.video_id, run.tested.cluster, strict=True)
    return {video_id: run.record.classes[label] for video_id, (label, _) in videos}


def _names(side: Sequence["ReadRun"]) -> str:
    return ", ".join(run.folder.name for run in side)
