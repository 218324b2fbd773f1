"""Figures beside an independent count in plain NumPy and Python."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from resact.errors import UsageError
from resact.train.runs.testing.metrics import measure, measure_videos, ranking, video_scores

Logits = np.ndarray


def top(scores: np.ndarray, label: int, k: int) -> bool:
    """Whether `label` is among the k best, by sorting pairs: of equal scores the earlier class is better."""
    best = sorted((-float(score), place) for place, score in enumerate(scores))[:k]
    return label in [place for _, place in best]


def softmax_mean(logits_KC: np.ndarray) -> np.ndarray:
    views = [np.exp(view - view.max()) for view in logits_KC.astype(np.float64)]
    return np.mean([view / view.sum() for view in views], axis=0)


@st.composite
def evaluations(draw: st.DrawFn, *, tied: bool = False) -> tuple[Logits, np.ndarray]:
    videos, views, classes = draw(st.integers(1, 12)), draw(st.integers(1, 4)), draw(st.integers(2, 9))
    seed = draw(st.integers(0, 2**32 - 1))
    random = np.random.default_rng(seed)
    shape = (videos, views, classes)
    logits = random.integers(0, 3, shape) if tied else random.normal(0, 4, shape)
    return logits.astype(np.float32), random.integers(0, classes, videos)


def names(count: int) -> list[str]:
    return [f"class {i}" for i in range(count)]


@settings(max_examples=60)
@given(evaluations())
def test_figures_equal_a_plain_count(evaluation: tuple[Logits, np.ndarray]) -> None:
    logits, label = evaluation
    videos, views, classes = logits.shape
    scores = measure(logits, label, names(classes))
    means = [softmax_mean(video) for video in logits]
    assert (scores.videos, scores.views) == (videos, views)
    clips = [(clip, label[v]) for v in range(videos) for clip in logits[v]]
    for k, clip_figure, video_figure in (
        (1, scores.clip_top1, scores.video_top1),
        (5, scores.clip_top5, scores.video_top5),
    ):
        if classes < k:
            assert clip_figure is None
            assert video_figure is None
        else:
            assert clip_figure == sum(top(clip, place, k) for clip, place in clips) / (videos * views)
            assert video_figure == sum(top(mean, place, k) for mean, place in zip(means, label, strict=True)) / videos
    confusion = np.zeros((classes, classes), int)
    for mean, place in zip(means, label, strict=True):
        confusion[place, mean.argmax()] += 1
    assert scores.confusion == confusion.tolist()
    for place, row in enumerate(scores.per_class):
        assert (row.class_name, row.videos) == (f"class {place}", int((label == place).sum()))
        assert row.video_top1 == (confusion[place, place] / row.videos if row.videos else None)
    of_classes = [row.video_top1 for row in scores.per_class if row.video_top1 is not None]
    assert scores.mean_class == pytest.approx(sum(of_classes) / len(of_classes))


@settings(max_examples=40)
@given(evaluations(tied=True))
def test_of_equal_scores_the_earlier_class_ranks_first(evaluation: tuple[Logits, np.ndarray]) -> None:
    logits, label = evaluation
    one_view = logits[:, :1]
    scores = measure(one_view, label, names(logits.shape[2]))
    assert scores.clip_top1 == sum(top(v[0], p, 1) for v, p in zip(one_view, label, strict=True)) / len(label)
    if logits.shape[2] >= 5:
        assert scores.clip_top5 == sum(top(v[0], p, 5) for v, p in zip(one_view, label, strict=True)) / len(label)
    assert ranking(np.zeros((1, 7))).tolist() == [[0, 1, 2, 3, 4, 5, 6]]


@settings(max_examples=20)
@given(evaluations(), st.data())
def test_the_order_of_videos_and_views_plays_no_part(
    evaluation: tuple[Logits, np.ndarray], data: st.DataObject
) -> None:
    logits, label = evaluation
    videos, _, classes = logits.shape
    order = data.draw(arrays.arrays(np.intp, videos, elements=st.integers(0, videos - 1), unique=True))
    other = measure(logits[order][:, ::-1].copy(), label[order], names(classes))
    plain = measure(logits, label, names(classes))
    for name in ("video_top1", "video_top5", "clip_top1", "clip_top5", "mean_class", "confusion", "per_class"):
        assert getattr(other, name) == getattr(plain, name)


def test_clip_and_video_figures_are_told_apart() -> None:
    # Two sure views outvote one that is right in class 0; softmax weighs how sure each is.
    logits = np.array([[[9, 0], [0, 1], [0, 1]], [[0, 9], [0, 9], [1, 0]]], np.float32)
    scores = measure(logits, np.array([0, 1]), ["a", "b"])
    assert scores.video_top1 == 1.0
    assert scores.clip_top1 == 3 / 6
    assert scores.clip_top5 is scores.video_top5 is None, "top-5 of two classes is no figure"
    np.testing.assert_allclose(video_scores(logits).sum(1), 1)


def test_mean_class_counts_each_class_alike() -> None:
    scores = measure_videos(np.eye(3)[[0] * 8 + [0, 1]], np.array([0] * 8 + [1, 1]), ["a", "b", "without videos"])
    assert (scores.video_top1, scores.mean_class) == (0.9, 0.75)


def test_with_five_classes_top_5_is_sure() -> None:
    logits = np.random.default_rng(1).normal(size=(6, 2, 5)).astype(np.float32)
    scores = measure(logits, np.arange(6) % 5, names(5))
    assert scores.video_top5 == scores.clip_top5 == 1.0


def test_videos_alone_have_no_clip_figures() -> None:
    scores = measure_videos(np.array([[0.75, 0.25], [0.5, 0.5]]), np.array([0, 1]), ["a", "b"])
    assert (scores.views, scores.clip_top1, scores.clip_top5) == (None, None, None)
    assert scores.video_top1 == 0.5, "the tie goes to the earlier class"
    assert scores.confusion == [[1, 0], [1, 0]]


@pytest.mark.parametrize(
    ("shape", "labels", "classes", "words"),
    [
        ((2, 3), [0, 1], 3, "expected \\(videos, views, classes\\)"),
        ((2, 0, 3), [0, 1], 3, "none of them 0"),
        ((2, 1, 3), [0], 3, "got scores of shape \\(2, 3\\) for 1 labels"),
        ((2, 1, 3), [0, 1], 4, "4 classes"),
        ((2, 1, 3), [0, 3], 3, "got labels 0 to 3, expected 0 to 2"),
        ((2, 1, 3), [-1, 0], 3, "got labels -1 to 0"),
        ((2, 1, 1), [0, 0], 1, "at least one label and two classes"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    shape: tuple[int, ...], labels: list[int], classes: int, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        measure(np.zeros(shape, np.float32), np.array(labels), names(classes))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_refused(value: float) -> None:
    logits = np.zeros((3, 2, 4), np.float32)
    logits[1, 1, 2] = value
    with pytest.raises(UsageError, match=r"1 of 6 .* not finite: the weights have diverged"):
        measure(logits, np.zeros(3, np.int64), names(4))
