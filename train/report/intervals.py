"""Confidence intervals of an accuracy, and of a difference between two runs.

Videos of one group show one scene, so their errors are correlated: both intervals are by groups, not by single videos.
Shapes: V videos, G groups, K kinds of groups, R drawn resamples.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

FEWEST_GROUPS = 5
"""With fewer groups there is no interval: resamples would mean little."""

_LEVEL = 0.95
_CHUNK = 1000  # resamples at a time: 8 MB of counts for a thousand groups


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean with its 95 % interval."""

    mean: float
    low: float | None
    """Lower limit; None, like `high`, if there are fewer groups than `FEWEST_GROUPS`."""
    high: float | None
    groups: int


def numbered(group_V: Sequence[Hashable]) -> tuple[npt.NDArray[np.intp], int]:
    """(V,) the groups as numbers from 0 on, and how many groups there are."""
    places: dict[Hashable, int] = {}
    return np.array([places.setdefault(group, len(places)) for group in group_V], np.intp), len(places)


def accuracy_interval(hit_V: npt.NDArray[np.float64], group_V: Sequence[Hashable]) -> Interval:
    """Accuracy in percent, with Wilson's score interval for the effective number of videos.

    Videos of one group are similar, so V overstates the information. The effective number is the one whose binomial
    variance equals the variance between groups, at most V, scaled by Student's t for few groups (Korn and Graubard,
    Survey Methodology 24, 1998). Unlike a bootstrap, this interval has a width even if all videos are correct.

    Args:
        hit_V: 1 for a correct video, 0 for a wrong one; with several seeds, the share of seeds that are correct.
        group_V: group of each video; videos of equal value belong together.
    """
    group_index_V, groups = numbered(group_V)
    videos, share = len(hit_V), float(hit_V.mean())
    if groups < FEWEST_GROUPS:
        return Interval(mean=100 * share, low=None, high=None, groups=groups)
    excess_G = np.bincount(group_index_V, hit_V - share, groups)
    variance = groups / (groups - 1) * float((excess_G**2).sum()) / videos**2
    worth = min(videos, share * (1 - share) / variance) if variance > 0 else videos
    z = NormalDist().inv_cdf((1 + _LEVEL) / 2)
    worth *= (z / _student_quantile(z, groups - 1)) ** 2
    middle = (share + z * z / (2 * worth)) / (1 + z * z / worth)
    half = z / (1 + z * z / worth) * sqrt(share * (1 - share) / worth + (z / (2 * worth)) ** 2)
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    return Interval(mean=100 * share, low=100 * low, high=100 * high, groups=groups)


def clustered_interval(
    difference_V: npt.NDArray[np.float64], group_V: Sequence[Hashable], *, seed: int = 0, resamples: int = 10_000
) -> Interval:
    """Mean of the videos' differences, with the percentile interval of a paired bootstrap over groups.

    The percentiles are moved outwards by Student's t for the number of groups, because plain percentiles are too narrow
    with few groups (Hesterberg, arXiv 1411.5279: the expanded percentile interval).

    Args:
        difference_V: difference of each video's scores in the two runs, one video or more.
        group_V: group of each video; videos of equal value are drawn together.
        seed: seed of the resampling; the same seed gives the same interval.
        resamples: number of resamples.
    """
    group_index_V, groups = numbered(group_V)
    sums_G = np.bincount(group_index_V, difference_V, groups)
    sizes_G = np.bincount(group_index_V, minlength=groups)
    mean = float(sums_G.sum() / sizes_G.sum())
    if groups < FEWEST_GROUPS:
        return Interval(mean=mean, low=None, high=None, groups=groups)
    # Groups with the same sum and size are drawn as one kind: 100,000 groups then cost no more than 100.
    kinds_K2, groups_K = np.unique(np.stack([sums_G, sizes_G], axis=1), axis=0, return_counts=True)
    random = np.random.default_rng(seed)
    means = []
    for start in range(0, resamples, _CHUNK):
        times_RK = random.multinomial(groups, groups_K / groups, size=min(_CHUNK, resamples - start))
        means.append(times_RK @ kinds_K2[:, 0] / (times_RK @ kinds_K2[:, 1]))
    tail = _expanded_tail((1 - _LEVEL) / 2, groups)
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail]).tolist()
    return Interval(mean=mean, low=low, high=high, groups=groups)


def _expanded_tail(tail: float, groups: int) -> float:
    """The share to cut off at each end; smaller for few groups, by Student's t."""
    t = _student_quantile(-NormalDist().inv_cdf(tail), groups - 1)
    return NormalDist().cdf(-t * sqrt(groups / (groups - 1)))


def _student_quantile(z: float, degrees: int) -> float:
    """Student's quantile from the normal one, by Abramowitz and Stegun 26.7.5."""
    return (
        z
        + (z**3 + z) / (4 * degrees)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * degrees**3)
    )
