"""What a report's cells and lines say, for the formats that people read."""

from collections.abc import Iterator

from resact.cache.layout import printable
from resact.train.report.report import Difference, Figures, GroupTables, OtherRun, Report, TableRow

ROW_HEADINGS = (
    "row",
    "top-1 paper",
    "top-5 paper",
    "G paper",
    "top-1 ours",
    "top-5 ours",
    "G ours",
    "M par.",
    "ep.",
    "clips /s",
    "pad. %",
)
OTHER_HEADINGS = ("run", "is", *ROW_HEADINGS[4:])
DIFFERENCE_HEADINGS = ("claim of the paper", "paper", "ours", "95 % interval", "verdict")

LEGEND = (
    "top-1, top-5: percent of test videos, 10 clips each, last epoch's weights; mean ± standard deviation over seeds. "
    "G: 10^9 multiply-adds a clip. ep.: epochs. pad.: training clips that are longer than their video. "
    "Differences: points of top-1, by a paired bootstrap over the groups of test videos; of videos, not of trainings."
)


def row_cells(row: TableRow) -> tuple[str, ...]:
    """Under `ROW_HEADINGS`."""
    paper, paper_g = row.paper, row.paper.variant.paper_g
    published = f"{paper.top1:.1f}", f"{paper.top5:.1f}", "-" if paper_g is None else str(paper_g)
    state = row.runs[0].state if row.runs else "not run"
    return paper.key.label, *published, *_figure_cells(row.ours, state)


def other_cells(other: OtherRun) -> tuple[str, ...]:
    """Under `OTHER_HEADINGS`."""
    return one_line(other.run.path), other.run.key.label, *_figure_cells(other.ours, other.run.state)


def _figure_cells(ours: Figures | None, state: str) -> tuple[str, ...]:
    if ours is None:
        return state, *["-"] * 6
    rate = ours.clips_per_second
    return (
        _mean(ours.top1, ours.top1_spread),
        "-" if ours.top5 is None else _mean(ours.top5, ours.top5_spread),
        f"{ours.g:.2f}",
        f"{ours.parameters / 1e6:.2f}",
        str(ours.epochs),
        "-" if rate is None else f"{rate:.0f}" if rate >= 100 else f"{rate:.1f}",
        f"{100 * ours.padded_share:.1f}",
    )


def _mean(mean: float, spread: float | None) -> str:
    return f"{mean:.1f}" if spread is None else f"{mean:.1f} ±{spread:.1f}"


def difference_cells(difference: Difference) -> tuple[str, ...]:
    """Under `DIFFERENCE_HEADINGS`."""
    interval = difference.interval
    ours = "-" if interval is None else f"{interval.mean:+.1f}"
    known = interval is not None and interval.low is not None
    limits = f"{interval.low:+.1f} to {interval.high:+.1f}" if known and interval is not None else "-"
    return difference.claim.words, f"{difference.claim.points:+.1f}", ours, limits, difference.verdict


def state_lines(group: GroupTables) -> Iterator[str]:
    """What there is to say of single runs, and of intervals that could not be."""
    for run in group.runs:
        if run.state == "done" and run.problem is None:
            continue
        line = f"{one_line(run.path)} (seed {run.record.config.seed}): {run.state}"
        line += f", {one_line(run.problem)}" if run.problem else ""
        yield line + (f"; next: `{printable(run.next_command)}`" if run.next_command else "")
    remarks = {difference.remark for table in group.tables for difference in table.differences}
    yield from sorted(remark for remark in remarks if remark is not None)


def other_line(other: OtherRun) -> str:
    """What another run is of."""
    words = filter(None, (other.run.group.heading, other.words, other.run.note))
    return one_line(f"{other.run.path}: {'; '.join(words)}")


def broken_lines(report: Report) -> list[str]:
    """The folders that no table can have."""
    return [f"{one_line(run.path)}: {one_line(run.problem)}" for run in report.broken]


def one_line(text: str) -> str:
    """As a terminal can show it, on one line."""
    return " ".join("".join(c if c.isprintable() else " " for c in printable(text)).split())
