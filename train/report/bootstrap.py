"""The confidence interval of a difference between two runs: a paired bootstrap over groups of videos.

Videos of one group show one scene, so their errors are correlated: groups are drawn, never single videos. Shapes: V
videos, G groups, K kinds of groups, R drawn resamples.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

RESAMPLES = 10_000
FEWEST_GROUPS = 5
"""With fewer groups there is no interval: resamples would mean little."""

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


def clustered_interval(
    difference_V: npt.NDArray[np.float64],
    group_V: Sequence[Hashable],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = 0.95,
) -> Interval:
    """Mean of the videos' differences, with the percentile interval of resampled groups.

    The percentiles are moved outwards by Student's t for the number of groups, because plain percentiles are too narrow
    with few groups (Hesterberg, arXiv 1411.5279: the expanded percentile interval).

    Args:
        difference_V: difference of each video's scores in the two runs, one video or more.
        group_V: group of each video; videos of equal value are drawn together.
        seed: seed of the resampling; the same seed gives the same interval.
        resamples: number of resamples.
        level: confidence level.
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
    tail = _expanded_tail((1 - level) / 2, groups)
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail]).tolist()
    return Interval(mean=mean, low=low, high=high, groups=groups)


def _expanded_tail(tail: float, groups: int) -> float:
    """The share to cut off at each end; smaller for few groups, by Student's t."""
    t = student_quantile(-NormalDist().inv_cdf(tail), groups - 1)
    return NormalDist().cdf(-t * sqrt(groups / (groups - 1)))


def student_quantile(z: float, degrees: int) -> float:
    """Student's quantile from the normal one, by Abramowitz and Stegun 26.7.5."""
    return (
        z
        + (z**3 + z) / (4 * degrees)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * degrees**3)
    )
