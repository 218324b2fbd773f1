"""The table printer of all benchmarks."""

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Column, Table


def print_table(
    console: Console,
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    title: str | None = None,
    caption: str | None = None,
    footer: Sequence[str] | None = None,
) -> None:
    """Print a table of figures: the first column has names, the others numbers.

    Args:
        console: where to print.
        headings: headings of the columns.
        rows: one text per column.
        title: title above the table.
        caption: caption below the table.
        footer: a last row for totals.
    """
    foot = footer or [""] * len(headings)
    columns = [
        Column(heading, footer=total, justify="right" if number else "left", no_wrap=number > 0)
        for number, (heading, total) in enumerate(zip(headings, foot, strict=True))
    ]
    table = Table(
        *columns, title=title, caption=caption, show_footer=footer is not None, box=None, padding=(0, 1, 0, 0)
    )
    for row in rows:
        table.add_row(*row)
    console.print(table, soft_wrap=False)
