"""The report on a terminal, 80 columns wide or more."""

from textwrap import fill, indent

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from resact.train.report.grids import INTERVAL, Grid, one_line
from resact.train.report.parts import LEGEND, Part, asked_chapters, chapters
from resact.train.report.report import Report

_COLOURS = {"confirmed": "green", "refuted": "red", "better": "green", "worse": "red"}


def print_report(report: Report, console: Console) -> None:
    """Print the report. Commands are never wrapped, so that they can be copied."""
    for note in report.notes:
        _say(console, f"note: {one_line(note)}")
    for heading, parts in (*chapters(report, wide=False), *asked_chapters(report)):  # the last is still on the screen
        _say(console, heading, style="bold")
        for part in parts:
            _print_part(part, console)
            console.print()
    _say(console, LEGEND)


def _print_part(part: Part, console: Console) -> None:
    if part.heading:
        _say(console, part.heading, style="bold")
    for text in filter(None, (part.words, *part.notes)):
        _say(console, text)
    for grid in part.grids:
        console.print()
        _say(console, grid.caption, style="bold")
        console.print(_table(grid), soft_wrap=False)
    if part.grids:
        console.print()
    for line in part.lines:
        if "`" in line:  # a command
            console.print(line)
        else:
            _say(console, line)
    if part.data_set is not None:
        from resact.train.report.details import described  # loads torch, which takes seconds

        for name, lines in described(part.data_set):
            _say(console, name)
            for line in lines:
                _say(console, indent(fill(line, max(1, console.width - 2)), "  "))
    if part.commands:
        _say(console, f"{part.commands_words}:")
    for label, command in part.commands.items():
        _say(console, f"{label}:")
        console.print(f"  {command}")


def _table(grid: Grid) -> Table:
    table = Table(box=SIMPLE, collapse_padding=True, pad_edge=False, show_edge=False, padding=0)
    for number, heading in enumerate(grid.headings):
        text = number in grid.texts
        tall = heading if text or heading == INTERVAL else heading.replace(" ", "\n")  # for a narrow column
        table.add_column(tall, justify="left" if text else "right", overflow="fold")
    for cells in grid.rows:
        table.add_row(*(Text(cell, style=_COLOURS.get(cell, "")) for cell in cells))
    return table


def _say(console: Console, text: str, style: str | None = None) -> None:
    console.print(text, style=style, soft_wrap=False)
