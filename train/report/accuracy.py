"""The confidence interval of one accuracy. Shapes: V videos, G groups."""

from collections.abc import Hashable, Sequence
from math import sqrt
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from resact.train.report.bootstrap import FEWEST_GROUPS, Interval, numbered, student_quantile


def accuracy_interval(hit_V: npt.NDArray[np.float64], group_V: Sequence[Hashable], *, level: float = 0.95) -> Interval:
    """Accuracy in percent, with Wilson's score interval for the effective number of videos.

    Videos of one group are similar, so V overstates the information. The effective number is the one whose binomial
    variance equals the variance between groups, at most V, scaled by Student's t for few groups (Korn and Graubard,
    Survey Methodology 24, 1998). Unlike a bootstrap, this interval has a width even if all videos are correct.

    Args:
        hit_V: 1 for a correct video, 0 for a wrong one; with several seeds, the share of seeds that are correct.
        group_V: group of each video; videos of equal value belong together.
        level: confidence level.

    Returns:
        The accuracy and its interval; without limits if there are fewer groups than `FEWEST_GROUPS`.
    """
    group_index_V, groups = numbered(group_V)
    videos, share = len(hit_V), float(hit_V.mean())
    if groups < FEWEST_GROUPS:
        return Interval(mean=100 * share, low=None, high=None, groups=groups)
    excess_G = np.bincount(group_index_V, hit_V - share, groups)
    variance = groups / (groups - 1) * float((excess_G**2).sum()) / videos**2
    worth = min(videos, share * (1 - share) / variance) if variance > 0 else videos
    z = NormalDist().inv_cdf((1 + level) / 2)
    worth *= (z / student_quantile(z, groups - 1)) ** 2
    middle = (share + z * z / (2 * worth)) / (1 + z * z / worth)
    half = z / (1 + z * z / worth) * sqrt(share * (1 - share) / worth + (z / (2 * worth)) ** 2)
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    return Interval(mean=100 * share, low=100 * low, high=100 * high, groups=groups)
