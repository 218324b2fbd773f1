"""The text of a report's cells and lines, for the formats that people read."""

import shlex
from collections.abc import Iterator
from pathlib import Path

from resact.cache.layout import printable
from resact.cache.names import as_option
from resact.train.report.bootstrap import Interval
from resact.train.report.commands import runs_option
from resact.train.report.figures import Figures
from resact.train.report.paired import Comparison
from resact.train.report.paper import DATASET
from resact.train.report.report import Difference, GroupTables, Report, Section, TableRow
from resact.train.report.side_by_side import MOST_PAIRED, DataSet, Entry

RUN_HEADINGS = ("run", "network", "input", "top-1", "95 % interval", "mean class", "top-5", "G", "M par.", "ep.")
"""Followed, if there is room, by `SPEED_HEADINGS`, and by `settings` if they differ."""
SPEED_HEADINGS = ("clips /s", "pad. %")
COMPARISON_HEADINGS = (
    "first", "second", "points", "95 % interval", "p", "only 1st right", "only 2nd right", "first is",
)  # fmt: skip
ROW_HEADINGS = (
    "row", "top-1 paper", "top-5 paper", "G paper", "top-1 ours", "top-5 ours", "G ours", "M par.", "ep.",
    *SPEED_HEADINGS,
)  # fmt: skip
DIFFERENCE_HEADINGS = ("claim of the paper", "paper", "ours", "95 % interval", "verdict")

LEGEND = (
    "top-1, top-5: percent of test videos, 10 clips each, last epoch's weights; mean ± standard deviation over seeds. "
    "95 % interval: for top-1 or for a difference in points, by groups of test videos; it covers the choice of test "
    "videos, not the randomness of training. "
    "mean class: mean of the classes' top-1. G: 10^9 multiply-adds per clip. M par.: million parameters. ep.: epochs. "
    "pad.: training clips that are longer than their video. p: from a paired test of two runs on the same videos."
)

_NAMED = 5  # classes, confusions or videos in words


def report_title(report: Report) -> str:
    """The report's title."""
    if report.has_tables:
        return "Residual frames: the paper's tables, and ours"
    data_sets = dict.fromkeys(section.data_set.name for section in report.sections if section.data_set is not None)
    return f"Runs on {', '.join(map(one_line, data_sets))}"


def row_cells(row: TableRow) -> tuple[str, ...]:
    """A table row's cells under `ROW_HEADINGS`."""
    paper, paper_g = row.paper, row.paper.variant.paper_g
    published = f"{paper.top1:.1f}", f"{paper.top5:.1f}", "-" if paper_g is None else str(paper_g)
    state = row.runs[0].state if row.runs else "not run"
    return paper.key.label, *published, *_figure_cells(row.ours, state)


def entry_cells(entry: Entry, *, settings: bool = False) -> tuple[str, ...]:
    """An entry's cells under `RUN_HEADINGS`, `SPEED_HEADINGS` and, if asked for, `settings`."""
    figures, interval, key, cost = entry.figures, entry.accuracy, entry.key, entry.runs[0].cost
    top1, top5, g, parameters, epochs, *speed = _figure_cells(figures, entry.state)
    if figures is None:
        g, parameters = _giga(cost.multiply_adds), f"{cost.parameters / 1e6:.2f}"
        epochs = f"{entry.runs[0].epoch}"
    limits = "-" if interval is None or interval.low is None else f"{interval.low:.1f}-{interval.high:.1f}"
    mean_class = "-" if entry.mean_class is None else f"{entry.mean_class:.1f}"
    apart = (one_line(entry.apart) or "-",) if settings else ()
    names = one_line(entry.name), key.network_label, key.input_label
    return *names, top1, limits, mean_class, top5, g, parameters, epochs, *speed, *apart


def comparison_cells(comparison: Comparison) -> tuple[str, ...]:
    """A comparison's cells under `COMPARISON_HEADINGS`."""
    return (
        one_line(comparison.first),
        one_line(comparison.second),
        *_points(comparison.interval),
        "< 0.001" if comparison.p < 0.001 else f"{comparison.p:.3f}",
        f"{len(comparison.only_first):,}",
        f"{len(comparison.only_second):,}",
        comparison.verdict,
    )


def _points(interval: Interval | None) -> tuple[str, str]:
    """A difference and its limits."""
    if interval is None:
        return "-", "-"
    limits = "-" if interval.low is None else f"{interval.low:+.1f} to {interval.high:+.1f}"
    return f"{interval.mean:+.1f}", limits


def comparison_lines(comparison: Comparison) -> Iterator[str]:
    """Lines on the classes and videos that make the difference."""
    first, second = one_line(comparison.first), one_line(comparison.second)
    classes = comparison.classes
    for name, gained in (
        (first, [entry for entry in classes if entry[1] > 0]),
        (second, [(label, -points) for label, points in reversed(classes) if points < 0]),
    ):
        if gained:
            named = ", ".join(f"{one_line(label)} (+{points:.1f} points)" for label, points in gained[:_NAMED])
            yield f"{name} is better at: {named}{_more(len(gained), 'class', 'classes')}."
    for name, videos in ((first, comparison.only_first), (second, comparison.only_second)):
        if videos:
            named = ", ".join(map(one_line, videos[:_NAMED]))
            yield f"only {name} is correct on: {named}{_more(len(videos), 'video', 'videos')}."


