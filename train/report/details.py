"""What the page says of single runs and classes: figures of classes, what is taken for what, curves.

Shapes: V videos, C classes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from resact.errors import ResactError
from resact.train.report.paper import PAPER_ROWS, RowKey
from resact.train.runs.files.history import read_metrics
from resact.train.runs.testing.metrics import Scores, measure
from resact.train.runs.testing.predictions import PREDICTIONS, Predictions, read_predictions

if TYPE_CHECKING:
    from resact.train.report.found import FoundRun

RGB = RowKey("p3d-resnet50", "rgb", None, attention=True, feature_residual=True)
RESIDUAL = RGB._replace(modality="residual", step=1)
_NAMED = 5


@dataclass(frozen=True, kw_only=True, eq=False)
class Detail:
    """A run that is done, with its predictions."""

    run: "FoundRun"
    predictions: Predictions
    scores: Scores

    @property
    def classes(self) -> list[str]:
        """Their names, in the order of the labels."""
        names: list[str] = self.predictions.classes.tolist()
        return names

    @property
    def per_class(self) -> list[float | None]:
        """(C,) video top-1 in percent; None where a class has no video."""
        return [None if score.video_top1 is None else 100 * score.video_top1 for score in self.scores.per_class]


def read_details(runs: Sequence["FoundRun"]) -> list[Detail]:
    """Of the runs that are done, by row and seed."""
    order = {key: place for place, key in enumerate(dict.fromkeys(row.key for row in PAPER_ROWS))}
    details = []
    for run in sorted(runs, key=lambda run: (order.get(run.key, len(order)), run.record.config.seed)):
        if run.evaluation is None:
            continue
        predictions = read_predictions(run.folder.path / PREDICTIONS)
        scores = measure(predictions.logits, predictions.label, predictions.classes.tolist())
        details.append(Detail(run=run, predictions=predictions, scores=scores))
    return details


def class_means(details: Sequence[Detail]) -> dict[RowKey, list[float | None]]:
    """Row -> (C,) video top-1 of each class in percent, the mean over its seeds."""
    rows: dict[RowKey, list[Detail]] = {}
    for detail in details:
        rows.setdefault(detail.run.key, []).append(detail)
    return {
        key: [
            None if None in seeds else fmean(value for value in seeds if value is not None)
            for seeds in zip(*(detail.per_class for detail in of_row), strict=True)
        ]
        for key, of_row in rows.items()
    }


def residual_gains(means: Mapping[RowKey, Sequence[float | None]], classes: Sequence[str]) -> list[tuple[str, float]]:
    """Class -> points that the residual at step 1 has over RGB, the largest first; empty where one was not run."""
    if RGB not in means or RESIDUAL not in means:
        return []
    both = zip(classes, means[RESIDUAL], means[RGB], strict=True)
    gains = [(name, residual - rgb) for name, residual, rgb in both if residual is not None and rgb is not None]
    return sorted(gains, key=lambda gain: -gain[1])


def gain_words(gains: Sequence[tuple[str, float]]) -> Iterator[str]:
    """Which classes the residual helps and which it harms."""
    for word, chosen in (
        ("The residual helps", [gain for gain in gains if gain[1] > 0][:_NAMED]),
        ("It harms", [gain for gain in reversed(gains) if gain[1] < 0][:_NAMED]),
    ):
        if chosen:
            named = ", ".join(f"{name} ({points:+.1f} points)" for name, points in chosen)
            yield f"{word} most: {named}."


def confusion_words(scores: Scores) -> Iterator[str]:
    """The worst confusions, by how many videos."""
    names = [score.class_name for score in scores.per_class]
    wrong = [
        (count, names[row], names[column], sum(counts))
        for row, counts in enumerate(scores.confusion)
        for column, count in enumerate(counts)
        if count and row != column
    ]
    for count, true, said, total in sorted(wrong, key=lambda entry: (-entry[0], entry[1:]))[:_NAMED]:
        yield f"{true} is taken for {said} in {count} of {total} videos."


def epochs_of(run: "FoundRun") -> list[dict[str, Any]]:
    """The history's lines of whole epochs; empty where it cannot be read, which `find_runs` has said."""
    try:
        return [line for line in read_metrics(run.folder.metrics) if line["kind"] == "epoch"]
    except (ResactError, OSError):
        return []
