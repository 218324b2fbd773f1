"""The report as one page that needs no network: tables, curves, costs, confusions, and videos right and wrong."""

import base64
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib import resources
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from resact.cache.layout import printable
from resact.train.report.cells import (
    DIFFERENCE_HEADINGS,
    LEGEND,
    OTHER_HEADINGS,
    ROW_HEADINGS,
    broken_lines,
    difference_cells,
    one_line,
    other_cells,
    other_line,
    row_cells,
    state_lines,
)
from resact.train.report.charts import COLOURS, Series, bars, confusion_matrix, curves, scatter
from resact.train.report.commands import SETTINGS_FILE
from resact.train.report.paper import PAPER_ROWS, RowKey
from resact.train.report.report import GroupTables, Report, TableRow

if TYPE_CHECKING:
    from resact.train.report.details import Detail

_VERDICTS = {"confirmed": "✓", "refuted": "✗", "unresolved": "?"}
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?")
_SHOWN_GAINS = 8  # classes at either end


@dataclass(frozen=True)
class Cell:
    """Of a table."""

    text: str
    value: float | None
    """To sort by; None of what is no number."""
    mark: str = ""
    """A sign that says the same as the colour."""


@dataclass(frozen=True)
class Chart:
    """A picture and what it shows."""

    svg: Markup
    caption: str
    legend: Sequence[Series] = ()
    """Lines to name below it."""


