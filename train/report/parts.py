"""The report in parts: words, tables and lines, for the formats that people read."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from resact.cache.layout import printable
from resact.cache.names import as_option
from resact.train.report.commands import runs_option
from resact.train.report.grids import Grid, comparisons_grid, one_line, paper_grids, runs_grid
from resact.train.report.paired import Comparison
from resact.train.report.paper import DATASET
from resact.train.report.report import GroupTables, Report, Section
from resact.train.report.side_by_side import MOST_PAIRED, DataSet

LEGEND = (
    "top-1, top-5: percent of test videos, 10 clips each, last epoch's weights; mean ± standard deviation over seeds. "
    "95 % interval: for top-1 or for a difference in points, by groups of test videos; it covers the choice of test "
    "videos, not the randomness of training. "
    "mean class: mean of the classes' top-1. G: 10^9 multiply-adds per clip. M par.: million parameters. ep.: epochs. "
    "pad.: training clips that are longer than their video. p: from a paired test of two runs on the same videos."
)

_NAMED = 5  # classes, confusions or videos in words


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of a chapter: its words, notes, tables, lines and commands, in this order."""

    heading: str = ""
    words: str = ""
    notes: Sequence[str] = ()
    grids: Sequence[Grid] = ()
    lines: Sequence[str] = ()
    commands_words: str = ""
    commands: Mapping[str, str] = field(default_factory=dict)
    """What is run -> the command for it."""
    data_set: DataSet | None = None
    """The runs that it compares, of which each format says more in its own way."""


def report_title(report: Report) -> str:
    """The report's title."""
    if report.has_tables:
        return "Residual frames: the paper's tables, and ours"
    data_sets = dict.fromkeys(section.group.dataset for section in report.sections)
    return f"Runs on {', '.join(map(one_line, data_sets))}"


def asked_chapters(report: Report) -> Iterator[tuple[str, list[Part]]]:
    """Heading and parts of the comparison that was asked for, if there is one."""
    if report.comparison is not None:
        part = Part(grids=[comparisons_grid([report.comparison])], lines=list(_comparison_lines(report.comparison)))
        yield "Requested comparison", [part]


def chapters(report: Report, *, wide: bool = True) -> Iterator[tuple[str, list[Part]]]:
    """Heading and parts of a chapter per data set, and of one on the folders that cannot be read.

    Args:
        report: the report.
        wide: whether there is room for wide tables; if not, what they leave out is in the lines.
    """
    for section in report.sections:
        parts = [_group_part(section, group) for group in section.tables]
        if section.data_set is not None:
            runs = _runs_part(section, section.data_set, report.runs, wide=wide)
            parts = [*parts, runs] if section.begins_with_tables else [runs, *parts]
        yield one_line(section.group.heading), parts
    if report.broken:
        broken = [f"{one_line(run.path)}: {one_line(run.problem)}" for run in report.broken]
        yield "Folders that cannot be read", [Part(lines=broken)]


def _runs_part(section: Section, data_set: DataSet, runs: Path, *, wide: bool) -> Part:
    grids = [runs_grid(data_set, wide=wide)]
    if data_set.comparisons:
        grids.append(comparisons_grid(data_set.comparisons))
    apart = [f"{one_line(entry.name)}: {one_line(entry.apart)}" for entry in data_set.entries if entry.apart]
    settings = data_set.settings and f"Settings: {data_set.settings}"
    return Part(
        words=one_line(". ".join(filter(None, (data_set.videos, settings)))),
        notes=[f"note: {one_line(note)}" for note in data_set.notes],
        grids=grids,
        lines=[
            *([] if wide else apart),
            *_state_lines(data_set),
            *_pair_hint(data_set, runs),
            *_other_runs_line(section, data_set),
        ],
        data_set=data_set,
    )


def _group_part(section: Section, group: GroupTables) -> Part:
    evaluate, commands = printable(group.filling.evaluate_command), group.commands
    if group.is_empty:
        commands = {"all of them, one after the other": group.filling.reproduce_command} | commands
    return Part(
        heading="The paper's tables, and ours",
        words=one_line(group.group.words),
        grids=[grid for table in group.tables for grid in paper_grids(table, group.group.heading)],
        lines=_remark_lines(section, group),
        commands_words=f"Commands for the rows that are not run, each followed by `{evaluate}`",
        commands={label: printable(command) for label, command in commands.items()},
    )


def _comparison_lines(comparison: Comparison) -> Iterator[str]:
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


def _pair_hint(data_set: DataSet, runs: Path) -> Iterator[str]:
    """How to compare two of many runs, if not all pairs are compared."""
    done = [entry for entry in data_set.entries if entry.done]
    if len(done) > MOST_PAIRED:
        names = [",".join(as_option(run.folder.name) for run in entry.done) for entry in done[:2]]
        command = shlex.join(["resact", "report", *runs_option(runs), "--compare", *names])
        yield f"`{printable(command)}` tests the difference of two."


def _other_runs_line(section: Section, data_set: DataSet) -> Iterator[str]:
    """The runs on the paper's data set that fill no row of its tables."""
    filling = {run.path for group in section.groups for run in group.runs}
    others = [
        one_line(run.folder.name + ("" if (initial := run.group.initial) is None else f" (fine-tuned from {initial})"))
        for run in data_set.runs
        if run.path not in filling
    ]
    if others and data_set.group.dataset == DATASET:
        yield f"other runs, which fill no row of the paper: {', '.join(others)}"


def _state_lines(data_set: DataSet) -> Iterator[str]:
    """Lines on the states of single runs."""
    for run in data_set.runs:
        if run.state == "done" and run.problem is None:
            continue
        line = f"{one_line(run.path)} (seed {run.record.config.seed}): {run.state}"
        line += f", {one_line(run.problem)}" if run.problem else ""
        yield line + (f"; next: `{printable(run.next_command)}`" if run.next_command else "")


def _remark_lines(section: Section, group: GroupTables) -> list[str]:
    """Lines on tested runs that a group's tables leave out, and on missing intervals."""
    there = set() if section.data_set is None else {run.path for run in section.data_set.runs}
    otherwise = [
        f"{one_line(run.path)}: {run.state}, {one_line(run.problem or '')}"
        for run in group.runs
        if run.path not in there
    ]
    remarks = {difference.remark for table in group.tables for difference in table.differences}
    return [*otherwise, *sorted(remark for remark in remarks if remark is not None)]
