"""The report on a terminal, 80 columns wide or more."""

from collections.abc import Iterable, Sequence

from rich.box import SIMPLE
from rich.console import Console, JustifyMethod
from rich.table import Table as Grid
from rich.text import Text

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
from resact.train.report.report import GroupTables, Report

_TALL = {*ROW_HEADINGS, *OTHER_HEADINGS}  # one word a line, for narrow columns
_COLOURS = {"confirmed": "green", "refuted": "red"}


def print_report(report: Report, console: Console) -> None:
    """All of it. Commands are never broken, so that they can be copied."""
    for note in report.notes:
        _say(console, f"note: {one_line(note)}")
    for group in report.groups:
        _print_group(group, console)
    if report.other_runs:
        _say(console, "other runs, which fill no row of the paper", style="bold")
        console.print(_grid(OTHER_HEADINGS, map(other_cells, report.other_runs), texts=(0, 1)), soft_wrap=False)
        for other in report.other_runs:
            _say(console, other_line(other))
        console.print()
    if report.broken:
        _say(console, "folders that cannot be read", style="bold")
        for line in broken_lines(report):
            _say(console, line)
        console.print()
    _say(console, LEGEND)


def _print_group(group: GroupTables, console: Console) -> None:
    _say(console, one_line(group.group.heading), style="bold")
    _say(console, one_line(group.words))
    for note in group.notes:
        _say(console, f"note: {note}")
    for table in group.tables:
        console.print()
        _say(console, f"{table.title}; {one_line(group.group.heading)}", style="bold")
        console.print(_grid(ROW_HEADINGS, map(row_cells, table.rows), texts=(0,)), soft_wrap=False)
        console.print()
        console.print(
            _grid(DIFFERENCE_HEADINGS, map(difference_cells, table.differences), texts=(0, 4)), soft_wrap=False
        )
    for line in state_lines(group):
        console.print(line)
    _print_commands(group, console)


def _print_commands(group: GroupTables, console: Console) -> None:
    if not group.commands:
        console.print()
        return
    filling = group.filling
    _say(console, f"What fills a row that is not run, each followed by `{printable(filling.evaluate_command)}`:")
    if group.is_empty:
        console.print(f"(all of them, one after the other: `{printable(filling.reproduce_command)}`)")
    if text := filling.file_text:
        _say(console, "with a file settings.toml that says")
        console.print("".join(f"    {line}\n" for line in text.splitlines()), end="")
    for label, command in group.commands.items():
        _say(console, f"{label}:")
        console.print(f"  {printable(command)}")
    console.print()


def _grid(headings: Sequence[str], rows: Iterable[tuple[str, ...]], *, texts: Sequence[int]) -> Grid:
    """Args: texts: columns that are no numbers."""
    grid = Grid(box=SIMPLE, collapse_padding=True, pad_edge=False, show_edge=False, padding=0)
    for number, heading in enumerate(headings):
        justify: JustifyMethod = "left" if number in texts else "right"
        grid.add_column(heading.replace(" ", "\n") if heading in _TALL else heading, justify=justify, overflow="fold")
    for cells in rows:
        grid.add_row(*(Text(cell, style=_COLOURS.get(cell, "")) for cell in cells))
    return grid


def _say(console: Console, text: str, style: str | None = None) -> None:
    console.print(text, style=style, soft_wrap=False)
