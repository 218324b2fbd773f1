"""Shapes: V videos, G groups."""

from dataclasses import replace
from itertools import product
from math import comb
from pathlib import Path

import numpy as np
import pytest
from tests.train.report.written import VIDEOS, write_run

from resact.errors import UsageError
from resact.train.report.intervals import clustered_interval
from resact.train.report.paired import compare, sign_flip_p
from resact.train.report.read_runs import ReadRun, read_runs
from resact.train.runs.testing.predictions import PREDICTIONS, read_predictions, write_predictions


@pytest.mark.parametrize(("first", "second"), [(8, 3), (5, 5), (10, 0), (1, 0), (0, 0)])
def test_of_single_videos_it_is_mcnemars_exact_test(first, second):
    """The two-sided binomial test of the videos that only one side classifies correctly."""
    difference = np.array([1.0] * first + [-1.0] * second + [0.0] * 30)
    n, k = first + second, min(first, second)
    expected = min(1.0, 2 * sum(comb(n, i) for i in range(k + 1)) / 2**n)
    assert sign_flip_p(difference, range(len(difference))) == pytest.approx(expected)


def test_groups_are_turned_as_a_whole(seed):
    random = np.random.default_rng(seed)
    group = random.integers(0, 9, 40)
    difference = random.integers(-3, 4, 40) / 3
    sums = np.array([difference[group == name].sum() for name in np.unique(group)])
    turned = [abs(np.dot(signs, sums)) >= abs(sums.sum()) - 1e-9 for signs in product((1, -1), repeat=len(sums))]
    assert sign_flip_p(difference, group.tolist()) == pytest.approx(np.mean(turned))


def test_drawn_signs_agree_with_all_of_them(seed):
    """With sixteen groups, signs are drawn; all 65,536 combinations give the exact p."""
    difference = np.random.default_rng(seed).normal(0.3, 1, 16)
    signs = 1 - 2 * (np.arange(2**16)[:, None] >> np.arange(16) & 1)
    exact = (np.abs(signs @ difference) >= abs(difference.sum()) - 1e-9).mean()
    assert sign_flip_p(difference, range(16)) == pytest.approx(exact, abs=0.02)


def runs_in(folder: Path) -> dict[str, ReadRun]:
    return {run.folder.name: run for run in read_runs(folder)[0]}


def test_a_comparison_pairs_videos_and_says_which(tmp_path: Path) -> None:
    first, second = np.zeros(VIDEOS, bool), np.zeros(VIDEOS, bool)
    first[:24], second[12:20] = True, True
    second[70] = True
    write_run(tmp_path, "a", modality="rgb", correct=first)
    write_run(tmp_path, "b", modality="residual", correct=second)
    runs = runs_in(tmp_path)
    comparison = compare([runs["a"]], [runs["b"]])
    evaluation = runs["a"].evaluation
    assert (comparison.first, comparison.second) == ("a", "b")
    assert comparison.interval == clustered_interval(100 * (first * 1.0 - second), evaluation.cluster)
    assert comparison.only_second == ("v070",)
    assert comparison.only_first == tuple(f"v{place:03}" for place in [*range(12), *range(20, 24)])
    assert comparison.classes[0] == ("A", 100.0)
    assert comparison.classes[-1] == ("F", pytest.approx(-100 / 12))


def test_the_verdict_needs_both_the_test_and_the_interval(tmp_path: Path) -> None:
    place = np.arange(VIDEOS)
    write_run(tmp_path, "good", modality="rgb", correct=place % 12 < 9)
    write_run(tmp_path, "bad", modality="residual", correct=place % 12 < 3)
    write_run(tmp_path, "alike", modality="both", correct=(place + 1) % 12 < 9)
    runs = runs_in(tmp_path)
    assert compare([runs["good"]], [runs["bad"]]).verdict == "better"
    assert compare([runs["bad"]], [runs["good"]]).verdict == "worse"
    assert compare([runs["good"]], [runs["alike"]]).verdict == "undecided"


def test_videos_are_paired_by_name_and_others_are_refused(tmp_path: Path) -> None:
    write_run(tmp_path, "a", modality="rgb", correct=np.arange(VIDEOS) < 40)
    other = write_run(tmp_path, "b", modality="residual", correct=np.arange(VIDEOS) < 30, contents="d" * 60)
    path = other.path / PREDICTIONS
    said = read_predictions(path)
    back = {name: getattr(said, name)[::-1].copy() for name in ("logits", "starts", "label", "video_id", "group")}
    write_predictions(path, replace(said, **back))
    runs = runs_in(tmp_path)
    comparison = compare([runs["a"]], [runs["b"]])
    assert (len(comparison.only_first), len(comparison.only_second)) == (10, 0)
    write_predictions(path, replace(said, video_id=np.array([f"w{place:03}" for place in range(VIDEOS)])))
    with pytest.raises(UsageError, match="were tested on 72 and 72 videos, 0 of them the same, expected two runs"):
        compare([runs["a"]], [runs_in(tmp_path)["b"]])
