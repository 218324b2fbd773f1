"""How all benchmarks compare: competitors take turns, and their figures become ratios, a result and a table."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from statistics import median
from typing import Any, TypeVar

from rich.console import Console
from rich.table import Table

from resact.cache.provenance import provenance

Competitor = TypeVar("Competitor")
Row = dict[str, Any]


def take_turns(competitors: Sequence[Competitor], rounds: int) -> Iterator[tuple[int, Competitor]]:
    """Yields the number of the round, from 0, and the competitor whose turn it is.

    A machine's speed drifts, so competitors are not measured one after the other. In each round every competitor runs
    once, each round starts with a different one, and ratios are computed per round.
    """
    for number in range(rounds):
        first = number % max(1, len(competitors))
        for competitor in (*competitors[first:], *competitors[:first]):
            yield number, competitor


def spread(name: str, values: Sequence[float]) -> dict[str, float]:
    """Median, smallest and largest value, as `name`, `name_min` and `name_max`."""
    return {name: median(values), f"{name}_min": min(values), f"{name}_max": max(values)}


def ratios(name: str, ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """The `spread` of the ratios of rates in the same rounds."""
    return spread(name, [our / their for our, their in zip(ours, theirs, strict=True)])


def result_of(benchmark: str, **figures: Any) -> dict[str, Any]:
    """The JSON object of a benchmark: its `figures`, and the machine, versions and commit."""
    return {"benchmark": benchmark, **figures, **provenance()}


def print_rows(
    console: Console,
    rows: Iterable[Row],
    columns: Mapping[str, str | Callable[[Row], str]],
    *,
    title: str | None = None,
    caption: str | None = None,
    footer: Row | None = None,
) -> None:
    """Print a table of figures: the first column has names, the others numbers.

    Args:
        console: where to print.
        rows: of a result.
        columns: heading -> text of a row there, as a format string of its figures or a function.
        title: title above the table.
        caption: caption below the table.
        footer: a last row for totals.
    """

    def texts(row: Row) -> list[str]:
        return [text.format(**row) if isinstance(text, str) else text(row) for text in columns.values()]

    table = Table(title=title, caption=caption, show_footer=footer is not None, box=None, padding=(0, 1, 0, 0))
    totals = texts(footer) if footer is not None else [""] * len(columns)
    for number, (heading, total) in enumerate(zip(columns, totals, strict=True)):
        table.add_column(heading, total, justify="right" if number else "left", no_wrap=number > 0)
    for row in rows:
        table.add_row(*texts(row))
    console.print(table, soft_wrap=False)
