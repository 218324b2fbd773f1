"""The report as one offline page: tables, curves, costs, confusions, correct and wrong videos."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from resact.cache.layout import printable
from resact.train.report.cells import (
    COMPARISON_HEADINGS,
    DIFFERENCE_HEADINGS,
    LEGEND,
    ROW_HEADINGS,
    RUN_HEADINGS,
    SPEED_HEADINGS,
    broken_lines,
    comparison_cells,
    comparison_lines,
    difference_cells,
    entry_cells,
    hint_lines,
    one_line,
    remark_lines,
    report_title,
    row_cells,
    state_lines,
    worst_classes_line,
)
from resact.train.report.charts import interval_bar
from resact.train.report.report import GroupTables, Report, Section
from resact.train.report.side_by_side import DataSet, Entry
from resact.train.report.template import Cell, cells_of, render

_INTERVAL = RUN_HEADINGS.index("95 % interval")


def html(report: Report) -> str:
    """The page. Text from runs and stores is escaped, and only the page's own script can run."""
    return render(
        "page.html.jinja",
        title=report_title(report),
        has_tables=report.has_tables,
        legend=LEGEND,
        notes=[one_line(note) for note in report.notes],
        comparison=_comparison(report),
        sections=[_section(section, report, number) for number, section in enumerate(report.sections, start=1)],
        row_headings=ROW_HEADINGS,
        difference_headings=DIFFERENCE_HEADINGS,
        comparison_headings=COMPARISON_HEADINGS,
        broken=broken_lines(report),
        runs=one_line(str(report.runs)),
    )


def _comparison(report: Report) -> dict[str, Any] | None:
    asked = report.comparison
    if asked is None:
        return None
    from resact.train.report.pictures import gains_chart

    title = f"{one_line(asked.first)} minus {one_line(asked.second)}, points of top-1"
    return {
        "rows": [cells_of(comparison_cells(asked))],
        "lines": list(comparison_lines(asked)),
        "chart": gains_chart(title, asked.classes),
    }


def _section(section: Section, report: Report, number: int) -> dict[str, Any]:
    groups = [_group(section, group) for group in section.tables]
    return {
        "anchor": f"data-set-{number}",
        "heading": one_line(section.heading),
        "words": groups[0]["words"] if section.data_set is None else one_line(section.data_set.settings),
        "begins_with_tables": section.begins_with_tables,
        "groups": groups,
        "runs": None if section.data_set is None else _runs(section, section.data_set, report),
    }


def _runs(section: Section, data_set: DataSet, report: Report) -> dict[str, Any]:
    """The runs side by side, with their charts, classes, confusions and pictures. Loads torch, and reads the store."""
    from resact.train.report.details import read_detail
    from resact.train.report.gallery import gallery
    from resact.train.report.pictures import confusion, cost_chart, curve_charts, step_chart

    entries, with_paper = data_set.entries, bool(section.tables)
    done = [entry for entry in entries if entry.done]
    details = [read_detail(entry.done[0]) for entry in done]
    steps = [chart for group in section.groups for chart in step_chart(group, with_paper=with_paper)]
    apart = any(entry.apart for entry in entries)
    return {
        "videos": data_set.videos,
        "settings": one_line(data_set.settings),
        "notes": [one_line(note) for note in data_set.notes],
        "headings": (*RUN_HEADINGS, *SPEED_HEADINGS, *(["settings"] if apart else [])),
        "texts": (0, 1, 2, len(RUN_HEADINGS) + len(SPEED_HEADINGS)),
        "rows": [_entry(entry, apart) for entry in entries],
        "comparisons": [cells_of(comparison_cells(comparison)) for comparison in data_set.comparisons],
        "lines": [*state_lines(data_set), *hint_lines(section, report.runs)],
        "charts": [*cost_chart(data_set, with_paper=with_paper), *steps, *curve_charts(data_set)],
        "classes": _classes(done) if done else None,
        "confusions": [confusion(entry, detail) for entry, detail in zip(done, details, strict=True)],
        "gallery": gallery(details),
    }


def _entry(entry: Entry, apart: bool) -> list[Cell]:
    cells, interval = cells_of(entry_cells(entry, settings=apart)), entry.accuracy
    if interval is not None:
        cells[_INTERVAL] = replace(cells[_INTERVAL], svg=interval_bar(interval.mean, interval.low, interval.high))
    return cells


def _group(section: Section, group: GroupTables) -> dict[str, Any]:
    filling = group.filling
    return {
        "words": one_line(group.words),
        "remarks": remark_lines(section, group),
        "tables": [
            {
                "number": table.number,
                "title": f"{table.title[0].upper()}{table.title[1:]}; {one_line(group.group.heading)}",
                "rows": [cells_of(row_cells(row)) for row in table.rows],
                "differences": [cells_of(difference_cells(difference)) for difference in table.differences],
            }
            for table in group.tables
        ],
        "commands": {label: printable(command) for label, command in group.commands.items()},
        "evaluate": printable(filling.evaluate_command),
        "reproduce": printable(filling.reproduce_command),
        "is_empty": group.is_empty,
    }


def _classes(done: Sequence[Entry]) -> dict[str, Any]:
    from resact.train.report.details import gain_words, residual_gains
    from resact.train.report.pictures import gains_chart

    gains = residual_gains(done)
    gain_of = dict(gains)
    rows = []
    for scores in zip(*(entry.per_class for entry in done), strict=True):
        name, videos, _ = scores[0]
        top1 = ["-" if score.top1 is None else f"{score.top1:.1f}" for score in scores]
        cells = [one_line(name), f"{videos:,}", *top1]
        if gains:
            cells.append(f"{gain_of[name]:+.1f}" if name in gain_of else "-")
        rows.append(cells_of(cells))
    names = [one_line(entry.name) for entry in done]
    worst = zip(names, map(worst_classes_line, done), strict=True)
    return {
        "headings": ["class", "videos", *names, *(["residual minus RGB"] if gains else [])],
        "rows": rows,
        "words": [*(f"{name}: {line}" for name, line in worst if line), *map(one_line, gain_words(gains))],
        "chart": gains_chart("Residual at step 1 minus RGB, points of top-1", gains) if gains else None,
    }