def _more(count: int, one: str, several: str) -> str:
    more = count - _NAMED
    return f" and {more:,} more {one if more == 1 else several}" if more > 0 else ""


def worst_classes_line(entry: Entry) -> str | None:
    """Its worst classes; None if it is not tested, or all its videos are correct."""
    known = [(score.top1, place, score) for place, score in enumerate(entry.per_class) if score.top1 is not None]
    worst = [score for top1, _, score in sorted(known)[:_NAMED] if top1 < 100]
    if not worst:
        return None
    named = ", ".join(f"{one_line(score.class_name)} {score.top1:.1f} % of {score.videos:,}" for score in worst)
    return f"worst classes: {named}"


def hint_lines(section: Section, runs: Path) -> list[str]:
    """Lines on what else can be compared, and on runs outside the paper's tables."""
    hints = None if section.data_set is None else _pair_hint(section.data_set, runs), _other_runs_line(section)
    return [hint for hint in hints if hint is not None]


def _pair_hint(data_set: DataSet, runs: Path) -> str | None:
    """How to compare two of many runs; None if all pairs are compared."""
    done = [entry for entry in data_set.entries if entry.done]
    if len(done) <= MOST_PAIRED:
        return None
    names = [",".join(as_option(run.folder.name) for run in entry.done) for entry in done[:2]]
    command = shlex.join(["resact", "report", *runs_option(runs), "--compare", *names])
    return f"`{printable(command)}` tests the difference of two."


def _other_runs_line(section: Section) -> str | None:
    """The runs on the paper's data set that fill no row of its tables."""
    if section.data_set is None or section.data_set.name != DATASET:
        return None
    filling = {run.path for group in section.groups for run in group.runs}
    others = [
        one_line(run.folder.name + ("" if (initial := run.group.initial) is None else f" (fine-tuned from {initial})"))
        for run in section.data_set.runs
        if run.path not in filling
    ]
    return f"other runs, which fill no row of the paper: {', '.join(others)}" if others else None


def _figure_cells(ours: Figures | None, state: str) -> tuple[str, ...]:
    if ours is None:
        return state, *["-"] * 6
    rate = ours.clips_per_second
    return (
        _mean(ours.top1, ours.top1_spread),
        "-" if ours.top5 is None else _mean(ours.top5, ours.top5_spread),
        _giga(ours.multiply_adds),
        f"{ours.parameters / 1e6:.2f}",
        str(ours.epochs),
        "-" if rate is None else f"{rate:.0f}" if rate >= 100 else f"{rate:.1f}",
        f"{100 * ours.padded_share:.1f}",
    )


def _giga(multiply_adds: int) -> str:
    """In 10^9; two significant digits for tiny networks."""
    g = multiply_adds / 1e9
    return f"{g:.2f}" if g >= 0.1 else f"{g:.2g}"


def _mean(mean: float, spread: float | None) -> str:
    return f"{mean:.1f}" if spread is None else f"{mean:.1f} ±{spread:.1f}"


def difference_cells(difference: Difference) -> tuple[str, ...]:
    """A difference's cells under `DIFFERENCE_HEADINGS`."""
    claim = difference.claim
    return claim.words, f"{claim.points:+.1f}", *_points(difference.interval), difference.verdict


def state_lines(data_set: DataSet) -> Iterator[str]:
    """Lines on the states of single runs."""
    for run in data_set.runs:
        if run.state == "done" and run.problem is None:
            continue
        line = f"{one_line(run.path)} (seed {run.record.config.seed}): {run.state}"
        line += f", {one_line(run.problem)}" if run.problem else ""
        yield line + (f"; next: `{printable(run.next_command)}`" if run.next_command else "")


def remark_lines(section: Section, group: GroupTables) -> list[str]:
    """Lines on tested runs that a group's tables leave out, and on missing intervals."""
    there = set() if section.data_set is None else {run.path for run in section.data_set.runs}
    otherwise = [
        f"{one_line(run.path)}: {run.state}, {one_line(run.problem or '')}"
        for run in group.runs
        if run.path not in there
    ]
    remarks = {difference.remark for table in group.tables for difference in table.differences}
    return [*otherwise, *sorted(remark for remark in remarks if remark is not None)]


def broken_lines(report: Report) -> list[str]:
    """Lines on the folders that cannot be read."""
    return [f"{one_line(run.path)}: {one_line(run.problem)}" for run in report.broken]


def one_line(text: str) -> str:
    """Text on one line, as a terminal can show it."""
    return " ".join("".join(c if c.isprintable() else " " for c in printable(text)).split())
