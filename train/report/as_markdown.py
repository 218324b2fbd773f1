"""The report as Markdown with pipe tables, for example for a code-hosting site."""

from collections.abc import Iterable, Iterator, Sequence

from resact.train.report.grids import Grid, one_line
from resact.train.report.parts import LEGEND, Part, asked_chapters, chapters, report_title
from resact.train.report.report import Report


def markdown(report: Report) -> str:
    """The complete report."""
    lines = [f"# {_escaped(report_title(report))}", "", LEGEND, *_listed(f"note: {note}" for note in report.notes)]
    for heading, parts in (*asked_chapters(report), *chapters(report)):
        lines += ["", f"## {_escaped(heading)}"]
        lines += [line for part in parts for line in _part(part)]
    return "\n".join(lines) + "\n"


def _part(part: Part) -> Iterator[str]:
    if part.heading:
        yield from ("", f"### {part.heading}")
    if part.words:
        yield from ("", _escaped(part.words))
    yield from _listed(part.notes)
    for grid in part.grids:
        yield from _table(grid)
    yield from _listed(part.lines)
    if part.data_set is not None:
        from resact.train.report.details import described  # loads torch, which takes seconds

        yield from _listed(f"{name}: {'; '.join(lines)}" for name, lines in described(part.data_set))
    if part.commands:
        commands = [line for label, command in part.commands.items() for line in (f"# {label}", command)]
        yield from ("", f"{part.commands_words}:", "", "```bash", *commands, "```")


def _listed(lines: Iterable[str]) -> list[str]:
    items = [f"- {_escaped(line)}" for line in lines]
    return ["", *items] if items else []


def _table(grid: Grid) -> Iterator[str]:
    yield from ("", f"**{_escaped(grid.caption)}**", "", _row(grid.headings), _row(["---"] * len(grid.headings)))
    yield from map(_row, grid.rows)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(_escaped, cells)) + " |"


def _escaped(text: str) -> str:
    """On one line, without markup: names of folders and data sets may have any character."""
    return one_line(text).replace("\\", "\\\\").replace("|", "\\|")
