"""Top-1 and top-5 of clips and of videos, kept apart (paper, sec. 3). Shapes: V videos, K views, C classes.

A video's scores are the mean of its views' softmax. If classes have equal scores, the earlier one ranks first, so the
same scores give the same figures everywhere. With fewer than five classes, top-5 is None, not a top-k with another k.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from resact.errors import UsageError

TOP = 5


@dataclass(frozen=True, kw_only=True)
class ClassScore:
    """Accuracy on one class's videos."""

    class_name: str
    videos: int
    video_top1: float | None
    """Top-1 in [0, 1]; None if the class has no video."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Figures of one evaluation; accuracies are fractions in [0, 1]."""

    videos: int
    views: int | None
    """Clips per video; None if only videos were scored, as in a fusion."""
    video_top1: float
    video_top5: float | None
    """Top-5 of videos; None with fewer than five classes."""
    clip_top1: float | None
    """Top-1 of clips; None if only videos were scored."""
    clip_top5: float | None
    """Top-5 of clips; None if only videos were scored, or with fewer than five classes."""
    mean_class: float
    """Mean of the classes' video top-1: each class with videos has the same weight, however many videos it has."""
    per_class: list[ClassScore]
    """Accuracy per class, in the order of the classes."""
    confusion: list[list[int]]
    """(C, C) number of videos: rows are true classes, columns predicted classes."""


def video_scores(logits_VKC: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """(V, C) probabilities: the softmax, averaged over the views (the paper averages clip scores, sec. 3)."""
    mean: npt.NDArray[np.float64] = torch.from_numpy(logits_VKC).double().softmax(2).mean(1).numpy()
    return mean


def ranking(scores_VC: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.intp]:
    """(V, C) classes from the highest score to the lowest; of equal ones the earlier class first."""
    return np.argsort(-scores_VC, axis=1, kind="stable")


def measure(logits_VKC: npt.NDArray[np.float32], label_V: npt.NDArray[np.int64], classes: Sequence[str]) -> Scores:
    """Clip-level and video-level figures from the logits of each clip.

    Args:
        logits_VKC: finite logits, before the softmax.
        label_V: position of each video's class in `classes`.
        classes: names of the C classes, two or more.

    Raises:
        UsageError: the arrays do not fit together, or a logit is not finite.
    """
    if logits_VKC.ndim != 3 or 0 in logits_VKC.shape:
        raise UsageError(f"got logits of shape {logits_VKC.shape}, expected (videos, views, classes), none of them 0")
    videos, views, num_classes = logits_VKC.shape
    label_N = np.repeat(label_V, views)
    ranks_NC = _checked(logits_VKC.reshape(videos * views, num_classes), label_N, classes)
    clip_top1, clip_top5 = (_accuracy(ranks_NC, label_N, top) for top in (1, TOP))
    return _measured(video_scores(logits_VKC), label_V, classes, views, clip_top1, clip_top5)


def measure_videos(
    scores_VC: npt.NDArray[np.float64], label_V: npt.NDArray[np.int64], classes: Sequence[str]
) -> Scores:
    """Only video-level figures, from the scores of each video, such as those of a fusion.

    Raises:
        UsageError: as in `measure`.
    """
    return _measured(scores_VC, label_V, classes, None, None, None)


def _measured(
    scores_VC: npt.NDArray[np.float64],
    label_V: npt.NDArray[np.int64],
    classes: Sequence[str],
    views: int | None,
    clip_top1: float | None,
    clip_top5: float | None,
) -> Scores:
    ranks_VC = _checked(scores_VC, label_V, classes)
    confusion = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(confusion, (label_V, ranks_VC[:, 0]), 1)
    counts, hits = confusion.sum(1).tolist(), confusion.diagonal().tolist()
    top1 = _accuracy(ranks_VC, label_V, 1)
    assert top1 is not None
    return Scores(
        videos=len(label_V),
        views=views,
        video_top1=top1,
        video_top5=_accuracy(ranks_VC, label_V, TOP),
        clip_top1=clip_top1,
        clip_top5=clip_top5,
        mean_class=float(np.mean([hit / count for hit, count in zip(hits, counts, strict=True) if count])),
        per_class=[
            ClassScore(class_name=name, videos=count, video_top1=hit / count if count else None)
            for name, count, hit in zip(classes, counts, hits, strict=True)
        ],
        confusion=confusion.tolist(),
    )


def _checked(
    scores_NC: npt.NDArray[np.floating[Any]], label_N: npt.NDArray[np.int64], classes: Sequence[str]
) -> npt.NDArray[np.intp]:
    """The `ranking` of scores that are found to be fit for one."""
    num_classes = len(classes)
    if num_classes < 2 or scores_NC.shape != (len(label_N), num_classes) or not len(label_N):
        raise UsageError(
            f"got scores of shape {scores_NC.shape} for {len(label_N)} labels of {num_classes} classes, "
            "expected (labels, classes), at least one label and two classes"
        )
    if label_N.min() < 0 or label_N.max() >= num_classes:
        raise UsageError(f"got labels {label_N.min()} to {label_N.max()}, expected 0 to {num_classes - 1}")
    if not np.isfinite(scores_NC).all():
        bad = int((~np.isfinite(scores_NC).all(1)).sum())
        raise UsageError(
            f"{bad:,} of {len(label_N):,} scored clips or videos have scores that are not finite: "
            "the weights have diverged, train again with a smaller --lr"
        )
    return ranking(scores_NC)


def _accuracy(ranks_NC: npt.NDArray[np.intp], label_N: npt.NDArray[np.int64], top: int) -> float | None:
    """Share whose class is among the `top` highest; None where there are not so many classes."""
    if ranks_NC.shape[1] < top:
        return None
    return float((ranks_NC[:, :top] == label_N[:, None]).any(1).mean())
