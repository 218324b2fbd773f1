"""The report as Markdown with pipe tables, such as for a page on a forge."""

from collections.abc import Iterable, Iterator, Sequence

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
from resact.train.report.commands import SETTINGS_FILE
from resact.train.report.report import GroupTables, Report


def markdown(report: Report) -> str:
    """All of it."""
    lines = ["# The paper's tables, and ours", "", LEGEND, ""]
    lines += [f"- note: {_escaped(note)}" for note in report.notes]
    for group in report.groups:
        lines += _group_lines(group)
    if report.other_runs:
        lines += ["", "## Other runs, which fill no row of the paper", ""]
        lines += _table_lines(OTHER_HEADINGS, map(other_cells, report.other_runs))
        lines += [""]
        lines += [f"- {_escaped(other_line(other))}" for other in report.other_runs]
    if report.broken:
        lines += ["", "## Folders that cannot be read", ""]
        lines += [f"- {_escaped(line)}" for line in broken_lines(report)]
    return "\n".join(lines) + "\n"


def _group_lines(group: GroupTables) -> Iterator[str]:
    heading = _escaped(group.group.heading)
    yield from ("", f"## {heading}", "", _escaped(group.words))
    for note in group.notes:
        yield from ("", f"Note: {_escaped(note)}.")
    for table in group.tables:
        yield from ("", f"### {table.title[0].upper()}{table.title[1:]}; {heading}", "")
        yield from _table_lines(ROW_HEADINGS, map(row_cells, table.rows))
        yield ""
        yield from _table_lines(DIFFERENCE_HEADINGS, map(difference_cells, table.differences))
    if states := list(state_lines(group)):
        yield ""
        yield from (f"- {_escaped(line)}" for line in states)
    if group.commands:
        filling = group.filling
        yield from ("", f"What fills a row that is not run, each followed by `{printable(filling.evaluate_command)}`:")
        yield from ("", "```bash")
        if group.is_empty:
            yield f"# all of them, one after the other: {printable(filling.reproduce_command)}"
        yield from (f"# {SETTINGS_FILE}: {line}" for line in filling.file_text.splitlines())
        for label, command in group.commands.items():
            yield from (f"# {label}", printable(command))
        yield "```"


def _table_lines(headings: Sequence[str], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield _table_line(headings)
    yield _table_line(["---"] * len(headings))
    yield from map(_table_line, rows)


def _table_line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(_escaped, cells)) + " |"


def _escaped(text: str) -> str:
    """As it stands, on one line: names of folders and data sets may have any character."""
    return one_line(text).replace("\\", "\\\\").replace("|", "\\|")
