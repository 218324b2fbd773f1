"""The report as one offline page: tables, curves, costs, confusions, correct and wrong videos."""

from collections.abc import Sequence
from typing import Any

from resact.train.report.charts import interval_bar
from resact.train.report.grids import Grid, one_line
from resact.train.report.parts import LEGEND, asked_chapters, chapters, report_title
from resact.train.report.report import Report, Section
from resact.train.report.side_by_side import DataSet, Entry
from resact.train.report.template import render


def html(report: Report) -> str:
    """The page. Text from runs and stores is escaped, and only the page's own script can run."""
    return render(
        "report.html.jinja",
        title=report_title(report),
        has_tables=report.has_tables,
        legend=LEGEND,
        notes=[one_line(note) for note in report.notes],
        chapters=[*asked_chapters(report), *chapters(report)],
        asked_chart=_asked_chart(report),
        more={section.data_set: _more(section, section.data_set) for section in report.sections if section.data_set},
        runs=one_line(str(report.runs)),
    )


def _asked_chart(report: Report) -> Any:
    if report.comparison is None:
        return None
    from resact.train.report.pictures import gains_chart

    first, second = one_line(report.comparison.first), one_line(report.comparison.second)
    return gains_chart(f"{first} minus {second}, points of top-1", report.comparison.classes)


def _more(section: Section, data_set: DataSet) -> dict[str, Any]:
    """A data set's charts, classes, confusions and pictures. Loads torch, and reads the store."""
    from resact.train.report.details import read_detail
    from resact.train.report.gallery import gallery
    from resact.train.report.pictures import confusion, cost_chart, curve_charts, step_chart

    with_paper = bool(section.tables)
    done = [entry for entry in data_set.entries if entry.done]
    details = [read_detail(entry.done[0]) for entry in done]
    steps = [chart for group in section.groups for chart in step_chart(group, with_paper=with_paper)]
    known = [entry.accuracy for entry in data_set.entries]
    return {
        "bars": ["" if one is None else interval_bar(one.mean, one.low, one.high) for one in known],
        "charts": [*cost_chart(data_set, with_paper=with_paper), *steps, *curve_charts(data_set)],
        "classes": _classes(done) if done else None,
        "confusions": [confusion(entry, detail) for entry, detail in zip(done, details, strict=True)],
        "gallery": gallery(details),
    }


def _classes(done: Sequence[Entry]) -> dict[str, Any]:
    from resact.train.report.details import gain_words, residual_gains, worst_classes_line
    from resact.train.report.pictures import gains_chart

    gains = residual_gains(done)
    gain_of = {name: f"{points:+.1f}" for name, points in gains}
    names = [one_line(entry.name) for entry in done]
    rows = []
    for scores in zip(*(entry.per_class for entry in done), strict=True):
        name, videos, _ = scores[0]
        top1 = ["-" if score.top1 is None else f"{score.top1:.1f}" for score in scores]
        rows.append([one_line(name), f"{videos:,}", *top1, *([gain_of.get(name, "-")] if gains else [])])
    worst = zip(names, map(worst_classes_line, done), strict=True)
    return {
        "grid": Grid(
            caption="Video top-1 of each class, in percent; means over seeds",
            headings=["class", "videos", *names, *(["residual minus RGB"] if gains else [])],
            rows=rows,
        ),
        "words": [*(f"{name}: {line}" for name, line in worst if line), *map(one_line, gain_words(gains))],
        "chart": gains_chart("Residual at step 1 minus RGB, points of top-1", gains) if gains else None,
    }
