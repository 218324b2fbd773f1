"""Details of single runs and classes: confusions, most confident mistakes, learning curves.

Shapes: V videos, C classes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from resact.errors import ResactError
from resact.train.report.grids import one_line
from resact.train.report.paper import RowKey
from resact.train.report.side_by_side import DataSet, Entry
from resact.train.runs.files.history import read_metrics
from resact.train.runs.testing.metrics import Scores, measure, ranking
from resact.train.runs.testing.predictions import PREDICTIONS, Predictions, read_predictions

if TYPE_CHECKING:
    from resact.train.report.read_runs import ReadRun

RGB = RowKey("p3d-resnet50", "rgb", None, attention=True, feature_residual=True)
RESIDUAL = RGB._replace(modality="residual", step=1)
MOST_DESCRIBED = 6
"""Most entries that text formats describe; the page has all of them."""
_NAMED, _NAMED_IN_TEXT = 5, 3


@dataclass(frozen=True, kw_only=True, eq=False)
class Detail:
    """A finished run with its predictions."""

    run: "ReadRun"
    predictions: Predictions
    scores: Scores

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of the labels."""
        names: list[str] = self.predictions.classes.tolist()
        return names


def read_detail(run: "ReadRun") -> Detail:
    """The details of a finished run."""
    predictions = read_predictions(run.folder.path / PREDICTIONS)
    scores = measure(predictions.logits, predictions.label, predictions.classes.tolist())
    return Detail(run=run, predictions=predictions, scores=scores)


def residual_gains(entries: Sequence[Entry]) -> list[tuple[str, float]]:
    """Class -> points of the residual at step 1 over RGB, the largest first; empty if one was not run."""
    by_key = {entry.key: entry for entry in reversed(entries) if entry.done}
    if RGB not in by_key or RESIDUAL not in by_key:
        return []
    both = zip(by_key[RESIDUAL].per_class, by_key[RGB].per_class, strict=True)
    gains = [
        (residual.class_name, residual.top1 - rgb.top1)
        for residual, rgb in both
        if residual.top1 is not None and rgb.top1 is not None
    ]
    return sorted(gains, key=lambda gain: -gain[1])


def gain_words(gains: Sequence[tuple[str, float]]) -> Iterator[str]:
    """The classes that the residual helps and hurts, in words."""
    for word, chosen in (
        ("The residual helps", [gain for gain in gains if gain[1] > 0][:_NAMED]),
        ("It harms", [gain for gain in reversed(gains) if gain[1] < 0][:_NAMED]),
    ):
        if chosen:
            named = ", ".join(f"{name} ({points:+.1f} points)" for name, points in chosen)
            yield f"{word} most: {named}."


def worst_classes_line(entry: Entry) -> str | None:
    """Its worst classes; None if it is not tested, or all its videos are correct."""
    known = [(score.top1, place, score) for place, score in enumerate(entry.per_class) if score.top1 is not None]
    worst = [score for top1, _, score in sorted(known)[:_NAMED] if top1 < 100]
    if not worst:
        return None
    named = ", ".join(f"{one_line(score.class_name)} {score.top1:.1f} % of {score.videos:,}" for score in worst)
    return f"worst classes: {named}"


def confusion_words(scores: Scores) -> Iterator[str]:
    """The most frequent confusions, in words."""
    names = [score.class_name for score in scores.per_class]
    wrong = [
        (count, names[row], names[column], sum(counts))
        for row, counts in enumerate(scores.confusion)
        for column, count in enumerate(counts)
        if count and row != column
    ]
    for count, true, said, total in sorted(wrong, key=lambda entry: (-entry[0], entry[1:]))[:_NAMED]:
        yield f"{true} is classified as {said} in {count} of {total} videos."


def mistake_words(detail: Detail) -> list[str]:
    """A run's most confident mistakes, in words."""
    scores_VC = detail.predictions.scores
    said_V, label_V = ranking(scores_VC)[:, 0], detail.predictions.label
    wrong = np.flatnonzero(said_V != label_V)
    surest = wrong[np.argsort(-scores_VC[wrong, said_V[wrong]], kind="stable")][:_NAMED]
    return [
        f"{detail.predictions.video_id[video]} ({detail.classes[label_V[video]]} classified as "
        f"{detail.classes[said_V[video]]}, {100 * scores_VC[video, said_V[video]]:.0f} %)"
        for video in surest
    ]


def described(data_set: DataSet) -> Iterator[tuple[str, list[str]]]:
    """Each tested entry's name and worst classes, and the confusions and most confident mistakes of its first seed."""
    done = [entry for entry in data_set.entries if entry.done]
    for entry in done[:MOST_DESCRIBED]:
        detail = read_detail(entry.done[0])
        confusions, mistakes = list(confusion_words(detail.scores)), mistake_words(detail)
        lines = [
            worst_classes_line(entry) or "all test videos are correct",
            " ".join(confusions[:_NAMED_IN_TEXT]),
            f"most confident mistakes: {', '.join(mistakes[:_NAMED_IN_TEXT])}" if mistakes else "",
        ]
        yield one_line(entry.name), [one_line(line) for line in lines if line]
    if len(done) > MOST_DESCRIBED:
        yield f"{len(done) - MOST_DESCRIBED} more", ["`resact report -o report.html` describes them too"]


def epochs_of(run: "ReadRun") -> list[dict[str, Any]]:
    """The history's lines for complete epochs; empty if it cannot be read, which `read_runs` reports."""
    try:
        return [line for line in read_metrics(run.folder.metrics) if line["kind"] == "epoch"]
    except (ResactError, OSError):
        return []