def html(report: Report) -> str:
    """All of it. Whatever comes from runs and stores is escaped, and no script but the page's own runs."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    page = Environment(
        loader=PackageLoader("resact.train.report", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    css, js = _resource("page.css"), _resource("page.js")
    return page.get_template("page.html.jinja").render(
        css=Markup(css),  # noqa: S704 - our own file
        css_hash=_hash(css),
        js=Markup(js),  # noqa: S704 - our own file
        js_hash=_hash(js),
        legend=LEGEND,
        notes=[one_line(note) for note in report.notes],
        groups=[_group(group, number) for number, group in enumerate(report.groups, start=1)],
        row_headings=ROW_HEADINGS,
        difference_headings=DIFFERENCE_HEADINGS,
        other_headings=OTHER_HEADINGS,
        other_rows=[_cells(other_cells(other)) for other in report.other_runs],
        other_words=[other_line(other) for other in report.other_runs],
        broken=broken_lines(report),
        settings_name=SETTINGS_FILE,
        runs=one_line(str(report.runs)),
    )


def _group(group: GroupTables, number: int) -> dict[str, Any]:
    filling = group.filling
    told: dict[str, Any] = {"charts": [], "classes": None, "confusions": [], "gallery": None}
    if not group.is_empty:
        told |= _pictures(group)
    return told | {
        "anchor": f"group-{number}",
        "heading": one_line(group.group.heading),
        "words": one_line(group.words),
        "notes": group.notes,
        "states": list(state_lines(group)),
        "tables": [
            {
                "number": table.number,
                "title": f"{table.title[0].upper()}{table.title[1:]}; {one_line(group.group.heading)}",
                "rows": [_cells(row_cells(row)) for row in table.rows],
                "differences": [_cells(difference_cells(difference)) for difference in table.differences],
            }
            for table in group.tables
        ],
        "commands": {label: printable(command) for label, command in group.commands.items()},
        "evaluate": printable(filling.evaluate_command),
        "reproduce": printable(filling.reproduce_command),
        "settings_file": printable(filling.file_text),
        "is_empty": group.is_empty,
    }


def _pictures(group: GroupTables) -> dict[str, Any]:
    """Where there are runs; brings torch and the store."""
    from resact.train.report.details import confusion_words, read_details
    from resact.train.report.gallery import gallery

    details = read_details(group.runs)
    first_seeds = list({detail.run.key: detail for detail in reversed(details)}.values())[::-1]
    return {
        "charts": [*_cost_chart(group), *_step_chart(group), *_curves(group)],
        "classes": _classes(details) if details else None,
        "confusions": [
            {
                "run": one_line(detail.run.path),
                "label": detail.run.key.label,
                "top1": f"{100 * detail.scores.video_top1:.1f}",
                "words": [printable(words) for words in confusion_words(detail.scores)],
                "svg": confusion_matrix(
                    f"Confusion matrix of {one_line(detail.run.path)}", _names(detail), detail.scores.confusion
                ),
            }
            for detail in first_seeds
        ],
        "gallery": gallery(details),
    }


def _rows(group: GroupTables) -> dict[RowKey, TableRow]:
    """Those with figures; a row of two tables once."""
    rows = [row for table in group.tables for row in table.rows if row.ours is not None]
    return {row.paper.key: row for row in rows}


def _cost_chart(group: GroupTables) -> Iterator[Chart]:
    ours = [
        Series(label=key.label, xs=[row.ours.g], ys=[row.ours.top1], spreads=[row.ours.top1_spread], colour=0)
        for key, row in _rows(group).items()
        if row.ours is not None
    ]
    if not ours:
        return
    published = {row.key: row for row in PAPER_ROWS if row.variant.paper_g is not None}
    paper = [
        Series(label=f"paper: {key.label}", xs=[row.variant.paper_g or 0], ys=[row.top1], colour=1, paper=True)
        for key, row in published.items()
    ]
    caption = (
        "Accuracy against cost. Circles: ours, of this group's videos and sizes. Diamonds: the paper's, of its own."
    )
    svg = scatter("Accuracy against cost", "G multiply-adds a clip", "top-1, %", [*ours, *paper], logarithmic=True)
    yield Chart(
        svg,
        caption,
    )


def _step_chart(group: GroupTables) -> Iterator[Chart]:
    rows = [row for table in group.tables if table.number == 3 for row in table.rows]
    done = [row for row in rows if row.ours is not None]
    if len(done) < 2:
        return

    def of(row: TableRow) -> int:
        return row.paper.key.step or 0

    ours = Series(
        label="ours",
        xs=[of(row) for row in done],
        ys=[None if row.ours is None else row.ours.top1 for row in done],
        spreads=[None if row.ours is None else row.ours.top1_spread for row in done],
    )
    paper = Series(
        label="paper",
        xs=[of(row) for row in rows],
        ys=[row.paper.top1 for row in rows],
        colour=1,
        paper=True,
        dashed=True,
    )
    svg = scatter("Accuracy against step", "step, frames", "top-1, %", [ours, paper], joined=True)
    yield Chart(
        svg, "The step of the residual (table 3). Bars: standard deviation over seeds, where there are several."
    )


def _curves(group: GroupTables) -> Iterator[Chart]:
    from resact.train.report.details import epochs_of

    keys = list(dict.fromkeys(run.key for run in group.runs))
    seeds = {key: sorted(run.record.config.seed for run in group.runs if run.key == key) for key in keys}
    histories = [(run, epochs_of(run)) for run in group.runs]
    drawn = {
        "loss": ("Training loss", "loss", 1, ["loss"]),
        "accuracy": ("Top-1 of clips in training, and of held-out videos", "top-1, %", 100, ["top1", "val_video_top1"]),
    }
    for title, y_name, scale, names in drawn.values():
        series = []
        for run, lines in histories:
            label = run.key.label if len(seeds[run.key]) == 1 else f"{run.key.label}, seed {run.record.config.seed}"
            for name in names:
                known = [(line["epoch"] + 1, line[name]) for line in lines if line.get(name) is not None]
                if known:
                    series.append(
                        Series(
                            label=f"{label}, held out" if name.startswith("val") else label,
                            xs=[epoch for epoch, _ in known],
                            ys=[round(scale * value, 3) for _, value in known],
                            colour=keys.index(run.key) % COLOURS,
                            dashed=name.startswith("val"),
                        )
                    )
        if series:
            caption = f"{title}. Dashed: held out. Point at a place to read it off."
            yield Chart(curves(title, "epoch", y_name, series), caption, series)


def _classes(details: Sequence["Detail"]) -> dict[str, Any]:
    from resact.train.report.details import class_means, gain_words, residual_gains

    names, means = _names(details[0]), class_means(details)
    gains = residual_gains(means, names)
    gain_of = dict(gains)
    rows = []
    for place, (name, score) in enumerate(zip(names, details[0].scores.per_class, strict=True)):
        cells = [name, str(score.videos), *(_percent(values[place]) for values in means.values())]
        if gains:
            cells.append(f"{gain_of[name]:+.1f}" if name in gain_of else "-")
        rows.append(_cells(cells))
    ends = gains if len(gains) <= 2 * _SHOWN_GAINS else gains[:_SHOWN_GAINS] + gains[-_SHOWN_GAINS:]
    title = "Residual at step 1 less RGB, points of top-1"
    chart = Chart(bars(title, ends, "points"), f"{title}, by class.") if gains else None
    return {
        "headings": ["class", "videos", *(key.label for key in means), *(["residual less RGB"] if gains else [])],
        "rows": rows,
        "words": list(gain_words(gains)),
        "chart": chart,
    }


def _names(detail: "Detail") -> list[str]:
    return [one_line(name) for name in detail.classes]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _cells(texts: Iterable[str]) -> list[Cell]:
    cells = []
    for text in texts:
        match = _NUMBER.match(text)
        cells.append(Cell(text, float(match[0]) if match else None, _VERDICTS.get(text, "")))
    return cells


def _resource(name: str) -> str:
    return resources.files("resact.train.report").joinpath("page", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """As a content security policy names what may be used inline."""
    return f"sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}"
