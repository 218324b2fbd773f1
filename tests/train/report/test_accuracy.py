"""Shapes: V videos."""

from math import sqrt

import numpy as np
import pytest

from resact.train.report.accuracy import accuracy_interval
from resact.train.report.bootstrap import FEWEST_GROUPS


def wilson(right, videos, z=1.959964):
    share = right / videos
    middle = (share + z**2 / (2 * videos)) / (1 + z**2 / videos)
    half = z / (1 + z**2 / videos) * sqrt(share * (1 - share) / videos + z**2 / (4 * videos**2))
    return 100 * (middle - half), 100 * (middle + half)


@pytest.mark.parametrize("right", [0, 1, 300, 599, 600])
def test_of_videos_that_are_all_alone_it_is_wilsons(right):
    hit = (np.arange(600) < right).astype(float)
    interval = accuracy_interval(hit, range(600))
    assert (interval.mean, interval.groups) == (pytest.approx(100 * right / 600), 600)
    assert (interval.low, interval.high) == pytest.approx(wilson(right, 600), abs=0.05)


def test_videos_of_one_group_that_are_all_alike_count_as_one():
    hit = np.repeat((np.arange(100) < 70).astype(float), 7)
    interval = accuracy_interval(hit, (np.arange(700) // 7).tolist())
    assert (interval.low, interval.high) == pytest.approx(wilson(70, 100), abs=0.3)


def test_it_holds_the_truth_as_often_as_it_says(seed):
    """Of 400 times; 95 % is 380 with a spread of 4.4. Thirty groups of eight, each with an accuracy of its own."""
    random = np.random.default_rng(seed)
    group = np.repeat(np.arange(30), 8)
    held = alone = 0
    for _ in range(400):
        hit = (random.random(240) < random.beta(4, 1, 30)[group]).astype(float)
        interval, single = accuracy_interval(hit, group.tolist()), accuracy_interval(hit, range(240))
        held += interval.low <= 80 <= interval.high
        alone += single.low <= 80 <= single.high
    assert 364 <= held <= 396
    assert alone < held


def test_where_all_are_right_it_still_says_how_sure_that_is():
    interval = accuracy_interval(np.ones(64), (np.arange(64) // 4).tolist())
    assert interval.high == 100
    assert 90 < interval.low < 95


def test_limits_are_shares_and_too_few_groups_have_none():
    few = accuracy_interval(np.array([1.0, 0, 1, 1]), list(range(FEWEST_GROUPS - 1)))
    assert (few.mean, few.low, few.high) == (75, None, None)
    least = accuracy_interval(np.array([1.0, 0, 1, 1, 1]), list(range(FEWEST_GROUPS)))
    assert 0 <= least.low < 80 < least.high <= 100
