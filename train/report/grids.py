"""The report's tables as text, for the formats that people read."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from resact.cache.layout import printable
from resact.train.report.figures import Figures
from resact.train.report.intervals import Interval
from resact.train.report.paired import Comparison
from resact.train.report.report import Difference, Table, TableRow
from resact.train.report.side_by_side import DataSet, Entry

INTERVAL = "95 % interval"
_SPEED = ("clips /s", "pad. %")
_RUN_HEADINGS = ("run", "network", "input", "top-1", INTERVAL, "mean class", "top-5", "G", "M par.", "ep.")
_COMPARISON_HEADINGS = ("first", "second", "points", INTERVAL, "p", "only 1st right", "only 2nd right", "first is")
_ROW_HEADINGS = (
    "row", "top-1 paper", "top-5 paper", "G paper", "top-1 ours", "top-5 ours", "G ours", "M par.", "ep.", *_SPEED,
)  # fmt: skip
_CLAIM_HEADINGS = ("claim of the paper", "paper", "ours", INTERVAL, "verdict")


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A table whose first column names its rows."""

    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: Sequence[int] = (0,)
    """Columns that are words, not numbers."""


def runs_grid(data_set: DataSet, *, wide: bool) -> Grid:
    """The runs side by side; a wide table also has their speed, and their settings if these differ."""
    apart = any(entry.apart for entry in data_set.entries)
    more = (*_SPEED, *(["settings"] if apart else [])) if wide else ()
    headings = (*_RUN_HEADINGS, *more)
    rows = [_entry_cells(entry)[: len(headings)] for entry in data_set.entries]
    texts = (0, 1, 2, len(_RUN_HEADINGS) + len(_SPEED))
    return Grid(caption="Runs side by side", headings=headings, rows=rows, texts=texts)


def comparisons_grid(comparisons: Iterable[Comparison]) -> Grid:
    """Pairs of runs compared, a row each."""
    caption = "Pairs of runs, on the same test videos: the first minus the second"
    rows = [_comparison_cells(comparison) for comparison in comparisons]
    return Grid(caption=caption, headings=_COMPARISON_HEADINGS, rows=rows, texts=(0, 1, 7))


def paper_grids(table: Table, heading: str) -> tuple[Grid, Grid]:
    """One of the paper's tables, with the group's heading in its caption; and the claims drawn from it."""
    caption = f"{table.title[0].upper()}{table.title[1:]}; {one_line(heading)}"
    claims = f"What table {table.number} says about the paper's claims"
    differences = [_difference_cells(difference) for difference in table.differences]
    return (
        Grid(caption=caption, headings=_ROW_HEADINGS, rows=[_row_cells(row) for row in table.rows]),
        Grid(caption=claims, headings=_CLAIM_HEADINGS, rows=differences, texts=(0, 4)),
    )


def _row_cells(row: TableRow) -> tuple[str, ...]:
    paper, paper_g = row.paper, row.paper.variant.paper_g
    published = f"{paper.top1:.1f}", f"{paper.top5:.1f}", "-" if paper_g is None else str(paper_g)
    state = row.runs[0].state if row.runs else "not run"
    return paper.key.label, *published, *_figure_cells(row.ours, state)


def _entry_cells(entry: Entry) -> tuple[str, ...]:
    figures, interval, key, cost = entry.figures, entry.accuracy, entry.key, entry.runs[0].cost
    top1, top5, g, parameters, epochs, *speed = _figure_cells(figures, entry.state)
    if figures is None:
        g, parameters = _giga(cost.multiply_adds), f"{cost.parameters / 1e6:.2f}"
        epochs = f"{entry.runs[0].epoch}"
    limits = "-" if interval is None or interval.low is None else f"{interval.low:.1f}-{interval.high:.1f}"
    mean_class = "-" if entry.mean_class is None else f"{entry.mean_class:.1f}"
    names = one_line(entry.name), key.network_label, key.input_label
    return *names, top1, limits, mean_class, top5, g, parameters, epochs, *speed, one_line(entry.apart) or "-"


def _comparison_cells(comparison: Comparison) -> tuple[str, ...]:
    return (
        one_line(comparison.first),
        one_line(comparison.second),
        *_points(comparison.interval),
        "< 0.001" if comparison.p < 0.001 else f"{comparison.p:.3f}",
        f"{len(comparison.only_first):,}",
        f"{len(comparison.only_second):,}",
        comparison.verdict,
    )


def _difference_cells(difference: Difference) -> tuple[str, ...]:
    claim = difference.claim
    return claim.words, f"{claim.points:+.1f}", *_points(difference.interval), difference.verdict


def _points(interval: Interval | None) -> tuple[str, str]:
    """A difference and its limits."""
    if interval is None:
        return "-", "-"
    limits = "-" if interval.low is None else f"{interval.low:+.1f} to {interval.high:+.1f}"
    return f"{interval.mean:+.1f}", limits


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


def one_line(text: str) -> str:
    """Text on one line, as a terminal can show it."""
    return " ".join("".join(c if c.isprintable() else " " for c in printable(text)).split())
