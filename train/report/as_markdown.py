"""The report as Markdown with pipe tables, for example for a code-hosting site."""

from collections.abc import Iterable, Iterator, Sequence

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
)
from resact.train.report.report import GroupTables, Report, Section
from resact.train.report.side_by_side import DataSet


def markdown(report: Report) -> str:
    """The complete report."""
    lines = [f"# {_escaped(report_title(report))}", "", LEGEND, ""]
    lines += [f"- note: {_escaped(note)}" for note in report.notes]
    if report.comparison is not None:
        lines += ["", "## Requested comparison: two runs on the same test videos", ""]
        lines += _table_lines(COMPARISON_HEADINGS, [comparison_cells(report.comparison)])
        lines += ["", *_list_lines(comparison_lines(report.comparison))]
    for section in report.sections:
        lines += ["", f"## {_escaped(section.heading)}"]
        parts = [line for group in section.tables for line in _group_lines(section, group)]
        runs = [] if section.data_set is None else _run_lines(section, section.data_set, report)
        lines += [*parts, *runs] if section.begins_with_tables else [*runs, *parts]
    if report.broken:
        lines += ["", "## Folders that cannot be read", ""]
        lines += _list_lines(broken_lines(report))
    return "\n".join(lines) + "\n"


def _run_lines(section: Section, data_set: DataSet, report: Report) -> Iterator[str]:
    from resact.train.report.details import described  # loads torch, which takes seconds

    yield from ("", "### Runs side by side", "")
    yield ". ".join(_escaped(words) for words in (data_set.videos, data_set.settings) if words)
    for note in data_set.notes:
        yield from ("", f"Note: {_escaped(note)}.")
    yield ""
    apart = any(entry.apart for entry in data_set.entries)
    headings = (*RUN_HEADINGS, *SPEED_HEADINGS, *(["settings"] if apart else []))
    yield from _table_lines(headings, (entry_cells(entry, settings=apart) for entry in data_set.entries))
    if data_set.comparisons:
        yield ""
        yield from _table_lines(COMPARISON_HEADINGS, map(comparison_cells, data_set.comparisons))
    words = [f"{name}: {'; '.join(lines)}" for name, lines in described(data_set)]
    if lines := list(_list_lines([*words, *state_lines(data_set), *hint_lines(section, report.runs)])):
        yield from ("", *lines)


def _group_lines(section: Section, group: GroupTables) -> Iterator[str]:
    heading = _escaped(group.group.heading)
    yield from ("", _escaped(group.words))
    for table in group.tables:
        yield from ("", f"### {table.title[0].upper()}{table.title[1:]}; {heading}", "")
        yield from _table_lines(ROW_HEADINGS, map(row_cells, table.rows))
        yield ""
        yield from _table_lines(DIFFERENCE_HEADINGS, map(difference_cells, table.differences))
    if remarks := remark_lines(section, group):
        yield from ("", *_list_lines(remarks))
    if group.commands:
        evaluate = printable(group.filling.evaluate_command)
        yield from ("", f"Commands for the rows that are not run, each followed by `{evaluate}`:", "", "```bash")
        if group.is_empty:
            yield f"# all of them, one after the other: {printable(group.filling.reproduce_command)}"
        for label, command in group.commands.items():
            yield from (f"# {label}", printable(command))
        yield "```"


def _list_lines(lines: Iterable[str]) -> Iterator[str]:
    yield from (f"- {_escaped(line)}" for line in lines)


def _table_lines(headings: Sequence[str], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield _table_line(headings)
    yield _table_line(["---"] * len(headings))
    yield from map(_table_line, rows)


def _table_line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(_escaped, cells)) + " |"


def _escaped(text: str) -> str:
    """On one line, without markup: names of folders and data sets may have any character."""
    return one_line(text).replace("\\", "\\\\").replace("|", "\\|")
