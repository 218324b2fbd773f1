"""The page's pictures of runs: costs, steps, curves, classes, confusions."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from markupsafe import Markup

from resact.train.report.charts import COLOURS, MOST_NAMED, Series, bars, confusion_matrix, curves, scatter
from resact.train.report.details import Detail, confusion_words, epochs_of, mistake_words
from resact.train.report.grids import one_line
from resact.train.report.paper import PAPER_ROWS
from resact.train.report.report import GroupTables, TableRow
from resact.train.report.side_by_side import DataSet, Entry

_SHOWN_GAINS = 8  # classes at either end


@dataclass(frozen=True)
class Chart:
    """A chart with its caption."""

    draw: Callable[[int], Markup]
    """Draws it at a width in pixels."""
    caption: str
    legend: Sequence[Series] = ()
    """Lines to name in the legend below it."""
    has_text: bool = True
    """If not, one version fits a screen and a phone."""


@dataclass(frozen=True)
class Confusion:
    """The confusion matrix of one run."""

    title: str
    words: Sequence[str]
    mistakes: Sequence[str]
    chart: Chart


def cost_chart(data_set: DataSet, *, with_paper: bool) -> Iterator[Chart]:
    """Accuracy against cost, if there are two entries or the paper's figures to compare."""
    done = [(entry, entry.figures) for entry in data_set.entries if entry.figures is not None]
    if not done or (len(done) < 2 and not with_paper):
        return
    series = [
        Series(label=one_line(entry.name), xs=[figures.g], ys=[figures.top1], spreads=[figures.top1_spread])
        for entry, figures in done
    ]
    caption = "Accuracy against cost. Bars: standard deviation over seeds, if there are several."
    if with_paper:
        published = {row.key: row for row in PAPER_ROWS if row.variant.paper_g is not None}
        series += [
            Series(label=f"paper: {key.label}", xs=[row.variant.paper_g or 0], ys=[row.top1], colour=1, paper=True)
            for key, row in published.items()
        ]
        caption += " Circles: ours, of these videos and sizes. Diamonds: the paper's, of its own."
    title, x_name = "Accuracy against cost", "G multiply-adds per clip"
    yield Chart(partial(scatter, title, x_name, "top-1, %", series, logarithmic=True), caption)


def step_chart(group: GroupTables, *, with_paper: bool) -> Iterator[Chart]:
    """Accuracy against the residual step, if there are two or more steps."""
    rows = [row for table in group.tables if table.number == 3 for row in table.rows]
    done = [row for row in rows if row.ours is not None]
    if len(done) < 2:
        return

    def of(row: TableRow) -> int:
        return row.paper.key.step or 0

    series = [
        Series(
            label="ours" if with_paper else "",
            xs=[of(row) for row in done],
            ys=[None if row.ours is None else row.ours.top1 for row in done],
            spreads=[None if row.ours is None else row.ours.top1_spread for row in done],
        )
    ]
    if with_paper:
        xs, ys = [of(row) for row in rows], [row.paper.top1 for row in rows]
        series.append(Series(label="paper", xs=xs, ys=ys, colour=1, paper=True, dashed=True))
    caption = "Residual step. Bars: standard deviation over seeds, if there are several."
    yield Chart(partial(scatter, "Accuracy against step", "step, frames", "top-1, %", series, joined=True), caption)


def curve_charts(data_set: DataSet) -> Iterator[Chart]:
    """Training loss, training accuracy and accuracy on held-out videos, for every run."""
    histories = [
        (one_line(run.folder.name), place % COLOURS, epochs_of(run))
        for place, entry in enumerate(data_set.entries)
        for run in entry.runs
    ]
    for title, y_name, scale, names in (
        ("Training loss", "loss", 1, ["loss"]),
        ("Top-1 of clips in training, and of held-out videos", "top-1, %", 100, ["top1", "val_video_top1"]),
    ):
        series = [
            Series(
                label=f"{label}, held out" if name.startswith("val") else label,
                xs=[epoch for epoch, _ in known],
                ys=[round(scale * value, 3) for _, value in known],
                colour=colour,
                dashed=name.startswith("val"),
            )
            for label, colour, lines in histories
            for name in names
            if (known := [(line["epoch"] + 1, line[name]) for line in lines if line.get(name) is not None])
        ]
        if series:
            held_out = " Dashed: held out." if any(line.dashed for line in series) else ""
            caption = f"{title}.{held_out} Point at the chart to read values, or at a name to see its line alone."
            yield Chart(partial(curves, title, "epoch", y_name, series), caption, series)


def gains_chart(title: str, gains: Sequence[tuple[str, float]]) -> Chart:
    """The classes with the largest gains and losses, the largest first."""
    named = [(one_line(name), points) for name, points in gains]
    ends = named if len(named) <= 2 * _SHOWN_GAINS else named[:_SHOWN_GAINS] + named[-_SHOWN_GAINS:]
    return Chart(partial(bars, title, ends, "points"), f"{title}, by class.")


def confusion(entry: Entry, detail: Detail) -> Confusion:
    """The confusion matrix of an entry's first seed."""
    name, names = one_line(detail.run.folder.name), [one_line(name) for name in detail.classes]
    return Confusion(
        title=f"{name}: {entry.key.label}, {100 * detail.scores.video_top1:.1f} %",
        words=[one_line(words) for words in confusion_words(detail.scores)],
        mistakes=[one_line(words) for words in mistake_words(detail)],
        chart=Chart(
            partial(confusion_matrix, f"Confusion matrix of {name}", names, detail.scores.confusion),
            "Each row is a true class, each column a predicted class. The stronger a cell's colour, the larger its "
            "share of the row's videos.",
            has_text=len(names) <= MOST_NAMED,
        ),
    )
