"""The report on a terminal, 80 columns wide or more."""

from collections.abc import Iterable, Sequence
from textwrap import fill, indent

from rich.box import SIMPLE
from rich.console import Console, JustifyMethod
from rich.table import Table as Grid
from rich.text import Text

from resact.cache.layout import printable
from resact.train.report.cells import (
    COMPARISON_HEADINGS,
    DIFFERENCE_HEADINGS,
    LEGEND,
    ROW_HEADINGS,
    RUN_HEADINGS,
    broken_lines,
    comparison_cells,
    comparison_lines,
    difference_cells,
    entry_cells,
    hint_lines,
    one_line,
    remark_lines,
    row_cells,
    state_lines,
)
from resact.train.report.report import GroupTables, Report, Section
from resact.train.report.side_by_side import DataSet

_TALL = {*ROW_HEADINGS, *RUN_HEADINGS, *COMPARISON_HEADINGS} - {DIFFERENCE_HEADINGS[3]}
"""Headings with one word per line, for narrow columns."""
_COLOURS = {"confirmed": "green", "refuted": "red", "better": "green", "worse": "red"}


def print_report(report: Report, console: Console) -> None:
    """Print the report. Commands are never wrapped, so that they can be copied."""
    for note in report.notes:
        _say(console, f"note: {one_line(note)}")
    for section in report.sections:
        _print_section(section, report, console)
    if report.broken:
        _say(console, "folders that cannot be read", style="bold")
        for line in broken_lines(report):
            _say(console, line)
        console.print()
    if report.comparison is not None:  # last, so that it is still on the screen
        _say(console, "requested comparison: two runs on the same test videos", style="bold")
        console.print(
            _grid(COMPARISON_HEADINGS, [comparison_cells(report.comparison)], texts=(0, 1, 7)), soft_wrap=False
        )
        for line in comparison_lines(report.comparison):
            _say(console, line)
        console.print()
    _say(console, LEGEND)


def _print_section(section: Section, report: Report, console: Console) -> None:
    if section.begins_with_tables:
        for group in section.tables:
            _print_group(section, group, console)
    if section.data_set is not None:
        _print_runs(section, section.data_set, report, console)
    if not section.begins_with_tables:
        for group in section.tables:
            _print_group(section, group, console)


def _print_runs(section: Section, data_set: DataSet, report: Report, console: Console) -> None:
    _say(console, f"runs side by side; {one_line(data_set.heading)}", style="bold")
    for line in (data_set.videos, data_set.settings):
        if line:
            _say(console, one_line(line))
    for note in data_set.notes:
        _say(console, f"note: {one_line(note)}")
    console.print()
    count = len(RUN_HEADINGS)
    rows = [entry_cells(entry)[:count] for entry in data_set.entries]
    console.print(_grid(RUN_HEADINGS, rows, texts=(0, 1, 2)), soft_wrap=False)
    for entry in data_set.entries:
        if entry.apart:
            _say(console, f"{one_line(entry.name)}: {one_line(entry.apart)}")
    if data_set.comparisons:
        console.print()
        rows = [comparison_cells(comparison) for comparison in data_set.comparisons]
        console.print(_grid(COMPARISON_HEADINGS, rows, texts=(0, 1, 7)), soft_wrap=False)
    console.print()
    from resact.train.report.details import described  # loads torch, which takes seconds

    for name, lines in described(data_set):
        _say(console, name)
        for line in lines:
            _say(console, indent(fill(line, max(1, console.width - 2)), "  "))
    for line in state_lines(data_set):
        console.print(line)
    for hint in hint_lines(section, report.runs):
        _say(console, hint)
    console.print()


def _print_group(section: Section, group: GroupTables, console: Console) -> None:
    _say(console, one_line(group.group.heading), style="bold")
    _say(console, one_line(group.words))
    for table in group.tables:
        console.print()
        _say(console, f"{table.title}; {one_line(group.group.heading)}", style="bold")
        console.print(_grid(ROW_HEADINGS, map(row_cells, table.rows), texts=(0,)), soft_wrap=False)
        console.print()
        console.print(
            _grid(DIFFERENCE_HEADINGS, map(difference_cells, table.differences), texts=(0, 4)), soft_wrap=False
        )
    for line in remark_lines(section, group):
        console.print(line)
    _print_commands(group, console)


def _print_commands(group: GroupTables, console: Console) -> None:
    if not group.commands:
        console.print()
        return
    filling = group.filling
    _say(console, f"Commands for the rows that are not run, each followed by `{printable(filling.evaluate_command)}`:")
    if group.is_empty:
        console.print(f"(all of them, one after the other: `{printable(filling.reproduce_command)}`)")
    for label, command in group.commands.items():
        _say(console, f"{label}:")
        console.print(f"  {printable(command)}")
    console.print()


def _grid(headings: Sequence[str], rows: Iterable[tuple[str, ...]], *, texts: Sequence[int]) -> Grid:
    """A table; `texts` are the columns that are not numbers."""
    grid = Grid(box=SIMPLE, collapse_padding=True, pad_edge=False, show_edge=False, padding=0)
    for number, heading in enumerate(headings):
        justify: JustifyMethod = "left" if number in texts else "right"
        grid.add_column(heading.replace(" ", "\n") if heading in _TALL else heading, justify=justify, overflow="fold")
    for cells in rows:
        grid.add_row(*(Text(cell, style=_COLOURS.get(cell, "")) for cell in cells))
    return grid


def _say(console: Console, text: str, style: str | None = None) -> None:
    console.print(text, style=style, soft_wrap=False)
